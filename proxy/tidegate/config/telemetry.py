"""`telemetry:` logging."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of the log, and what is logged."""

    log_format: Annotated[LogFormat, Meta(description="auto: columns on a terminal, else JSON.")] = "auto"
    log_level: Annotated[
        LogLevel, Meta(description="The lowest level that is logged; info has one line for each request.")
    ] = "info"
