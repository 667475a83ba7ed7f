"""`Output`: writes lines to standard output or standard error without blocking the caller.

An unread pipe, a stopped terminal or a full disk would block the event loop or end the server. So lines go through a
bounded queue to a thread that writes them. Lines that do not fit into the queue, or cannot be written, are dropped and
counted. When lines can be written again, one line in place of the dropped ones reports their number.
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

MAX_BYTES = 4 * 1024 * 1024  # in the queue; the writing thread may hold as many again
FLUSH_S = 1.0
_BATCH_S = 0.05  # lines that arrive within this time are written by one system call
_WRITE_BYTES = 64 * 1024
_LAST_STANDARD = 2  # the descriptor of standard error


class Stream(Protocol):
    """An unbuffered file.

    It must not be buffered: at exit, Python waits for the lock of a buffered file, which a blocked write may hold.
    """

    def write(self, data: memoryview, /) -> int | None:
        """Write; returns the number of bytes written, or None if it would block. Raises `OSError`."""

    def fileno(self) -> int:
        """The descriptor to poll when `write` would block."""


def plain_notice(count: int) -> bytes:
    """The line in place of dropped lines, as plain text."""
    return b"tidegate: %d lines were dropped here, as they could not be written\n" % count


class Output:
    """Takes lines from any thread and writes them in order; owns the queue and the writing thread.

    Args:
        stream: the file that lines are written to.
        max_bytes: the maximum size of the queue.

    Attributes:
        notice: returns the line that reports a given number of dropped lines.
        dropped: the number of lines dropped so far.
    """

    def __init__(self, stream: Stream, *, max_bytes: int = MAX_BYTES) -> None:
        self.notice: Callable[[int], bytes] = plain_notice
        self.dropped = 0
        self._stream = stream
        self._max_bytes = max_bytes
        self._queue: deque[bytes | int] = deque()  # lines; an int is the number of lines dropped at that place
        self._bytes = 0
        self._unreported = 0  # lines that could not be written, and are not reported yet; they come before the queue
        self._lock = threading.RLock()  # re-entrant: a finaliser may log while its own thread holds the lock
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        # `_is_awake`: the thread has been notified of the lines in the queue
        self._is_awake = self._is_writing = self._is_flushing = self._is_inside_line = False

    def put(self, line: bytes) -> None:
        """Take a line with its newline, or a part of one; never waits, never raises."""
        with self._lock:
            if self._bytes + len(line) > self._max_bytes:
                self._drop(line)
            else:
                self._queue.append(line)
                self._bytes += len(line)
            if not self._is_awake:
                self._wake()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until everything is written or dropped, at most `timeout_s`."""
        with self._lock:
            self._is_flushing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._queue or self._is_writing), timeout_s)
            self._is_flushing = False

    def _drop(self, line: bytes) -> None:
        count = _count_lines(line)
        self.dropped += count
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
            for chunk in _joined_lines(self._take()):
                self._write(chunk)
            with self._lock:
                self._is_writing = False
                self._changed.notify_all()

    def _take(self) -> Iterable[bytes | int]:
        """Wait for lines, and return all that arrive within the batch time."""
        with self._lock:
            self._is_awake = bool(self._queue)
            self._changed.wait_for(lambda: self._queue)
            self._changed.wait_for(lambda: self._is_flushing, _BATCH_S)
            batch, self._queue = self._queue, deque()
            if self._unreported:
                batch.appendleft(self._unreported)
            self._bytes = self._unreported = 0
            self._is_writing = True
            return batch

    def _write(self, chunk: bytes | int) -> None:
        data = self.notice(chunk) if isinstance(chunk, int) else chunk
        prefix = b"\n" if self._is_inside_line else b""  # the last write ended inside a line
        written = self._write_bytes(prefix + data) - len(prefix)
        if written >= 0:
            self._is_inside_line = 0 < written < len(data) and not data.endswith(b"\n", 0, written)
        if written == len(data):
            return
        with self._lock:
            if isinstance(chunk, int):
                self._unreported += chunk
            else:
                count = _count_lines(data[max(written, 0) :])
                self._unreported += count
                self.dropped += count

    def _write_bytes(self, data: bytes) -> int:
        """Write `data`; returns the number of bytes written, which is smaller than its length if a write failed."""
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                count = self._stream.write(view[done : done + _WRITE_BYTES])
                if count is None:
                    _wait_for(self._stream)
                else:
                    done += count
        except (OSError, ValueError):  # ValueError: the stream is closed
            pass
        return done


class _Raw(io.RawIOBase):
    """The raw file of a text stream that writes to an `Output`.

    `replaced` is the text stream in whose place it is used, or None; `isatty` and `fileno` are those of `replaced`.
    """

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
    """An output to the file of the text stream `replaced`; if that is None, to the null device."""
    if replaced is None:
        return Output(io.FileIO(os.devnull, "wb"))
    buffer = replaced.buffer
    return Output(getattr(buffer, "raw", buffer))


def redirect_output() -> tuple[Output, Output]:
    """Replace `sys.stdout` and `sys.stderr` by streams that write to outputs, which are flushed at exit.

    Warnings, tracebacks and prints of libraries go through them too. Called once, by `tidegate serve`.

    Returns: the outputs for standard output and standard error.
    """
    _fill_standard()
    stdout, stderr = open_output(sys.stdout), open_output(sys.stderr)
    sys.stdout, sys.stderr = _text(stdout, sys.stdout), _text(stderr, sys.stderr)
    return stdout, stderr


def _fill_standard() -> None:
    """Open those of the descriptors 0 to 2 that are closed.

    Otherwise libuv may get one of them for a file of its own, and aborts the process when it closes that.
    """
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


def _joined_lines(batch: Iterable[bytes | int]) -> Iterator[bytes | int]:
    """The entries of a batch; successive lines are joined, to be written by one call."""
    lines: list[bytes] = []
    for entry in batch:
        if not isinstance(entry, int):
            lines.append(entry)
            continue
        if lines:
            yield b"".join(lines)
            lines = []
        yield entry
    if lines:
        yield b"".join(lines)


def _count_lines(data: bytes) -> int:
    """The number of lines in `data`; the last one may lack its newline."""
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _wait_for(stream: Stream) -> None:
    """Wait until the file can be written to: another process may have made the descriptor non-blocking."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    poll.poll()
