"""Folders of sockets: ours alone, and swept where their owner is gone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tidegate.engines.process.sockets import SocketFolder, free_port


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


def test_a_folder_that_was_cleared_away_is_made_anew(tmp_path):
    folder = SocketFolder(tmp_path)
    folder.clear()
    Path(folder.socket_path).parent.rmdir()
    folder.clear()
    assert Path(folder.socket_path).parent.stat().st_mode & 0o777 == 0o700


def test_folders_of_those_that_are_gone_are_swept(tmp_path):
    """What others have made, and what belongs to somebody who lives, stays."""
    own = Path("/proc/self/ns/pid").stat().st_ino
    stale = tmp_path / f"tidegate-{dead_pid()}-{own}-x"
    others = (f"tidegate-{os.getpid()}-{own}-y", f"tidegate-notes-{own}-x", "tidegate-notes", f"other-1-{own}-x")
    kept = [tmp_path / name for name in others]
    for folder in (stale, *kept):
        folder.mkdir()
    SocketFolder(tmp_path).remove()
    assert not stale.exists()
    assert all(folder.exists() for folder in kept)


def test_the_folder_of_another_container_that_shares_the_place_stays(tmp_path):
    """Its pid is of another namespace, where it may well be alive."""
    other = tmp_path / f"tidegate-{dead_pid()}-1-x"
    other.mkdir()
    SocketFolder(tmp_path).remove()
    assert other.exists()


def test_where_the_path_would_be_too_long_for_a_socket_it_is_made_elsewhere(tmp_path):
    place = tmp_path / ("d" * 100)
    place.mkdir()
    folder = SocketFolder(place)
    folder.clear()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(folder.socket_path)
    folder.remove()
    assert not Path(folder.socket_path).exists()


NOWHERE = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can be written
from tidegate.engines.process.orphans import make_mark, open_pipe
from tidegate.engines.process.sockets import SocketFolder
print(SocketFolder().socket_path)
print(len(open_pipe(make_mark("r1"))))
"""


def test_a_machine_without_a_place_for_temporary_files_can_still_serve():
    """Its own engines say what is missing when they start."""
    done = subprocess.run([sys.executable, "-B", "-c", NOWHERE], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("/tmp/tidegate-"), done.stderr
    assert done.stdout.endswith("\n2\n")


def test_a_free_port_can_be_listened_at():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        server.listen()
