"""`auth:` the keys with which callers may send requests."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.config.secret import Secret
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Priority, Reach


class CallerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One caller with a name."""

    key: Annotated[Secret, Meta(description="The key that the caller sends.")]
    reasoning_format: Annotated[
        ReasoningFormat | None,
        Meta(description="How reasoning is written in its answers; null: the setting of the model or of defaults."),
    ] = None
    reach: Annotated[
        Reach | None,
        Meta(description="Which targets its requests may go to; null: the setting of the model or of routing."),
    ] = None
    priority: Annotated[
        Priority, Meta(description="interactive, default or batch: the priority of its requests in a queue.")
    ] = "default"


class AuthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of callers and of the administrator."""

    keys: Annotated[
        tuple[Secret, ...],
        Meta(description="Keys that callers may send; without any, here or in callers: open, on loopback only."),
    ] = ()
    callers: Annotated[
        Mapping[str, CallerConfig],
        Meta(description="Keys with settings and a name, which the log shows."),
    ] = {}
    admin_key: Annotated[
        Secret | None,
        Meta(description="The key for /admin and the details of /readyz and /metrics; null: this machine only."),
    ] = None
