"""structlog set up once: JSON lines on stdout, or columns where a person looks on.

Standard-library loggers (aiohttp, granian, asyncio) come out in the same form.
"""

import logging
import sys
from typing import Any

import msgspec
import structlog

from proxy.config.telemetry import LogFormat, LogLevel

_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure(*, log_format: LogFormat, level: LogLevel) -> None:
    """Set up structlog and the standard library's root logger; called once, before the first line is logged."""
    is_console = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not is_console, key="time"),
    ]
    renderer: list[structlog.typing.Processor] = (
        # the rich tracebacks would show local variables, prompts among them
        [structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=structlog.dev.plain_traceback)]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_serialize)]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory() if is_console else structlog.BytesLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(number, logging.WARNING))


def _serialize(event: dict[str, Any], **_options: object) -> bytes:
    return _encode(event)


class _ToStructlog(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
