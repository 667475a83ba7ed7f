"""Folders of sockets: private, and removed when their Tidegate does not run any more."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.engines.process.sockets import SocketFolder, free_port


def dead_pid() -> int:
    """A pid that no process has: that of a child that has ended."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_the_folder_is_private(tmp_path):
    folder = SocketFolder(tmp_path)
    folder.clear()
    assert Path(folder.socket_path).parent.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert not Path(folder.socket_path).parent.exists()


def test_no_folder_is_created_before_a_start(tmp_path):
    """An engine that is never started leaves no folder."""
    SocketFolder(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_program_has_created_is_neither_used_nor_removed(tmp_path):
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


def test_a_removed_folder_is_created_again(tmp_path):
    folder = SocketFolder(tmp_path)
    folder.clear()
    Path(folder.socket_path).parent.rmdir()
    folder.clear()
    assert Path(folder.socket_path).parent.stat().st_mode & 0o777 == 0o700


def test_folders_of_ended_tidegates_are_removed(tmp_path):
    """Folders of other programs, and of a running process, stay."""
    own = Path("/proc/self/ns/pid").stat().st_ino
    stale = tmp_path / f"tidegate-{dead_pid()}-{own}-x"
    others = (f"tidegate-{os.getpid()}-{own}-y", f"tidegate-notes-{own}-x", "tidegate-notes", f"other-1-{own}-x")
    kept = [tmp_path / name for name in others]
    for folder in (stale, *kept):
        folder.mkdir()
    SocketFolder(tmp_path).remove()
    assert not stale.exists()
    assert all(folder.exists() for folder in kept)


def test_the_folder_of_another_container_that_shares_the_parent_stays(tmp_path):
    """Its pid belongs to another namespace, where the process may be running."""
    other = tmp_path / f"tidegate-{dead_pid()}-1-x"
    other.mkdir()
    SocketFolder(tmp_path).remove()
    assert other.exists()


def test_a_path_that_is_too_long_for_a_socket_is_replaced(tmp_path):
    parent = tmp_path / ("d" * 100)
    parent.mkdir()
    folder = SocketFolder(parent)
    folder.clear()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(folder.socket_path)
    folder.remove()
    assert not Path(folder.socket_path).exists()


WITHOUT_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can be written
from tidegate.engines.process.orphans import make_mark, open_pipe
from tidegate.engines.process.sockets import SocketFolder
print(SocketFolder().socket_path)
print(len(open_pipe(make_mark("r1"))))
"""


def test_a_machine_without_a_folder_for_temporary_files_can_still_serve():
    """Only the start of an engine reports what is missing."""
    completed = subprocess.run([sys.executable, "-B", "-c", WITHOUT_FILES], capture_output=True, text=True, check=False)
    assert completed.stdout.startswith("/tmp/tidegate-"), completed.stderr
    assert completed.stdout.endswith("\n2\n")


def test_a_process_can_listen_on_a_free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        server.listen()
