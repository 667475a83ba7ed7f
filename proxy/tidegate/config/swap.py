"""`swap:` when a loaded engine makes room for another one."""

from typing import Annotated

from msgspec import Meta, Struct

Wait = Annotated[float, Meta(ge=0, le=86400)]


class SwapConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When engines that cannot be loaded together take turns; `tidegate.engines.gpus.swap` has the rules."""

    max_wait_s: Annotated[
        Wait,
        Meta(description="How long a request waits for an engine before another engine that has requests makes room."),
    ] = 10.0
    min_loaded_s: Annotated[
        Wait, Meta(description="An engine that gets requests stays loaded for at least this long.")
    ] = 10.0
    exclusive: Annotated[
        tuple[tuple[str, ...], ...],
        Meta(description="Groups of engines of which only one may be loaded at a time, whether on GPUs or not."),
    ] = ()
