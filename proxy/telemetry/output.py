"""`Output`: lines for standard output or standard error, which are written without making anything else wait.

A pipe that is not read, a terminal that is stopped, and a full disk would each stop the event loop or end the server.
So a thread writes, behind a queue of limited size. Lines that find the queue full, or that cannot be written, are lost
and counted. Where they would have stood, one line says how many, as soon as lines can be written again.
"""

import atexit
import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol, TextIO

MAX_BYTES = 4 * 1024 * 1024  # that wait; as many more may be on their way to the descriptor
FLUSH_S = 1.0
_GATHER_S = 0.05  # a system call for each line would cost more than making it
_WRITE_BYTES = 64 * 1024
_LAST_STANDARD = 2


class Stream(Protocol):
    """What is written to. It is raw: at exit Python waits for the lock of a buffered one, which a write may hold."""

    def write(self, data: memoryview, /) -> int | None:
        """How many bytes it took; None: it would have to wait. Raises `OSError`."""

    def fileno(self) -> int:
        """To wait by, where it takes nothing now."""


def say_plainly(count: int) -> bytes:
    """The line that stands for lost ones."""
    return b"tidegate: %d lines were lost here, as they could not be written\n" % count


class Output:
    """Takes lines from any thread and writes them in order; owner of the queue and of the thread.

    Args:
        stream: where they go.
        max_bytes: of the lines that wait.

    Attributes:
        notice: makes the line that stands for so many lost ones.
        lost: lines that were lost so far.
    """

    def __init__(self, stream: Stream, *, max_bytes: int = MAX_BYTES) -> None:
        self.notice: Callable[[int], bytes] = say_plainly
        self.lost = 0
        self._stream = stream
        self._max_bytes = max_bytes
        self._queue: deque[bytes | int] = deque()  # lines, and how many are missing at that place
        self._bytes = 0
        self._missing = 0  # in front of the queue: they could not be written
        self._lock = threading.RLock()  # a finaliser may log while its own thread is in here
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_awake = self._is_writing = self._is_hurried = self._is_cut = False

    def put(self, line: bytes) -> None:
        """Take a line with its newline, or a part of one; never waits, never raises."""
        with self._lock:
            if self._bytes + len(line) > self._max_bytes:
                self._lose(line)
            else:
                self._queue.append(line)
                self._bytes += len(line)
            if not self._is_awake:
                self._wake()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until everything is written or lost, at most so long."""
        with self._lock:
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._queue or self._is_writing), timeout_s)
            self._is_hurried = False

    def _lose(self, line: bytes) -> None:
        count = _lines(line)
        self.lost += count
        last = self._queue[-1] if self._queue else b""
        if isinstance(last, int):
            self._queue[-1] = last + count
        else:
            self._queue.append(count)

    def _wake(self) -> None:
        self._is_awake = True
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="output", daemon=True)
            with suppress(RuntimeError):  # the interpreter is about to end
                thread.start()
                self._thread = thread
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            for piece in _joined(self._take()):
                self._write(piece)
            with self._lock:
                self._is_writing = False
                self._changed.notify_all()

    def _take(self) -> Iterable[bytes | int]:
        """Everything that waits, once there is something, and what comes right behind it."""
        with self._lock:
            self._is_awake = bool(self._queue)
            self._changed.wait_for(lambda: self._queue)
            self._changed.wait_for(lambda: self._is_hurried, _GATHER_S)
            taken, self._queue = self._queue, deque()
            if self._missing:
                taken.appendleft(self._missing)
            self._bytes = self._missing = 0
            self._is_writing = True
            return taken

    def _write(self, piece: bytes | int) -> None:
        data = self.notice(piece) if isinstance(piece, int) else piece
        lead = b"\n" if self._is_cut else b""  # what came before ended in the middle of a line
        written = self._write_bytes(lead + data) - len(lead)
        if written >= 0:
            self._is_cut = 0 < written < len(data) and not data.endswith(b"\n", 0, written)
        if written == len(data):
            return
        with self._lock:
            if isinstance(piece, int):
                self._missing += piece
            else:
                count = _lines(data[max(written, 0) :])
                self._missing += count
                self.lost += count

    def _write_bytes(self, data: bytes) -> int:
        """How many of them were written; fewer than all where the rest is lost."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                count = self._stream.write(view[done : done + _WRITE_BYTES])
                if count is None:
                    _wait_for(self._stream)
                else:
                    done += count
        except (OSError, ValueError):  # ValueError: it is closed
            pass
        return done


class _Raw(io.RawIOBase):
    """The file below a text stream whose text goes to an `Output`."""

    def __init__(self, output: Output, replaced: TextIO | None) -> None:
        self._output = output
        self._replaced = replaced

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        self._output.put(bytes(data))
        return len(data)

    def isatty(self) -> bool:
        return self._replaced is not None and self._replaced.isatty()

    def fileno(self) -> int:
        if self._replaced is None:
            raise OSError("there is no such descriptor")
        return self._replaced.fileno()


def open_output(replaced: TextIO | None) -> Output:
    """To where that stream writes; to nowhere, where the process was started without it (None)."""
    if replaced is None:
        return Output(io.FileIO(os.devnull, "wb"))
    buffer = replaced.buffer
    return Output(getattr(buffer, "raw", buffer))


def take_over() -> tuple[Output, Output]:
    """Have all that is written to `sys.stdout` and `sys.stderr` go through outputs, which are flushed at exit.

    That is also warnings, tracebacks and what libraries print. Called once, by the process that serves.

    Returns: standard output, standard error.
    """
    _fill_standard()
    stdout, stderr = open_output(sys.stdout), open_output(sys.stderr)
    sys.stdout, sys.stderr = _text(stdout, sys.stdout), _text(stderr, sys.stderr)
    return stdout, stderr


def _fill_standard() -> None:
    """Open those of the descriptors 0 to 2 that are closed: libuv aborts the process when it closes one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no name
    os.close(descriptor)


def _text(output: Output, replaced: TextIO | None) -> TextIO:
    atexit.register(output.flush)
    if replaced is not None:
        with suppress(OSError):
            replaced.flush()
    raw = io.BufferedWriter(_Raw(output, replaced))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _joined(taken: Iterable[bytes | int]) -> Iterator[bytes | int]:
    """Lines that follow each other as one piece."""
    run: list[bytes] = []
    for one in taken:
        if not isinstance(one, int):
            run.append(one)
            continue
        if run:
            yield b"".join(run)
            run = []
        yield one
    if run:
        yield b"".join(run)


def _lines(data: bytes) -> int:
    """How many there are, the last of which may not be whole."""
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _wait_for(stream: Stream) -> None:
    """Until it takes something: a descriptor that does not wait may be shared with another process."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    poll.poll()
