"""`telemetry:` what is written down."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs."""

    log_format: Annotated[LogFormat, Meta(description="auto: columns on a terminal, JSON elsewhere.")] = "auto"
    log_level: Annotated[LogLevel, Meta(description="info has one line for each request.")] = "info"
