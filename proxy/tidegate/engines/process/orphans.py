"""Finds engine processes that no warden ends, by a mark, and kills them.

Such a process belongs to a Tidegate that was killed together with its wardens, or has left the session of its engine,
as a daemon does. Every process of an engine has a mark that names the Tidegate that started it, by pid and start time,
since a pid may be used again. The mark is in an environment variable, and also in the name of the pipe to which the
engine writes its output: a process that changes its title, as vLLM's core and workers do, overwrites its environment in
`/proc`. Without `/proc` there are no marks, and nothing is found.
"""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from msgspec import Struct

from tidegate.engines.process import warden
from tidegate.engines.process.sockets import pid_namespace, temporary_folder
from tidegate.telemetry.logs import Log

VARIABLE = "TIDEGATE_ENGINE_MARK"

_PROC = Path("/proc")
_MARK = re.compile(
    r"tidegate-engine-(?P<pid>\d+)-(?P<started>\d+)-(?P<namespace>\d+)-(?P<name>[\w.:-]+)(?:~(?P<start>[0-9a-f]{16}))?"
)
_MARK_END = "~"  # no engine's name contains it
_START_BYTES = 8
_START_TIME_FIELD = (
    19  # the start time, field 22 of /proc/PID/stat; counted from field 3, which follows the program's name
)
_DEAD = frozenset("ZX")
_MAX_WAIT_S = 10.0
_POLL_S = 0.05


class Mark(Struct, frozen=True):
    """Names the Tidegate that started a process.

    Attributes:
        pid: the pid of that Tidegate.
        started: the start time of that Tidegate, in clock ticks since the machine was started.
        namespace: the pid namespace of that Tidegate; pids of another namespace cannot be looked up here.
        name: the engine's name.
        start: identifies one start of the engine by a random number in hexadecimal digits; empty where unknown.
    """

    pid: int
    started: int
    namespace: int
    name: str
    start: str = ""

    def __str__(self) -> str:
        start = self.start and f"{_MARK_END}{self.start}"
        return f"tidegate-engine-{self.pid}-{self.started}-{self.namespace}-{self.name}{start}"


class Orphan(Struct, frozen=True):
    """A running process of an engine: its pid, its session, and its mark."""

    pid: int
    session: int
    mark: Mark


def make_mark(name: str) -> Mark | None:
    """The mark for a new start of an engine by this process; None where there is no `/proc`."""
    pid = os.getpid()
    with contextlib.suppress(OSError, ValueError):
        state = _state(pid)
        if state is not None:
            return Mark(pid, state[1], pid_namespace(), name, secrets.token_hex(_START_BYTES))
    return None


def read_marks(text: str) -> Iterator[Mark]:
    """All marks in a text."""
    for found in _MARK.finditer(text):
        with contextlib.suppress(ValueError):
            numbers = int(found["pid"]), int(found["started"]), int(found["namespace"])
            yield Mark(*numbers, found["name"], found["start"] or "")


def open_pipe(mark: Mark | None) -> tuple[int, int]:
    """Open a pipe with the mark in its name; returns the read end, which does not block, and the write end."""
    if mark is not None:
        path = temporary_folder() / f"{mark}{_MARK_END}pipe{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):  # not every file system has named pipes
            os.mkfifo(path, 0o600)
            try:
                read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                return read_end, _open_write_end(path, read_end)
            finally:
                path.unlink()  # `/proc/PID/fd` still shows the name
    return os.pipe()


def _open_write_end(path: Path, read_end: int) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        os.close(read_end)
        raise


def find_orphans(namespace: int | None = None) -> Sequence[Orphan]:
    """The processes of the current user whose mark names a Tidegate that does not run any more.

    Args:
        namespace: only marks of this pid namespace count; None: the namespace of this process.
    """
    if (own := make_mark("")) is None:
        return []
    namespace = own.namespace if namespace is None else namespace
    inherited = set(read_marks(os.environ.get(VARIABLE, "")))  # if this Tidegate runs inside an engine
    orphans = []
    for pid, all_marks in _marked_processes(own.pid):
        marks = all_marks - inherited
        if marks and all(mark.namespace == namespace and not _is_tidegate_running(mark) for mark in marks):
            with contextlib.suppress(OSError):
                orphans.append(Orphan(pid, os.getsid(pid), next(iter(marks))))
    return orphans


def kill_remaining(mark: Mark | None) -> None:
    """Kill all processes left of one start of an engine, in any session; waits as `kill_orphans_blocking` does."""
    if mark is not None:
        _kill_all(lambda: list(_processes_of(mark)))


def _processes_of(mark: Mark) -> Iterator[Orphan]:
    for pid, marks in _marked_processes(mark.pid):
        if mark in marks:
            with contextlib.suppress(OSError):
                yield Orphan(pid, os.getsid(pid), mark)


def _marked_processes(own: int) -> Iterator[tuple[int, AbstractSet[Mark]]]:
    """The current user's processes and their marks, without the process `own` and its ancestors."""
    spared = {own, *_ancestors(own)}
    for pid in (int(folder.name) for folder in _PROC.glob("[0-9]*")):
        with contextlib.suppress(OSError):
            if pid not in spared and (_PROC / str(pid)).stat().st_uid == os.geteuid():
                yield pid, set(_marks_of(pid))


def kill_orphans_blocking(namespace: int | None = None) -> Sequence[Orphan]:
    """Kill the orphans with their sessions, and wait until they have ended, at most ten seconds. Blocks.

    Args:
        namespace: as in `find_orphans`.

    Returns:
        The orphans that were found.
    """
    return _kill_all(lambda: find_orphans(namespace))


def _kill_all(find: Callable[[], Sequence[Orphan]]) -> Sequence[Orphan]:
    ended: dict[int, Orphan] = {}
    until_s = time.monotonic() + _MAX_WAIT_S
    while (found := find()) and time.monotonic() < until_s:
        marked = {orphan.pid for orphan in found}
        for session in {orphan.session for orphan in found} - {os.getsid(0)}:
            # the whole session belongs to the engine if its leader is marked, or has ended
            if session in marked or not _is_running(_state(session)):
                warden.kill_session(session)
        for orphan in found:
            ended[orphan.pid] = orphan
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    return list(ended.values())


async def kill_and_log_orphans(log: Log, namespace: int | None = None) -> None:
    """Kill the orphans in a thread, and log them; never raises.

    Args:
        log: receives the orphans that were found.
        namespace: as in `find_orphans`.
    """
    try:
        ended = await asyncio.to_thread(kill_orphans_blocking, namespace)
    except Exception:
        log.exception("search for orphaned engines failed")
        return
    by_mark: dict[Mark, list[int]] = defaultdict(list)
    for orphan in ended:
        by_mark[orphan.mark].append(orphan.pid)
    for mark, pids in by_mark.items():
        log.warning("orphaned engine killed", engine=mark.name, pids=sorted(pids), owner=mark.pid)


def _marks_of(pid: int) -> Iterator[Mark]:
    """The marks in the names of a process's output pipes, and in its environment if that is not overwritten."""
    process = _PROC / str(pid)
    for descriptor in ("fd/1", "fd/2"):
        with contextlib.suppress(OSError):
            yield from read_marks(str((process / descriptor).readlink()))
    with contextlib.suppress(OSError):
        _, found, rest = (b"\0" + (process / "environ").read_bytes()).partition(f"\0{VARIABLE}=".encode())
        if found:
            yield from read_marks(os.fsdecode(rest.partition(b"\0")[0]))


def _is_tidegate_running(mark: Mark) -> bool:
    """Whether the Tidegate that the mark names is running; a zombie is not."""
    state = _state(mark.pid)
    return state is not None and _is_running(state) and state[1] == mark.started


def _is_running(state: tuple[str, int] | None) -> bool:
    return state is not None and state[0] not in _DEAD


def _state(pid: int) -> tuple[str, int] | None:
    """The state letter and the start time of a process; None where there is no such process."""
    fields = _stat(pid)
    return None if fields is None else (fields[0], int(fields[_START_TIME_FIELD]))


def _stat(pid: int) -> Sequence[str] | None:
    """The fields of `/proc/PID/stat` from the third on; None where there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1 and (fields := _stat(pid)) is not None:
        pid = int(fields[1])
        yield pid
