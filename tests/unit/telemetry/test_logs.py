"""Logs: JSON lines, or columns on a terminal."""

import json
import logging
import threading

import pytest
import structlog

from tidegate.telemetry import logs
from tidegate.telemetry.output import Output


class Logged:
    """Logging set up for one test, and the bytes that reached standard output."""

    def __init__(self, capsys) -> None:
        self._capsys = capsys
        self._flush = None

    def configure(self, *, log_format="json", level="info", **options) -> None:
        self._flush = logs.configure(log_format=log_format, level=level, **options)

    def out(self) -> str:
        self._flush()
        return self._capsys.readouterr().out

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.out().splitlines()]


@pytest.fixture
def logged(capsys):
    """Logging is set up once for a process; this fixture restores it after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Logged(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


PROMPT = "my secret"


def _crash(prompt):
    raise ZeroDivisionError(f"{len(prompt)} is no divisor")


def test_a_line_is_one_json_object(logged):
    logged.configure(log_format="json", level="info")
    structlog.get_logger().info("request", status=200, model="é", reason="a\nb", odd=object)
    [line] = logged.lines()
    assert (line["event"], line["level"], line["status"], line["model"]) == ("request", "info", 200, "é")
    assert line["reason"] == "a\nb"
    assert line["time"].endswith("Z")


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_events_below_the_level_are_not_written(logged, level, expected):
    logged.configure(log_format="json", level=level)
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("x")
    assert [line["level"] for line in logged.lines()] == expected


def test_auto_is_json_if_the_output_is_not_a_terminal(logged):
    """The output of a test is not a terminal."""
    logged.configure(log_format="auto", level="info")
    structlog.get_logger().info("x")
    assert logged.lines()[0]["event"] == "x"


def test_console_is_columns(logged):
    logged.configure(log_format="console", level="info")
    structlog.get_logger().info("started", port=8000)
    out = logged.out()
    assert "started" in out
    assert not out.startswith("{")


def test_log_records_of_libraries_have_the_same_format(logged):
    """Only warnings and errors are logged."""
    logged.configure(log_format="json", level="debug")
    logging.getLogger("aiohttp.client").warning("odd %s", "thing")
    logging.getLogger("aiohttp.client").info("chatter")
    [line] = logged.lines()
    assert (line["event"], line["logger"], line["level"]) == ("odd thing", "aiohttp.client", "warning")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(logged, log_format):
    """Local variables may hold prompts and keys."""
    logged.configure(log_format=log_format, level="info")
    try:
        _crash(PROMPT)
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    out = logged.out()
    assert "ZeroDivisionError: 9 is no divisor" in out
    assert "my secret" not in out


def test_an_exception_of_a_library_is_logged(logged):
    logged.configure(log_format="json", level="info")
    try:
        _crash(PROMPT)
    except ZeroDivisionError:
        logging.getLogger("asyncio").exception("task failed")
    [line] = logged.lines()
    assert line["event"] == "task failed"
    assert "ZeroDivisionError: 9 is no divisor" in line["exception"]


def test_setting_up_twice_does_not_double_the_lines(logged):
    for _ in range(2):
        logged.configure(log_format="json", level="info")
    logging.getLogger("x").error("once")
    assert len(logged.lines()) == 1


class Blocked:
    """A stream that blocks until the test sets `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.data = b""

    def write(self, data):
        self.go.wait()
        self.data += data
        return len(data)

    def fileno(self):
        raise OSError("none")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_dropped_lines_are_reported_in_the_same_format(logged, log_format):
    stream = Blocked()
    output = Output(stream, max_bytes=200)
    logged.configure(log_format=log_format, output=output)
    log = structlog.get_logger()
    for number in range(50):
        log.info("x", number=number)
    stream.go.set()
    output.flush(30)
    *_, last = stream.data.decode().splitlines()
    assert "log lines dropped" in last
    if log_format == "json":
        notice = json.loads(last)
        assert (notice["event"], notice["level"], notice["count"]) == ("log lines dropped", "warning", output.dropped)
    assert 0 < output.dropped < 50
