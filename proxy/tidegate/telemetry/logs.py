"""Sets up structlog: JSON lines on standard output, or columns if it is a terminal.

Records of standard-library loggers (aiohttp, granian, asyncio) are written in the same format. Lines go to an
`output.Output`, so logging never blocks.
"""

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Protocol

import msgspec
import structlog

from tidegate.config.telemetry import LogFormat, LogLevel
from tidegate.telemetry.output import Output, open_output

_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure(*, log_format: LogFormat, level: LogLevel, output: Output | None = None) -> Callable[[], None]:
    """Set up structlog and the standard library's root logger; called once, before the first line is logged.

    Lines go to `output`; if it is omitted, to standard output.

    Returns: a function that waits, for a bounded time, until the lines logged so far are written.
    """
    is_console = log_format == "console" or (log_format == "auto" and sys.stdout is not None and sys.stdout.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    output = output or open_output(sys.stdout)
    processors = _console() if is_console else _json()
    output.notice = lambda count: _dropped_notice(processors, count)
    lines = Lines(output)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(number, logging.WARNING))
    return output.flush


class Log(Protocol):
    """The methods of a structlog logger that Tidegate uses."""

    def info(self, event: str, **fields: object) -> object:
        """Log an event."""

    def warning(self, event: str, **fields: object) -> object:
        """Log an event that the operator may have to act on."""

    def error(self, event: str, **fields: object) -> object:
        """Log an event that the operator has to act on."""

    def exception(self, event: str, **fields: object) -> object:
        """Log an error with the exception that is being handled."""


class Lines:
    """The innermost structlog logger: writes finished lines to an output."""

    def __init__(self, output: Output) -> None:
        self._put = output.put

    def msg(self, line: bytes) -> None:
        """Write one line, given without its newline."""
        self._put(line + b"\n")

    debug = info = warning = error = critical = exception = msg


def _dropped_notice(processors: list[structlog.typing.Processor], count: int) -> bytes:
    """The log line that says how many lines were dropped before it."""
    event: Any = {"event": "log lines dropped", "count": count}
    line: Any = reduce(lambda fields, process: process(None, "warning", fields), processors, event)
    return bytes(line) + b"\n"


def _json() -> list[structlog.typing.Processor]:
    return [structlog.processors.add_log_level, _add_time, structlog.processors.format_exc_info, _render]


def _console() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False, key="time"),
        # rich tracebacks would show local variables, among them prompts
        structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=structlog.dev.plain_traceback),
        lambda _logger, _name, text: str(text).encode("utf-8", "backslashreplace"),
    ]


def _add_time(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["time"] = datetime.now(UTC)
    return event


def _render(_logger: object, _name: str, event: structlog.typing.EventDict) -> bytes:
    return _encode(event)


class _ToStructlog(logging.Handler):
    """Passes the standard library's log records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log: Any = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
