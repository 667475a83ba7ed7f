"""`admission:` how many requests an upstream or engine has at once, and who waits for a place."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tidegate.config.server import Seconds


class AdmissionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One target's door."""

    concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | Literal["adaptive"] | None,
        Meta(description="Requests there at once; adaptive: as many as its time to first token bears; null: all."),
    ] = None
    queue: Annotated[int, Meta(ge=0, le=100_000, description="So many more may wait; further ones are 429.")] = 100
    queue_timeout_s: Annotated[Seconds, Meta(description="Who has waited so long is 429.")] = 10.0
