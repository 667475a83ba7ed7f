"""`auth:` who may call."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.config.secret import Secret
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Priority, Reach


class CallerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One caller with a name."""

    key: Annotated[Secret, Meta(description="What the caller shows.")]
    reasoning_format: Annotated[
        ReasoningFormat | None, Meta(description="How thinking is shown to it; null: as the model or defaults says.")
    ] = None
    reach: Annotated[Reach | None, Meta(description="Where its requests may go; null: as model or routing say.")] = None
    priority: Annotated[
        Priority, Meta(description="interactive, default or batch: who is served first where there is a queue.")
    ] = "default"


class AuthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Static keys."""

    keys: Annotated[
        tuple[Secret, ...], Meta(description="Keys that callers may show; none: open, on loopback only.")
    ] = ()
    callers: Annotated[
        Mapping[str, CallerConfig], Meta(description="Keys with a name, which the log shows, and settings.")
    ] = {}
    admin_key: Annotated[
        Secret | None, Meta(description="The one key for /admin and for details; without it: this machine only.")
    ] = None
