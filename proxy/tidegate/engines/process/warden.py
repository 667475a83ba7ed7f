"""The warden: runs one engine and kills all its processes at its end. A script that uses the standard library alone.

    python warden.py COMMAND…

This small process is the parent of the engine, and a child of Tidegate. It ends when the engine ends, with the engine's
exit status. Its standard input is a pipe from Tidegate: when that ends, Tidegate has ended, for whatever reason, and
the warden ends the engine. In both cases every process of the session is killed: when vLLM's parent process is killed,
its EngineCore would otherwise keep running and hold the GPU's memory (reference `vllm.md`, section 4).

SIGTERM is passed on to the engine alone, which stops its own children. If the engine has a stop command, that is run
instead, and also when the engine has ended by itself or Tidegate has ended: for example `docker stop` for a container,
which is no process of the session.

Files that killed processes leave in `/dev/shm` are removed: first Python's resource trackers get a few seconds to do
so, then this script removes the files that the processes had open.
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
_STOP_S = 30.0  # the limit for a stop command that has no other limit
_PID = "${PID}"
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - where shm_open creates its files
# names that vLLM, PyTorch, NCCL, OpenMP and Python give their files; other files may be the user's, such as weights
_KNOWN_NAMES = re.compile(
    r"psm_[0-9a-f]+|sem\.mp-\w+|nccl-\w+|torch_\d+_\d+_\d+|vllm_\w+\.mmap|__KMP_REGISTERED_LIB_\d+_\d+"
)
_TRACKER = b"multiprocessing.resource_tracker"
_ENDED = (b"Z", b"X")
_TRACKER_S = 5.0  # a tracker needs some ms, on a busy machine more
_POLL_S = 0.01


def kill_session(session: int, *, excluded: int = 0) -> None:
    """Kill every process of a session (Linux), or of the group of its leader (elsewhere); blocks for 5 s at most.

    Args:
        session: the session's id, which is the pid of its leader; the leader may have ended.
        excluded: the pid of a process that is not killed; 0: none.
    """
    with contextlib.suppress(ProcessLookupError):
        if not _PROC.exists():
            os.killpg(session, signal.SIGKILL)
    pids = _members(session, excluded)
    held = shared_memory(pids)
    trackers = list(filter(_may_be_tracker, pids))
    _kill(pid for pid in pids if pid not in trackers)
    until_s = time.monotonic() + _TRACKER_S
    while any(map(_may_be_tracker, trackers)) and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    remaining = _members(session, excluded)  # with processes that were started meanwhile
    _kill(remaining)
    remove_shared(held, {*pids, *remaining})


def shared_memory(pids: Iterable[int]) -> Mapping[str, tuple[int, int]]:
    """The names of shared memory files that the processes have open or mapped, with device and inode.

    Only files that the current user alone may open, and that have a name which engines use.
    """
    held = {}
    for name in {name for pid in pids for name in _shared_names(pid)}:
        if _KNOWN_NAMES.fullmatch(name):
            with contextlib.suppress(OSError):
                status = os.stat(_SHARED_MEMORY + name)  # noqa: PTH116 - no path to build
                # a file that other users may open can be in use by a process that is not visible here
                if status.st_uid == os.getuid() and not status.st_mode & 0o077:
                    held[name] = (status.st_dev, status.st_ino)
    return held


def remove_shared(held: Mapping[str, tuple[int, int]], dead: Collection[int]) -> None:
    """Remove those of the files that only the processes `dead` had open."""
    if not held:
        return
    used = shared_memory(pid for pid in _pids() if pid not in dead)
    for name, identity in held.items():
        if name not in used:
            with contextlib.suppress(OSError):
                status = os.stat(_SHARED_MEMORY + name)  # noqa: PTH116 - as above
                if (status.st_dev, status.st_ino) == identity:
                    os.unlink(_SHARED_MEMORY + name)  # noqa: PTH108 - as above


def _shared_names(pid: int) -> Iterator[str]:
    """The names of the files that a process has open or mapped; the name of a removed file ends with ` (deleted)`."""
    process = _PROC / str(pid)
    with contextlib.suppress(OSError):
        for line in (process / "maps").read_bytes().splitlines():
            yield os.fsdecode(line.rpartition(b" " + _SHARED_MEMORY.encode())[2])
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink()).removeprefix(_SHARED_MEMORY)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _may_be_tracker(pid: int) -> bool:
    """Whether a process is, or may become, Python's resource tracker, which removes files left by other processes."""
    try:
        directory = _PROC / str(pid)
        return is_tracker((directory / "cmdline").read_bytes(), (directory / "stat").read_bytes())
    except OSError:
        return False


def is_tracker(command_line: bytes, stat: bytes) -> bool:
    """Whether `/proc/PID/cmdline` and `/proc/PID/stat` are those of a tracker, or of a process that may become one.

    During `execve` a process has an empty command line. A process that has ended has an empty one as well, but the
    state Z or X, which follows the name in parentheses (proc_pid_stat(5)).
    """
    if command_line:
        return _TRACKER in command_line
    return stat.rpartition(b")")[2].split()[0] not in _ENDED


def _members(session: int, excluded: int = 0) -> list[int]:
    return [pid for pid in _pids() if pid != excluded and _session_of(pid) == session]


def _pids() -> list[int]:
    return [int(directory.name) for directory in _PROC.glob("[0-9]*")]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def stop_variable(stop: Sequence[str]) -> dict[str, str]:
    """The environment variable that passes the stop command to this script; replaces one of the same name."""
    return {_STOP_VARIABLE: json.dumps(list(stop))}


class EngineStop:
    """Stops the engine by its stop command if it has one, else by SIGTERM; owns the outcome of the command.

    Args:
        engine: the engine's process.
        stop: the arguments of the stop command; `${PID}` in them is replaced by the engine's pid. Empty: none.
    """

    def __init__(self, engine: subprocess.Popen[bytes], stop: Sequence[str]) -> None:
        self._engine = engine
        self._has_pid = any(_PID in word for word in stop)
        self._stop = [word.replace(_PID, str(engine.pid)) for word in stop]
        self._lock = threading.Lock()
        self._has_run = self._is_done = False

    def request_end(self) -> None:
        """Start the stop command, or send SIGTERM; returns at once, as a signal handler must."""
        if self._stop:
            threading.Thread(target=self._request_end, daemon=True).start()
        else:
            self._engine.send_signal(signal.SIGTERM)

    def clean_up(self) -> None:
        """Run the stop command after the engine has ended, since a container may still run.

        The command's output is discarded, so that the engine's own lines are the last ones.
        """
        if not self._has_pid:  # another process may have that pid now
            self.run(_STOP_S, is_quiet=True)

    def run(self, limit_s: float | None = None, *, is_quiet: bool = False) -> bool:
        """Run the stop command once, if there is one; returns whether it has ended with status 0 in time."""
        if not self._lock.acquire(timeout=-1 if limit_s is None else limit_s):
            return False
        with contextlib.ExitStack() as releases:
            releases.callback(self._lock.release)
            if self._stop and not self._has_run:
                self._has_run = True
                fault = self._run(limit_s, subprocess.DEVNULL if is_quiet else None)
                self._is_done = fault is None
                if fault is not None and not is_quiet:
                    print(f"cmd_stop: {fault}", flush=True)  # noqa: T201 - printed among the engine's output
            return self._is_done

    def _request_end(self) -> None:
        if not self.run():  # without a time limit: Tidegate has one, and kills the engine after it
            self._engine.send_signal(signal.SIGTERM)

    def _run(self, limit_s: float | None, output: int | None) -> str | None:
        """Run the command; returns why it failed, or None."""
        try:
            completed = subprocess.run(  # noqa: S603 - the operator's own command
                self._stop, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=limit_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return f"it ended with status {completed.returncode}" if completed.returncode else None


def main(command: list[str]) -> int:
    """Run `command`; returns its exit status, or 128 plus the number of the signal that killed it."""
    own = os.getpid()
    stop = json.loads(os.environ.pop(_STOP_VARIABLE, "[]"))
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - the purpose of this script
    engine_stop = EngineStop(engine, stop)
    signal.signal(signal.SIGTERM, lambda *_: engine_stop.request_end())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kill_lock = threading.Lock()
    threading.Thread(target=_wait_for_parent, args=(engine_stop, kill_lock), daemon=True).start()
    status = engine.wait()
    engine_stop.clean_up()
    with kill_lock:
        kill_session(os.getsid(0), excluded=own)
    return 128 - status if status < 0 else status


def _wait_for_parent(engine_stop: EngineStop, kill_lock: threading.Lock) -> None:
    while os.read(0, 4096):
        pass
    engine_stop.run(_STOP_S)
    with kill_lock:  # `main` must not return while the session is being killed
        kill_session(os.getsid(0), excluded=os.getpid())
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
