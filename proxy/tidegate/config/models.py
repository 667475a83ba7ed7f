"""`models:` the names that callers use."""

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from tidegate.config.routing import Share
from tidegate.config.server import Seconds
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Reach

Policy = Literal["ordered", "weighted", "least_latency", "least_cost", "best_quality", "local_first", "balanced"]
ProgressIn = Literal["reasoning_content"]
OnStreamFailure = Literal["error", "continue"]
RepairToolMarkup = Literal["auto", "off"]
Weight = Annotated[float, Meta(ge=0, le=1000)]
Dollars = Annotated[float, Meta(ge=0)]


class BalanceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `balanced` adds up: each signal goes from 0 (the best target) to 1 (far worse), times its weight."""

    latency: Annotated[Weight, Meta(description="Expected time to the last token.")] = 1.0
    cost: Annotated[Weight, Meta(description="Expected price.")] = 1.0
    quality: Annotated[Weight, Meta(description="What evals, feedback and checks say of its answers.")] = 1.0
    load: Annotated[Weight, Meta(description="Requests in flight there.")] = 0.0
    failures: Annotated[Weight, Meta(description="Share of failures of late.")] = 1.0
    locality: Annotated[Weight, Meta(description="0 for our own engines, 1 for hosts elsewhere.")] = 0.0


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
    weight: Annotated[Weight, Meta(description="weighted: its share, beside those of the others.")] = 1.0
    quality: Annotated[
        Share | None,
        Meta(description="How good its answers are, 0 to 1, before anything is measured; null: middling."),
    ] = None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One public name."""

    targets: Annotated[tuple[TargetConfig, ...], Meta(min_length=1, description="Where it is to be had.")]
    policy: Annotated[
        Policy,
        Meta(description="ordered, weighted, least_latency, least_cost, best_quality, local_first or balanced."),
    ] = "ordered"
    balance: Annotated[BalanceConfig, Meta(description="balanced: what counts how much.")] = BalanceConfig()
    reach: Annotated[Reach | None, Meta(description="Where its requests may go; null: as routing says.")] = None
    overflow_ttft_s: Annotated[
        Seconds | None,
        Meta(
            description="local_first: online when the first token would take longer here; null: if it is down or full."
        ),
    ] = None
    max_price_usd: Annotated[
        Dollars | None,
        Meta(description="A target where a request costs more, by its card, is left out; null: no ceiling."),
    ] = None
    sticky: Annotated[
        bool,
        Meta(description="Turns of a conversation go to one target, whose prefix cache has it; not where ordered."),
    ] = True
    deadline_s: Annotated[
        Seconds | None, Meta(description="All tries together; null: as long as the caller says it waits.")
    ] = None
    on_stream_failure: Annotated[
        OnStreamFailure,
        Meta(description="A stream that breaks: an error in it, or continue at another target, marked as such."),
    ] = "error"
    hedge: Annotated[
        bool,
        Meta(
            description="Ask a second one when the first is slower than 95 of 100 of its own; at most 5 % of requests."
        ),
    ] = False
    reasoning_format: Annotated[
        ReasoningFormat | None, Meta(description="How thinking is shown; null: as defaults says.")
    ] = None
    progress_in: Annotated[
        ProgressIn | None,
        Meta(
            description="reasoning_content: a chat stream that waits for an engine to load or wake shows phase and"
            " percentage as reasoning, in the caller's format; its status is then 200, so a failed load is reported in"
            " the stream. null: nothing is shown."
        ),
    ] = None
    drop_params: Annotated[
        bool | None, Meta(description="Leave out what a host cannot honour; null: as defaults says.")
    ] = None
    repair_tool_markup: Annotated[
        RepairToolMarkup | bool,
        Meta(
            description="auto: tool calls that a host passes on as text in DeepSeek's markup become tool calls;"
            " off: they stay text."
        ),
    ] = "auto"

    @property
    def repairs_tool_markup(self) -> bool:
        """Whether markup may become tool calls; YAML reads `off` without quotes as false."""
        return self.repair_tool_markup not in ("off", False)


class DefaultsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds where neither the model nor the request says otherwise."""

    reasoning_format: Annotated[
        ReasoningFormat, Meta(description="reasoning_content, reasoning, both, think_tags or hidden.")
    ] = "reasoning_content"
    drop_params: Annotated[
        bool, Meta(description="Leave out a parameter that the host cannot honour, in place of answering 400.")
    ] = False


def faults(model: ModelConfig) -> Iterator[str]:
    """What cannot work: key, fault and cure, to be set behind the model's path."""
    if model.reach == "local_only" and all(target.engine is None for target in model.targets):
        yield ".reach: local_only, but no target is an engine, so that nothing could ever take a request; add one"
    if model.policy == "weighted" and not any(target.weight for target in model.targets):
        yield ".targets: every weight is 0; give one of them some"
    if model.policy == "balanced" and not any(structs.astuple(model.balance)):
        yield ".balance: every weight is 0, so that nothing would count; give one of them some"
