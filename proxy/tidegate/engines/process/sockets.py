"""Where an engine listens: the folder of its socket, or a port of the loopback address.

The folder is in the system's folder for temporary files, has mode 0700, and is named after Tidegate's pid and the pid
namespace.
"""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

_PREFIX = "tidegate-"
_SOCKET = "engine.sock"
_PROC = Path("/proc")
_SHORT_FOLDER = Path("/tmp")  # noqa: S108 - a folder with mode 0700 and a name that cannot be guessed is created in it
_MAX_PATH = 103 if sys.platform == "darwin" else 107  # bytes of `sun_path`, without the terminating 0


class SocketFolder:
    """Owns the folder of one engine's socket, which only Tidegate's user may enter.

    The name is chosen at once; `clear` creates the folder, as not every engine is started.

    Args:
        parent: the folder in which it is created; None: the system's folder for temporary files. If the path of the
            socket would be longer than the system allows, /tmp is used.

    Attributes:
        socket_path: the path of the socket.
    """

    def __init__(self, parent: Path | None = None) -> None:
        name = f"{_PREFIX}{os.getpid()}-{pid_namespace()}-{secrets.token_hex(4)}"
        parent = parent or temporary_folder()
        _remove_stale(parent)
        if len(os.fsencode(parent / name / _SOCKET)) > _MAX_PATH:
            parent = _SHORT_FOLDER
            _remove_stale(parent)
        self._folder = parent / name
        self._is_created = False
        self.socket_path = str(self._folder / _SOCKET)

    def clear(self) -> None:
        """Create the folder, or remove an old socket from it; to be called before each start.

        No engine removes its socket, and no engine starts where an old one exists (`vllm.md`, section 4). The folder is
        created again if it was removed, as by a clean-up of temporary files.

        Raises:
            OSError: the folder cannot be created, or another program has created one of that name.
        """
        if not (self._is_created and self._folder.is_dir()):
            self._folder.mkdir(mode=0o700)
            self._is_created = True
        Path(self.socket_path).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with its contents; never raises."""
        if self._is_created:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._is_created = False


def temporary_folder() -> Path:
    """The system's folder for temporary files; /tmp where none is writable, so that the engine's start reports it."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return _SHORT_FOLDER


def free_port() -> int:
    """A TCP port of the loopback address on which nothing listens; another process may take it before the engine does.

    Raises:
        OSError: there is none.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pid_namespace() -> int:
    """The namespace of this process's pid, as a pid means another process in another one; 0 without `/proc`."""
    try:
        return (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _remove_stale(parent: Path) -> None:
    """Remove the folders of killed Tidegates: those of this user and pid namespace whose process does not exist.

    Containers may share `parent`, but whether a process of another pid namespace exists cannot be seen here.
    """
    for folder in parent.glob(f"{_PREFIX}*-{pid_namespace()}-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_own = folder.stat().st_uid == os.getuid()
            if pid.isdigit() and is_own and not (_PROC / pid).exists() and (_PROC / "self").exists():
                shutil.rmtree(folder, ignore_errors=True)
