"""Where an engine listens: the folder of its socket, or a port of the loopback address.

The folder is in the system's place for temporary files, 0700, and named after our process.
"""

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

_PREFIX = "tidegate-"
_PROC = Path("/proc")


class SocketFolder:
    """Named at once, made when it is wanted, as an engine may come to no start; only we may enter.

    Args:
        place: where it is made; None: where the system has temporary files.
    """

    def __init__(self, place: Path | None = None) -> None:
        place = place or Path(tempfile.gettempdir())
        _sweep(place)
        self._folder = place / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self._is_made = False
        self.socket_path = str(self._folder / "engine.sock")

    def clear(self) -> None:
        """Make it, or empty it: no engine removes its socket, and none starts on an old one (`vllm.md`, section 4).

        Raises:
            OSError: it cannot be made, or somebody else has made one of that name.
        """
        if not self._is_made:
            self._folder.mkdir(mode=0o700)
            self._is_made = True
        Path(self.socket_path).unlink(missing_ok=True)

    def remove(self) -> None:
        """Take it away with all that is in it; never raises."""
        if self._is_made:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._is_made = False


def free_port() -> int:
    """A TCP port of the loopback address on which nothing listens; another process may take it before the engine does.

    Raises:
        OSError: there is none.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _sweep(place: Path) -> None:
    """Remove what a Tidegate that was killed has left behind: folders of ours whose process is gone."""
    for folder in place.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_ours = folder.stat().st_uid == os.getuid()
            if pid.isdigit() and is_ours and not (_PROC / pid).exists() and (_PROC / "self").exists():
                shutil.rmtree(folder, ignore_errors=True)
