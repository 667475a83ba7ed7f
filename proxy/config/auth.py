"""`auth:` who may call."""

from typing import Annotated

from msgspec import Meta, Struct

from proxy.config.secret import Secret


class AuthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Static keys."""

    keys: Annotated[
        tuple[Secret, ...], Meta(description="Keys that callers may show; none: open, on loopback only.")
    ] = ()
    admin_key: Annotated[
        Secret | None, Meta(description="The one key for /admin and for details; without it: this machine only.")
    ] = None
