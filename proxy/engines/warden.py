"""Runs one engine and sees to it that nothing of it is left; the standard library alone, run as a script.

    python warden.py COMMAND…

Between Tidegate and an engine stands this small process. It ends with the engine, by the engine's exit status. When its
standard input ends, Tidegate is gone, however it went, and so is the engine. In both cases every process of the session
is killed: vLLM's parent process that is killed leaves its EngineCore behind, with the GPU's memory (reference
`vllm.md`, section 4). SIGTERM is passed on to the engine alone, which stops its own children; an engine that has a
command for that is ended by it, also when it has ended by itself or Tidegate is gone: `docker stop` for a container,
which is no process of the session.

What killed processes leave in `/dev/shm` is removed: Python's resource trackers have a moment to do so, as they know
best; then what the processes themselves had open.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

_PROC = Path("/proc")
_STOP_VARIABLE = "TIDEGATE_STOP"
_STOP_S = 30.0  # where nobody else has a limit
_PID = "${PID}"
_SHARED = "/dev/shm/"  # noqa: S108 - where shm_open makes its files
# what is named otherwise may be a user's own, such as weights: vLLM, PyTorch, NCCL, OpenMP and Python make these
_MADE = re.compile(r"psm_[0-9a-f]+|sem\.mp-\w+|nccl-\w+|torch_\d+_\d+_\d+|vllm_\w+\.mmap|__KMP_REGISTERED_LIB_\d+_\d+")
_TRACKER = b"multiprocessing.resource_tracker"
_TRACKER_S = 1.0
_POLL_S = 0.01


def kill_session(session: int, *, spared: int = 0) -> None:
    """Kill every process of a session (Linux), or of the group of its leader (elsewhere); blocks for a second at most.

    Args:
        session: its id, that is the pid of its leader, which may be gone.
        spared: the pid of one that goes on.
    """
    with contextlib.suppress(ProcessLookupError):
        if not _PROC.exists():
            os.killpg(session, signal.SIGKILL)
    pids = _members(session, spared)
    held = shared_memory(pids)
    trackers = list(filter(_is_tracker, pids))
    _kill(pid for pid in pids if pid not in trackers)
    until_s = time.monotonic() + _TRACKER_S
    while any(map(_is_tracker, trackers)) and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    left = _members(session, spared)  # also what has been started meanwhile
    _kill(left)
    remove_shared(held, {*pids, *left})


def shared_memory(pids: Iterable[int]) -> Mapping[str, tuple[int, int]]:
    """The files of shared memory that the processes have open or mapped, with device and inode; no others' files."""
    held = {}
    for name in {name for pid in pids for name in _shared_names(pid)}:
        if _MADE.fullmatch(name):
            with contextlib.suppress(OSError):
                status = os.stat(_SHARED + name)  # noqa: PTH116 - no path to build
                # what others may open, they can have open without our seeing it
                if status.st_uid == os.getuid() and not status.st_mode & 0o077:
                    held[name] = (status.st_dev, status.st_ino)
    return held


def remove_shared(held: Mapping[str, tuple[int, int]], dead: Collection[int]) -> None:
    """Remove the files that no process but the dead ones has."""
    if not held:
        return
    used = shared_memory(pid for pid in _pids() if pid not in dead)
    for name, identity in held.items():
        if name not in used:
            with contextlib.suppress(OSError):
                status = os.stat(_SHARED + name)  # noqa: PTH116 - as above
                if (status.st_dev, status.st_ino) == identity:
                    os.unlink(_SHARED + name)  # noqa: PTH108 - as above


def _shared_names(pid: int) -> Iterator[str]:
    """Without those that are removed already: after their names stands ` (deleted)`, which no name of ours has."""
    process = _PROC / str(pid)
    with contextlib.suppress(OSError):
        for line in (process / "maps").read_bytes().splitlines():
            yield os.fsdecode(line.rpartition(b" " + _SHARED.encode())[2])
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink()).removeprefix(_SHARED)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _is_tracker(pid: int) -> bool:
    """Whether it is Python's process that removes what others leave; one that has ended is none."""
    try:
        return _TRACKER in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _members(session: int, spared: int = 0) -> list[int]:
    return [pid for pid in _pids() if pid != spared and _session_of(pid) == session]


def _pids() -> list[int]:
    return [int(directory.name) for directory in _PROC.glob("[0-9]*")]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def told(stop: Sequence[str]) -> dict[str, str]:
    """The variable that tells this script what ends the engine; none where SIGTERM does."""
    return {_STOP_VARIABLE: json.dumps(list(stop))} if stop else {}


class Ending:
    """Ends the engine: by its own command where it has one, else by SIGTERM; owner of that command's outcome.

    Args:
        engine: the process.
        stop: the command's words, `${PID}` in them being the engine's process.
    """

    def __init__(self, engine: subprocess.Popen[bytes], stop: Sequence[str]) -> None:
        self._engine = engine
        self._has_pid = any(_PID in word for word in stop)
        self._stop = [word.replace(_PID, str(engine.pid)) for word in stop]
        self._lock = threading.Lock()
        self._has_run = self._is_done = False

    def ask(self) -> None:
        """Ask the engine to end; returns at once, as a signal handler must."""
        if self._stop:
            threading.Thread(target=self._ask, daemon=True).start()
        else:
            self._engine.send_signal(signal.SIGTERM)

    def clear_up(self) -> None:
        """The engine has ended: what it has left elsewhere, such as a container, ends as well, if there is anything.

        Nothing is said of that: the last words are those of the engine.
        """
        if not self._has_pid:  # another process may have that number now
            self.run(_STOP_S, is_quiet=True)

    def run(self, limit_s: float | None = None, *, is_quiet: bool = False) -> bool:
        """Run its command, unless there is none or it has run; whether it came to a good end within that time."""
        if not self._lock.acquire(timeout=-1 if limit_s is None else limit_s):
            return False
        with contextlib.ExitStack() as held:
            held.callback(self._lock.release)
            if self._stop and not self._has_run:
                self._has_run = True
                fault = self._run(limit_s, subprocess.DEVNULL if is_quiet else None)
                self._is_done = fault is None
                if fault is not None and not is_quiet:
                    print(f"cmd_stop: {fault}", flush=True)  # noqa: T201 - our output is the engine's
            return self._is_done

    def _ask(self) -> None:
        if not self.run():  # without a limit of its own: whoever asks to end has one, and kills then
            self._engine.send_signal(signal.SIGTERM)

    def _run(self, limit_s: float | None, output: int | None) -> str | None:
        """What went wrong; None: nothing."""
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own
                self._stop, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=limit_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return f"it ended with status {done.returncode}" if done.returncode else None


def main(command: list[str]) -> int:
    """Run `command`; its exit status, 128 and the number of the signal that killed it."""
    own = os.getpid()
    stop = json.loads(os.environ.pop(_STOP_VARIABLE, "[]"))
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - that is what it is for
    ending = Ending(engine, stop)
    signal.signal(signal.SIGTERM, lambda *_: ending.ask())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    killing = threading.Lock()
    threading.Thread(target=_wait_for_parent, args=(ending, killing), daemon=True).start()
    status = engine.wait()
    ending.clear_up()
    with killing:
        kill_session(os.getsid(0), spared=own)
    return 128 - status if status < 0 else status


def _wait_for_parent(ending: Ending, killing: threading.Lock) -> None:
    while os.read(0, 4096):
        pass
    ending.run(_STOP_S)
    with killing:  # the end of the engine must not end this process half way
        kill_session(os.getsid(0), spared=os.getpid())
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
