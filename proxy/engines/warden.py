"""Runs one engine and sees to it that nothing of it is left; the standard library alone, run as a script.

    python warden.py COMMAND…

Between Tidegate and an engine stands this small process. It ends with the engine, by the engine's exit status. When its
standard input ends, Tidegate is gone, however it went, and so is the engine. In both cases every process of the session
is killed: vLLM's parent process that is killed leaves its EngineCore behind, with the GPU's memory (reference
`vllm.md`, section 4). SIGTERM is passed on to the engine alone, which stops its own children.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PROC = Path("/proc")


def kill_session(session: int, *, spared: int = 0) -> None:
    """Kill every process of a session (Linux), or of the group of its leader (elsewhere).

    Args:
        session: its id, that is the pid of its leader, which may be gone.
        spared: the pid of one that goes on.
    """
    with contextlib.suppress(ProcessLookupError):
        if not _PROC.exists():
            os.killpg(session, signal.SIGKILL)
    for pid in _members(session):
        if pid != spared:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _members(session: int) -> list[int]:
    names = [directory.name for directory in _PROC.glob("[0-9]*")]
    return [int(name) for name in names if _session_of(int(name)) == session]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def main(command: list[str]) -> int:
    """Run `command`; its exit status, 128 and the number of the signal that killed it."""
    own = os.getpid()
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - that is what it is for
    signal.signal(signal.SIGTERM, lambda *_: engine.send_signal(signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()
    status = engine.wait()
    kill_session(os.getsid(0), spared=own)
    return 128 - status if status < 0 else status


def _wait_for_parent() -> None:
    while os.read(0, 4096):
        pass
    kill_session(os.getsid(0), spared=os.getpid())
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
