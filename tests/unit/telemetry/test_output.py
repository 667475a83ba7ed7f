"""Lines are written without blocking: their order, the bound, and lines that cannot be written."""

import errno
import gc
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.telemetry.output import Output, open_output, plain_notice

LIMIT_S = 30.0


class Stream:
    """A raw stream that the test controls: it can block (`hold`), or fail, also after `room` bytes (`fail`)."""

    def __init__(self) -> None:
        self.data = b""
        self.error: OSError | None = None
        self.room = None
        self.writes = 0
        self.has_begun = threading.Event()
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def fail(self, number: int, *, room: int = 0) -> None:
        self.error, self.room = OSError(number, os.strerror(number)), room

    def mend(self) -> None:
        self.error = self.room = None

    def write(self, data):
        self.writes += 1
        self.has_begun.set()
        self._free.wait()
        if self.error is not None and not self.room:
            raise self.error
        taken = bytes(data if self.error is None else data[: self.room])
        if self.error is not None:
            self.room -= len(taken)
        self.data += taken
        return len(taken)

    def fileno(self):
        raise OSError("none")


def test_lines_that_arrive_together_are_written_together_and_in_order():
    stream = Stream()
    output = Output(stream)
    for number in range(1000):
        output.put(b"%d\n" % number)
    output.flush(LIMIT_S)
    assert stream.data == b"".join(b"%d\n" % number for number in range(1000))
    assert stream.writes < 100
    assert output.dropped == 0


def test_put_does_not_wait_for_a_blocked_stream():
    stream = Stream()
    stream.hold()
    output = Output(stream, max_bytes=100)
    output.put(b"first\n")
    assert stream.has_begun.wait(LIMIT_S)
    for _ in range(100):
        output.put(b"123456789\n")
    assert output.dropped == 90
    output.flush(0.01)  # nothing can be written, and it returns after the timeout
    stream.release()
    output.flush(LIMIT_S)
    assert stream.data == b"first\n" + b"123456789\n" * 10 + plain_notice(90)


def test_later_lines_follow_the_line_that_reports_the_dropped_ones():
    stream = Stream()
    stream.hold()
    output = Output(stream, max_bytes=10)
    output.put(b"a\n")
    assert stream.has_begun.wait(LIMIT_S)
    output.put(b"12345678\n")
    output.put(b"lost\n")
    output.put(b"lost, too\n")
    stream.release()
    output.flush(LIMIT_S)
    output.put(b"again\n")
    output.flush(LIMIT_S)
    assert stream.data == b"a\n12345678\n" + plain_notice(2) + b"again\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF])
def test_lines_that_cannot_be_written_are_dropped_and_counted(number):
    stream = Stream()
    output = Output(stream)
    stream.fail(number)
    output.put(b"lost\n")
    output.put(b"lost, too\n")
    output.flush(LIMIT_S)
    assert (stream.data, output.dropped) == (b"", 2)
    output.put(b"still\n")
    output.flush(LIMIT_S)
    stream.mend()
    output.put(b"good\n")
    output.flush(LIMIT_S)
    assert stream.data == plain_notice(3) + b"good\n"
    assert output.dropped == 3


def test_a_line_written_in_part_is_ended_before_the_next():
    stream = Stream()
    output = Output(stream)
    stream.fail(errno.ENOSPC, room=8)
    output.put(b"whole\n")
    output.put(b"half of it\n")
    output.flush(LIMIT_S)
    stream.mend()
    output.put(b"good\n")
    output.flush(LIMIT_S)
    assert stream.data == b"whole\nha\n" + plain_notice(1) + b"good\n"
    assert output.dropped == 1


def test_a_closed_stream_loses_its_lines_and_raises_nothing(tmp_path):
    with (tmp_path / "log").open("wb", buffering=0) as file:
        output = Output(file)
    output.put(b"late\n")
    output.flush(LIMIT_S)
    assert output.dropped == 1


def test_a_non_blocking_descriptor_is_polled():
    """Another process may have made a shared pipe non-blocking, as Node does."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        output = Output(writer)
        output.put(b"x" * 1_000_000 + b"\n")
        assert len(reader.read(1_000_001)) == 1_000_001
        output.flush(LIMIT_S)
    assert output.dropped == 0


def test_without_a_stream_lines_are_discarded():
    """For example, in `tidegate serve >&-`."""
    output = open_output(None)
    output.put(b"x\n")
    output.flush(LIMIT_S)
    assert output.dropped == 0


class _LogsWhenCollected:
    """An object that logs when it is garbage-collected, as asyncio's tasks do."""

    def __init__(self, output) -> None:
        self.itself = self
        self._output = output

    def __del__(self) -> None:
        self._output.put(b"collected\n")


def test_a_finaliser_may_log_during_put():
    """The garbage collector may run in the middle of `put`, in the same thread."""
    stream = Stream()
    output = Output(stream)
    with output._lock:
        _LogsWhenCollected(output)
        gc.collect()
        output.put(b"x\n")
    output.flush(LIMIT_S)
    assert stream.data == b"collected\nx\n"


@settings(max_examples=50)  # each example leaves a thread behind
@given(st.lists(st.one_of(st.integers(1, 40), st.just("hold"), st.just("go"), st.just("flush")), max_size=40))
def test_every_line_is_written_in_its_place_or_counted_there(steps):
    """Whether writes block or not, no line is written twice, out of order, or dropped without being counted."""
    stream = Stream()
    output = Output(stream, max_bytes=64)
    sent = 0
    for step in steps:
        if step == "hold":
            stream.hold()
        elif step == "go":
            stream.release()
        elif step == "flush":
            stream.release()
            output.flush(LIMIT_S)
        else:
            output.put(b"%d" % sent + b"." * step + b"\n")
            sent += 1
    stream.release()
    output.flush(LIMIT_S)
    expected = lost = 0
    for line in stream.data.splitlines():
        if line.startswith(b"tidegate: "):
            expected += int(line.split()[1])
            lost += int(line.split()[1])
        else:
            assert int(line.rstrip(b".")) == expected
            expected += 1
    assert (expected, lost) == (sent, output.dropped)


SERVER = """
import sys, warnings, threading
from tidegate.telemetry.output import redirect_output

stdout, stderr = redirect_output()
print("printed")
sys.stderr.write("half ")
sys.stderr.write("a line\\n")
warnings.warn("mind")
def crash():
    raise ValueError("in a thread")
thread = threading.Thread(target=crash)
thread.start()
thread.join()
sys.stdout.write("\\ud800 is no character\\n")
print(sys.stdout.isatty(), sys.stdout.fileno())
raise KeyError("at the end")
"""


def test_all_output_of_a_process_goes_through_it_including_tracebacks():
    done = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.stdout == "printed\n\\ud800 is no character\nFalse 1\n"
    for text in ("half a line\n", "UserWarning: mind", "ValueError: in a thread", "KeyError: 'at the end'"):
        assert text in done.stderr


@pytest.mark.parametrize("end", ["full", "closed", "unread"])
def test_an_unwritable_output_does_not_change_the_exit_of_a_process(end):
    """The output adds no traceback and does not wait; the exit status stays 1, from the script's own exception."""
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    if end == "closed":
        os.close(reading)
    filling = "import os; os.set_blocking(1, False)\n"
    filling += "try:\n    while os.write(1, b'x' * 65536): pass\nexcept OSError: pass\n"
    filling += "os.set_blocking(1, True)\n"
    script = (filling if end == "unread" else "") + SERVER
    out = full if end == "full" else writing
    done = subprocess.run([sys.executable, "-c", script], stdout=out, stderr=out, check=False, timeout=LIMIT_S)
    for descriptor in (writing, full, *([] if end == "closed" else [reading])):
        os.close(descriptor)
    assert done.returncode == 1
