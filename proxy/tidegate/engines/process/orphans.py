"""Finds processes of engines that no warden ends, by a mark, and ends them.

They are those of a Tidegate that was killed together with its wardens, and those that have left the session of their
engine, as a daemon does. Every process of an engine has a mark that names the Tidegate that started it: by pid and
start time, as a pid may be used again. The mark is an environment variable, and also the name of the pipe that the
engine writes its output to: a process that changes its title, as vLLM's core and workers do, overwrites its environment
in `/proc`. Without `/proc` there are no marks, and nothing is found.
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
from tidegate.engines.process.sockets import pid_namespace, temporary
from tidegate.telemetry.logs import Log

VARIABLE = "TIDEGATE_ENGINE_MARK"

_PROC = Path("/proc")
_MARK = re.compile(
    r"tidegate-engine-(?P<pid>\d+)-(?P<started>\d+)-(?P<namespace>\d+)-(?P<name>[\w.:-]+)(?:~(?P<start>[0-9a-f]{16}))?"
)
_MARK_END = "~"  # in no engine's name
_START_BYTES = 8
_STARTED = 19  # the start time, field 22 of /proc/PID/stat; counted from field 3, which follows the program's name
_DEAD = frozenset("ZX")
_GONE_S = 10.0
_POLL_S = 0.05


class Mark(Struct, frozen=True):
    """Names the Tidegate that started a process.

    Attributes:
        pid: of that Tidegate.
        started: when that Tidegate was started, in clock ticks since the machine was.
        namespace: the pid namespace; pids of another one cannot be looked up here.
        name: the engine's.
        start: which of its starts, as a random number in hexadecimal digits; empty where that is not said.
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
    """A living process of an engine whose Tidegate is gone."""

    pid: int
    session: int
    mark: Mark


def make_mark(name: str) -> Mark | None:
    """The mark of a new start of an engine by this process; None where there is no `/proc`."""
    pid = os.getpid()
    with contextlib.suppress(OSError, ValueError):
        state = _state(pid)
        if state is not None:
            return Mark(pid, state[1], pid_namespace(), name, secrets.token_hex(_START_BYTES))
    return None


def read_marks(text: str) -> Iterator[Mark]:
    """The marks in a text."""
    for found in _MARK.finditer(text):
        with contextlib.suppress(ValueError):
            numbers = int(found["pid"]), int(found["started"]), int(found["namespace"])
            yield Mark(*numbers, found["name"], found["start"] or "")


def open_pipe(mark: Mark | None) -> tuple[int, int]:
    """A pipe that has the mark in its name: the end to read from, which does not block, and the end to write to."""
    if mark is not None:
        path = temporary() / f"{mark}{_MARK_END}pipe{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):  # not every file system has named pipes
            os.mkfifo(path, 0o600)
            try:
                reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                return reading, _open_or_close(path, reading)
            finally:
                path.unlink()  # its descriptors keep the name
    return os.pipe()


def _open_or_close(path: Path, reading: int) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        os.close(reading)
        raise


def find_orphans(namespace: int | None = None) -> Sequence[Orphan]:
    """The processes of our user whose mark names a Tidegate that is gone.

    Args:
        namespace: only marks of this pid namespace count; None: our own.
    """
    if (own := make_mark("")) is None:
        return []
    namespace = own.namespace if namespace is None else namespace
    inherited = set(read_marks(os.environ.get(VARIABLE, "")))  # if this Tidegate runs inside an engine
    orphans = []
    for pid, all_marks in _marked(own.pid):
        marks = all_marks - inherited
        if marks and all(mark.namespace == namespace and not _lives(mark) for mark in marks):
            with contextlib.suppress(OSError):
                orphans.append(Orphan(pid, os.getsid(pid), next(iter(marks))))
    return orphans


def end_start(mark: Mark | None) -> None:
    """Kill what is left of one start of an engine, in any session, and wait until it has ended, as `end_orphans`."""
    if mark is not None:
        _end(lambda: list(_left_of(mark)))


def _left_of(mark: Mark) -> Iterator[Orphan]:
    for pid, marks in _marked(mark.pid):
        if mark in marks:
            with contextlib.suppress(OSError):
                yield Orphan(pid, os.getsid(pid), mark)


def _marked(own: int) -> Iterator[tuple[int, AbstractSet[Mark]]]:
    """The processes of our user, without this one and its ancestors, and the marks that they have."""
    spared = {own, *_ancestors(own)}
    for pid in (int(folder.name) for folder in _PROC.glob("[0-9]*")):
        with contextlib.suppress(OSError):
            if pid not in spared and (_PROC / str(pid)).stat().st_uid == os.geteuid():
                yield pid, set(_marks_of(pid))


def end_orphans(namespace: int | None = None) -> Sequence[Orphan]:
    """Kill the orphans with their sessions, and wait until they have ended, ten seconds at most.

    Args:
        namespace: as in `find_orphans`.

    Returns:
        The orphans that were found.
    """
    return _end(lambda: find_orphans(namespace))


def _end(find: Callable[[], Sequence[Orphan]]) -> Sequence[Orphan]:
    ended: dict[int, Orphan] = {}
    until_s = time.monotonic() + _GONE_S
    while (found := find()) and time.monotonic() < until_s:
        marked = {orphan.pid for orphan in found}
        for session in {orphan.session for orphan in found} - {os.getsid(0)}:
            # a session is an engine's if its leader is marked, or has ended
            if session in marked or not _runs(_state(session)):
                warden.kill_session(session)
        for orphan in found:
            ended[orphan.pid] = orphan
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    return list(ended.values())


async def sweep(log: Log, namespace: int | None = None) -> None:
    """End the orphans in a thread, and log them; never raises.

    Args:
        log: for the orphans that were found.
        namespace: as in `find_orphans`.
    """
    try:
        ended = await asyncio.to_thread(end_orphans, namespace)
    except Exception:
        log.exception("search for orphaned engines failed")
        return
    by_mark: dict[Mark, list[int]] = defaultdict(list)
    for orphan in ended:
        by_mark[orphan.mark].append(orphan.pid)
    for mark, pids in by_mark.items():
        log.warning("orphaned engine killed", engine=mark.name, pids=sorted(pids), owner=mark.pid)


def _marks_of(pid: int) -> Iterator[Mark]:
    """The marks in the names of its output pipes and in its environment, unless it has overwritten that."""
    process = _PROC / str(pid)
    for descriptor in ("fd/1", "fd/2"):
        with contextlib.suppress(OSError):
            yield from read_marks(str((process / descriptor).readlink()))
    with contextlib.suppress(OSError):
        _, found, behind = (b"\0" + (process / "environ").read_bytes()).partition(f"\0{VARIABLE}=".encode())
        if found:
            yield from read_marks(os.fsdecode(behind.partition(b"\0")[0]))


def _lives(mark: Mark) -> bool:
    """Whether the Tidegate of the mark runs; a zombie does not."""
    state = _state(mark.pid)
    return state is not None and _runs(state) and state[1] == mark.started


def _runs(state: tuple[str, int] | None) -> bool:
    return state is not None and state[0] not in _DEAD


def _state(pid: int) -> tuple[str, int] | None:
    """The letter of a process's state, and its start time; None where there is no such process."""
    fields = _stat(pid)
    return None if fields is None else (fields[0], int(fields[_STARTED]))


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
