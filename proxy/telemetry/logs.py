"""structlog set up once: JSON lines on stdout, or columns where a person looks on.

Standard-library loggers (aiohttp, granian, asyncio) come out in the same form. JSON lines are gathered for up to 50 ms
and written at once: a system call for each line would cost more than making it.
"""

import asyncio
import atexit
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Protocol

import msgspec
import structlog

from proxy.config.telemetry import LogFormat, LogLevel

_FLUSH_S = 0.05
_MAX_BYTES = 64 * 1024

_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure(*, log_format: LogFormat, level: LogLevel) -> Callable[[], None]:
    """Set up structlog and the standard library's root logger; called once, before the first line is logged.

    Returns: what writes the lines that are still gathered, for the end (it is called at exit, too).
    """
    is_console = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    lines = Lines(sys.stdout.buffer)
    atexit.register(lines.flush)
    structlog.configure(
        processors=_console() if is_console else _json(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory() if is_console else lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(number, logging.WARNING))
    return lines.flush


class Log(Protocol):
    """As much of structlog as is used."""

    def info(self, event: str, **fields: object) -> object:
        """A line."""

    def warning(self, event: str, **fields: object) -> object:
        """A line that may want a look."""

    def error(self, event: str, **fields: object) -> object:
        """A line that wants a look."""

    def exception(self, event: str, **fields: object) -> object:
        """The same, with the exception being handled."""


class Lines:
    """A structlog logger that gathers lines and writes them together; owns what is not yet written."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._gathered: list[bytes] = []
        self._bytes = 0
        self._handle: asyncio.TimerHandle | None = None

    def msg(self, line: bytes) -> None:
        """Take one line, without its newline."""
        self._gathered.append(line)
        self._bytes += len(line)
        if self._bytes > _MAX_BYTES:
            self.flush()
        elif self._handle is None:
            try:
                self._handle = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
            except RuntimeError:  # no loop, so nothing is in a hurry
                self.flush()

    debug = info = warning = error = critical = exception = msg

    def flush(self) -> None:
        """Write what is gathered."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._gathered:
            gathered, self._gathered, self._bytes = self._gathered, [], 0
            self._out.write(b"\n".join(gathered) + b"\n")
            self._out.flush()


def _json() -> list[structlog.typing.Processor]:
    return [structlog.processors.add_log_level, _add_time, structlog.processors.format_exc_info, _render]


def _console() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False, key="time"),
        # the rich tracebacks would show local variables, prompts among them
        structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=structlog.dev.plain_traceback),
    ]


def _add_time(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["time"] = datetime.now(UTC)
    return event


def _render(_logger: object, _name: str, event: structlog.typing.EventDict) -> bytes:
    return _encode(event)


class _ToStructlog(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log: Any = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
