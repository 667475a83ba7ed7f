"""Processes of engines that no warden finds: they are found by their mark, and ended.

Those of a Tidegate that was killed together with its wardens, and those that have left the session of their engine, as
a daemon does. Every process of an engine carries a mark that names the Tidegate that started it, by its pid and the
time when it was started, so that another process of the same pid is not taken for it. The mark is an environment
variable, and the name of the pipe that the engine writes to: a process that changes its title, as vLLM's core and
workers do, overwrites what `/proc` shows of its environment. Where there is no `/proc` there is no mark, and nothing is
found.
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

from proxy.engines import warden
from proxy.engines.sockets import temporary
from proxy.telemetry.logs import Log

VARIABLE = "TIDEGATE_ENGINE_MARK"

_PROC = Path("/proc")
_MARK = re.compile(
    r"tidegate-engine-(?P<pid>\d+)-(?P<started>\d+)-(?P<space>\d+)-(?P<name>[\w.:-]+)(?:~(?P<start>[0-9a-f]{16}))?"
)
_END = "~"  # in no engine's name
_START_BYTES = 8
_STARTED = 19  # field 22 of /proc/PID/stat, counted from the state behind the program's name
_DEAD = frozenset("ZX")
_GONE_S = 10.0
_POLL_S = 0.05


class Mark(Struct, frozen=True):
    """Whose a process is.

    Attributes:
        pid: of the Tidegate that started it.
        started: when that was, in ticks since the machine was.
        space: the namespace that the pid is of; those of another one mean nothing here.
        name: the engine's.
        start: which of its starts, as a random number in hexadecimal digits; empty where that is not said.
    """

    pid: int
    started: int
    space: int
    name: str
    start: str = ""

    def __str__(self) -> str:
        start = self.start and f"{_END}{self.start}"
        return f"tidegate-engine-{self.pid}-{self.started}-{self.space}-{self.name}{start}"


class Orphan(Struct, frozen=True):
    """A living process of an engine whose Tidegate is gone."""

    pid: int
    session: int
    mark: Mark


def make_mark(name: str) -> Mark | None:
    """The mark of a new start of an engine of ours; None where there is no `/proc`."""
    pid = os.getpid()
    with contextlib.suppress(OSError, ValueError):
        state = _state(pid)
        if state is not None:
            return Mark(pid, state[1], _space(), name, secrets.token_hex(_START_BYTES))
    return None


def read_marks(text: str) -> Iterator[Mark]:
    """Those in a text; strange ones are passed over."""
    for found in _MARK.finditer(text):
        with contextlib.suppress(ValueError):
            yield Mark(
                int(found["pid"]), int(found["started"]), int(found["space"]), found["name"], found["start"] or ""
            )


def open_pipe(mark: Mark | None) -> tuple[int, int]:
    """A pipe whose ends are known by the mark: the end to read from, which does not block, and the one to write to."""
    if mark is not None:
        path = temporary() / f"{mark}{_END}pipe{secrets.token_hex(4)}"
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


def find_orphans(space: int | None = None) -> Sequence[Orphan]:
    """The processes of our user whose mark names a Tidegate that is gone.

    Args:
        space: of the marks that are meant; None: our own.
    """
    if (own := make_mark("")) is None:
        return []
    inherited = set(read_marks(os.environ.get(VARIABLE, "")))  # where we are an engine ourselves
    space = own.space if space is None else space
    orphans = []
    for pid, all_marks in _marked(own.pid):
        marks = all_marks - inherited
        left = [mark for mark in marks if mark.space == space and not _lives(mark)]
        if left and len(left) == len(marks):
            with contextlib.suppress(OSError):
                orphans.append(Orphan(pid, os.getsid(pid), left[0]))
    return orphans


def end_start(mark: Mark | None) -> None:
    """Kill what is left of one start of an engine, in whatever session, and wait until it is gone, as `end_orphans`."""
    if mark is not None:
        _end(lambda: list(_left_of(mark)))


def _left_of(mark: Mark) -> Iterator[Orphan]:
    for pid, marks in _marked(mark.pid):
        if mark in marks:
            with contextlib.suppress(OSError):
                yield Orphan(pid, os.getsid(pid), mark)


def _marked(own: int) -> Iterator[tuple[int, AbstractSet[Mark]]]:
    """The processes of our user, but for ourselves and those above us, with the marks that they carry."""
    spared = {own, *_ancestors(own)}
    for pid in (int(folder.name) for folder in _PROC.glob("[0-9]*")):
        with contextlib.suppress(OSError):
            if pid not in spared and (_PROC / str(pid)).stat().st_uid == os.geteuid():
                yield pid, set(_marks_of(pid))


def end_orphans(space: int | None = None) -> Sequence[Orphan]:
    """Kill them with their sessions, and wait until they are gone, for ten seconds at most.

    Args:
        space: as in `find_orphans`.

    Returns:
        Those that were found.
    """
    return _end(lambda: find_orphans(space))


def _end(find: Callable[[], Sequence[Orphan]]) -> Sequence[Orphan]:
    ended: dict[int, Orphan] = {}
    until_s = time.monotonic() + _GONE_S
    while (found := find()) and time.monotonic() < until_s:
        marked = {orphan.pid for orphan in found}
        for session in {orphan.session for orphan in found}:
            # one that a process of ours leads, or that has no leader any more, is an engine's
            if session in marked or not _runs(_state(session)):
                warden.kill_session(session)
        for orphan in found:
            ended[orphan.pid] = orphan
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    return list(ended.values())


async def sweep(log: Log, space: int | None = None) -> None:
    """End the engines that a killed Tidegate has left, and tell of them; in a thread, and never raises.

    Args:
        log: for what was found.
        space: as in `find_orphans`.
    """
    try:
        ended = await asyncio.to_thread(end_orphans, space)
    except Exception:
        log.exception("orphans not looked for")
        return
    by_mark: dict[Mark, list[int]] = defaultdict(list)
    for orphan in ended:
        by_mark[orphan.mark].append(orphan.pid)
    for mark, pids in by_mark.items():
        log.warning("orphaned engine killed", engine=mark.name, pids=sorted(pids), owner=mark.pid)


def _marks_of(pid: int) -> Iterator[Mark]:
    """Read from where it writes, and its environment: what it was started with, as far as it has not overwritten it."""
    process = _PROC / str(pid)
    for descriptor in ("fd/1", "fd/2"):
        with contextlib.suppress(OSError):
            yield from read_marks(str((process / descriptor).readlink()))
    with contextlib.suppress(OSError):
        _, found, behind = (b"\0" + (process / "environ").read_bytes()).partition(f"\0{VARIABLE}=".encode())
        if found:
            yield from read_marks(os.fsdecode(behind.partition(b"\0")[0]))


def _lives(mark: Mark) -> bool:
    """Whether the Tidegate that it names runs; one that was not waited for by its parent does not."""
    state = _state(mark.pid)
    return state is not None and _runs(state) and state[1] == mark.started


def _runs(state: tuple[str, int] | None) -> bool:
    return state is not None and state[0] not in _DEAD


def _state(pid: int) -> tuple[str, int] | None:
    """Of a process: the letter of its state, and when it was started."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[_STARTED])


def _space() -> int:
    return (_PROC / "self/ns/pid").stat().st_ino


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except OSError:
            return
        pid = int(fields.split()[1])
        yield pid
