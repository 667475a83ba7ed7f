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
    """The weights of the policy `balanced`, which adds up signals from 0 (the best target) to 1 (far worse)."""

    latency: Annotated[Weight, Meta(description="Weight of the expected time to the last token.")] = 1.0
    cost: Annotated[Weight, Meta(description="Weight of the expected price.")] = 1.0
    quality: Annotated[Weight, Meta(description="Weight of the answers' quality by evals, feedback and checks.")] = 1.0
    load: Annotated[Weight, Meta(description="Weight of the requests in flight at the target.")] = 0.0
    failures: Annotated[Weight, Meta(description="Weight of the recent share of failures.")] = 1.0
    locality: Annotated[Weight, Meta(description="Weight of the place: 0 for engines, 1 for upstreams.")] = 0.0


class TargetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One target: an upstream or engine that has the model, and the model's name there."""

    upstream: Annotated[str | None, Meta(description="A name under upstreams; set this or engine.")] = None
    engine: Annotated[str | None, Meta(description="A name under engines; set this or upstream.")] = None
    model: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="The model's name there; an engine needs none.")
    ] = None
    card: Annotated[
        str | None, Meta(description="The name of its model card; null: the first one that matches the model's name.")
    ] = None
    weight: Annotated[
        Weight, Meta(description="For the policy weighted: its share of the requests, relative to the others.")
    ] = 1.0
    quality: Annotated[
        Share | None,
        Meta(description="The assumed quality of its answers, 0 to 1, until it is measured; null: 0.5."),
    ] = None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One public name, its targets, and how requests for it are routed."""

    targets: Annotated[
        tuple[TargetConfig, ...], Meta(min_length=1, description="The upstreams and engines that have the model.")
    ]
    policy: Annotated[
        Policy,
        Meta(description="ordered, weighted, least_latency, least_cost, best_quality, local_first or balanced."),
    ] = "ordered"
    balance: Annotated[BalanceConfig, Meta(description="For the policy balanced: the weight of each signal.")] = (
        BalanceConfig()
    )
    reach: Annotated[
        Reach | None, Meta(description="Which targets its requests may go to; null: the setting of routing.")
    ] = None
    overflow_ttft_s: Annotated[
        Seconds | None,
        Meta(
            description="local_first: use an upstream if the first token would take longer than this from an engine;"
            " null: only if the engine is down or full."
        ),
    ] = None
    max_price_usd: Annotated[
        Dollars | None,
        Meta(description="Targets where a request would cost more, by their cards, are left out; null: no limit."),
    ] = None
    sticky: Annotated[
        bool,
        Meta(
            description="true: the turns of a conversation go to one target, whose prefix cache holds them; not with"
            " the policy ordered."
        ),
    ] = True
    deadline_s: Annotated[
        Seconds | None, Meta(description="Time limit for all attempts together; null: only the caller's own timeout.")
    ] = None
    on_stream_failure: Annotated[
        OnStreamFailure,
        Meta(
            description="When a stream breaks. error: it ends with an error; continue: it continues at another target,"
            " and is marked as such."
        ),
    ] = "error"
    hedge: Annotated[
        bool,
        Meta(
            description="true: start a second attempt when the first takes longer than 95 % of its target's answers; at"
            " most for 5 % of requests."
        ),
    ] = False
    reasoning_format: Annotated[
        ReasoningFormat | None, Meta(description="How reasoning is written in answers; null: the setting of defaults.")
    ] = None
    progress_in: Annotated[
        ProgressIn | None,
        Meta(
            description="reasoning_content: a chat stream that waits for an engine to load or wake up shows phase and"
            " percentage as reasoning, in the caller's format; its status is then 200, so a failed load is reported in"
            " the stream. null: nothing is shown."
        ),
    ] = None
    drop_params: Annotated[
        bool | None,
        Meta(description="true: leave out parameters that a host does not support; null: the setting of defaults."),
    ] = None
    repair_tool_markup: Annotated[
        RepairToolMarkup | bool,
        Meta(
            description="auto: tool calls that a host passes on as text in DeepSeek's markup become tool calls; off:"
            " they stay text."
        ),
    ] = "auto"

    @property
    def repairs_tool_markup(self) -> bool:
        """Whether markup may become tool calls; YAML reads `off` without quotes as false."""
        return self.repair_tool_markup not in ("off", False)


class DefaultsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings for models and requests that have none of their own."""

    reasoning_format: Annotated[
        ReasoningFormat,
        Meta(
            description="How reasoning is written in answers: reasoning_content, reasoning, both, think_tags or hidden."
        ),
    ] = "reasoning_content"
    drop_params: Annotated[
        bool, Meta(description="true: leave out parameters that a host does not support, instead of answering 400.")
    ] = False


def faults(model: ModelConfig) -> Iterator[str]:
    """Yield the settings that cannot work: each as key, fault and cure, to be appended to the model's path."""
    if model.reach == "local_only" and all(target.engine is None for target in model.targets):
        yield ".reach: local_only, but no target is an engine, so no target could be used; add one"
    if model.policy == "weighted" and not any(target.weight for target in model.targets):
        yield ".targets: every weight is 0; give one target a weight above 0"
    if model.policy == "balanced" and not any(structs.astuple(model.balance)):
        yield ".balance: every weight is 0; give one signal a weight above 0"
