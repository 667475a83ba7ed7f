"""`swap:` when a loaded engine makes room for another one that requests wait for."""

from typing import Annotated

from msgspec import Meta, Struct

Patience = Annotated[float, Meta(ge=0, le=86400)]


class SwapConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When engines that do not fit together change places; see `proxy.engines.turns` for the rules."""

    max_wait_s: Annotated[
        Patience,
        Meta(description="Once a request has waited so long for an engine, the loaded ones in its way close for it."),
    ] = 10.0
    min_loaded_s: Annotated[
        Patience, Meta(description="An engine stays loaded at least so long while it gets requests.")
    ] = 10.0
    exclusive: Annotated[
        tuple[tuple[str, ...], ...],
        Meta(description="Groups of engines of which only one may be loaded at a time, whether on GPUs or not."),
    ] = ()
