"""`models:` the names that callers use."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Policy = Literal["ordered"]


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place where a model is to be had."""

    upstream: Annotated[str | None, Meta(description="A name under upstreams; this or engine.")] = None
    engine: Annotated[str | None, Meta(description="A name under engines; this or upstream.")] = None
    model: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="Its name there; an engine needs none.")
    ] = None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One public name."""

    targets: Annotated[tuple[TargetConfig, ...], Meta(min_length=1, description="Where it is to be had.")]
    policy: Annotated[Policy, Meta(description="ordered: the first target, the next one when it fails.")] = "ordered"
