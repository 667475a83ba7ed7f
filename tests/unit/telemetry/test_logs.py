"""Logs: JSON lines, or columns where a person looks on."""

import json
import logging

import pytest
import structlog

from proxy.telemetry import logs


@pytest.fixture(autouse=True)
def _as_before():
    """Logging is set up once for a process; here it is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


PROMPT = "my secret"


def _crash(prompt):
    raise ZeroDivisionError(f"{len(prompt)} is no divisor")


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_is_one_json_object(capsys):
    logs.configure(log_format="json", level="info")
    structlog.get_logger().info("request", status=200, model="é", reason="a\nb", odd=object)
    [line] = lines(capsys)
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
def test_what_is_below_the_level_is_not_written(capsys, level, expected):
    logs.configure(log_format="json", level=level)
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("x")
    assert [line["level"] for line in lines(capsys)] == expected


def test_auto_is_json_where_nobody_looks_on(capsys):
    """The output of a test is no terminal."""
    logs.configure(log_format="auto", level="info")
    structlog.get_logger().info("x")
    assert lines(capsys)[0]["event"] == "x"


def test_console_is_columns(capsys):
    logs.configure(log_format="console", level="info")
    structlog.get_logger().info("started", port=8000)
    out = capsys.readouterr().out
    assert "started" in out
    assert not out.startswith("{")


def test_libraries_come_out_in_the_same_form(capsys):
    """But only from warnings on: their chatter is not ours."""
    logs.configure(log_format="json", level="debug")
    logging.getLogger("aiohttp.client").warning("odd %s", "thing")
    logging.getLogger("aiohttp.client").info("chatter")
    [line] = lines(capsys)
    assert (line["event"], line["logger"], line["level"]) == ("odd thing", "aiohttp.client", "warning")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(capsys, log_format):
    """Prompts and keys are among them."""
    logs.configure(log_format=log_format, level="info")
    try:
        _crash(PROMPT)
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    out = capsys.readouterr().out
    assert "ZeroDivisionError: 9 is no divisor" in out
    assert "my secret" not in out


def test_an_exception_of_a_library_is_told(capsys):
    logs.configure(log_format="json", level="info")
    try:
        _crash(PROMPT)
    except ZeroDivisionError:
        logging.getLogger("asyncio").exception("task failed")
    [line] = lines(capsys)
    assert line["event"] == "task failed"
    assert "ZeroDivisionError: 9 is no divisor" in line["exception"]


def test_setting_up_twice_does_not_double_the_lines(capsys):
    for _ in range(2):
        logs.configure(log_format="json", level="info")
    logging.getLogger("x").error("once")
    assert len(lines(capsys)) == 1
