"""Where an engine listens: the folder of its socket, or a port of the loopback address.

The folder is in the system's place for temporary files, 0700, and named after our process and the namespace of its pid.
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
_SHORT = Path("/tmp")  # noqa: S108 - a folder of ours is made in it, 0700 and with a name that cannot be guessed
_MAX_PATH = 103 if sys.platform == "darwin" else 107  # bytes of `sun_path`, without the 0 at its end


class SocketFolder:
    """Named at once, made when it is wanted, as an engine may come to no start; only we may enter.

    Args:
        place: where it is made; None: where the system has temporary files. Where the path of a socket would be longer
            there than the system allows, in /tmp.
    """

    def __init__(self, place: Path | None = None) -> None:
        name = f"{_PREFIX}{os.getpid()}-{pid_namespace()}-{secrets.token_hex(4)}"
        place = place or temporary()
        _sweep(place)
        if len(os.fsencode(place / name / _SOCKET)) > _MAX_PATH:
            place = _SHORT
            _sweep(place)
        self._folder = place / name
        self._is_made = False
        self.socket_path = str(self._folder / _SOCKET)

    def clear(self) -> None:
        """Make it, or empty it: no engine removes its socket, and none starts on an old one (`vllm.md`, section 4).

        It is made anew where it is gone, as when somebody clears the place up.

        Raises:
            OSError: it cannot be made, or somebody else has made one of that name.
        """
        if not (self._is_made and self._folder.is_dir()):
            self._folder.mkdir(mode=0o700)
            self._is_made = True
        Path(self.socket_path).unlink(missing_ok=True)

    def remove(self) -> None:
        """Take it away with all that is in it; never raises."""
        if self._is_made:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._is_made = False


def temporary() -> Path:
    """The system's place for temporary files; /tmp where none can be written to, so that the engine says so."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return _SHORT


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
    """The namespace of our pid: in another one the same number is another process. 0 where there is no `/proc`."""
    try:
        return (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _sweep(place: Path) -> None:
    """Remove what a Tidegate that was killed has left behind: folders of ours whose process is gone.

    Containers may share the place: whether a process of another namespace is gone cannot be seen here.
    """
    for folder in place.glob(f"{_PREFIX}*-{pid_namespace()}-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_ours = folder.stat().st_uid == os.getuid()
            if pid.isdigit() and is_ours and not (_PROC / pid).exists() and (_PROC / "self").exists():
                shutil.rmtree(folder, ignore_errors=True)
