"""Folders of sockets: ours alone, and swept where their owner is gone."""

import os
import socket
from pathlib import Path

import pytest

from proxy.engines.sockets import SocketFolder, free_port


def dead_pid() -> int:
    """One that nobody has: of a child that is buried."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_only_we_may_enter(tmp_path):
    folder = SocketFolder(tmp_path)
    folder.clear()
    assert Path(folder.socket_path).parent.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert not Path(folder.socket_path).parent.exists()


def test_nothing_is_made_before_it_is_wanted(tmp_path):
    """An engine that comes to no start leaves nothing behind."""
    SocketFolder(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_else_has_made_is_neither_taken_nor_removed(tmp_path):
    folder = SocketFolder(tmp_path)
    Path(folder.socket_path).parent.mkdir()
    with pytest.raises(FileExistsError):
        folder.clear()
    folder.remove()
    assert Path(folder.socket_path).parent.exists()


def test_an_old_socket_is_removed(tmp_path):
    folder = SocketFolder(tmp_path)
    folder.clear()
    Path(folder.socket_path).touch()
    folder.clear()
    folder.clear()
    assert not Path(folder.socket_path).exists()


def test_folders_of_those_that_are_gone_are_swept(tmp_path):
    """What others have made, and what belongs to somebody who lives, stays."""
    stale = tmp_path / f"tidegate-{dead_pid()}-x"
    kept = [tmp_path / f"tidegate-{os.getpid()}-y", tmp_path / "tidegate-notes", tmp_path / "other-1-x"]
    for folder in (stale, *kept):
        folder.mkdir()
    SocketFolder(tmp_path).remove()
    assert not stale.exists()
    assert all(folder.exists() for folder in kept)


def test_a_free_port_can_be_listened_at():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        server.listen()
