"""`models:` the names that callers use."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from proxy.protocol.reasoning import ReasoningFormat

Policy = Literal["ordered"]


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place where a model is to be had."""

    upstream: Annotated[str | None, Meta(description="A name under upstreams; this or engine.")] = None
    engine: Annotated[str | None, Meta(description="A name under engines; this or upstream.")] = None
    model: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="Its name there; an engine needs none.")
    ] = None
    card: Annotated[
        str | None, Meta(description="The model card to go by; null: the first that matches its name there.")
    ] = None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One public name."""

    targets: Annotated[tuple[TargetConfig, ...], Meta(min_length=1, description="Where it is to be had.")]
    policy: Annotated[Policy, Meta(description="ordered: the first target, the next one when it fails.")] = "ordered"
    reasoning_format: Annotated[
        ReasoningFormat | None, Meta(description="How thinking is shown; null: as defaults says.")
    ] = None
    drop_params: Annotated[
        bool | None, Meta(description="Leave out what a host cannot honour; null: as defaults says.")
    ] = None


class DefaultsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds where neither the model nor the request says otherwise."""

    reasoning_format: Annotated[
        ReasoningFormat, Meta(description="reasoning_content, reasoning, both, think_tags or hidden.")
    ] = "reasoning_content"
    drop_params: Annotated[
        bool, Meta(description="Leave out a parameter that the host cannot honour, in place of answering 400.")
    ] = False
