"""`routing:` where requests may go, and what is done when a target fails."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.config.server import Seconds
from tidegate.protocol.routing import Reach

Share = Annotated[float, Meta(ge=0, le=1)]


class RetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often something is tried again, before the first content has left."""

    repeats: Annotated[
        int, Meta(ge=0, le=100, description="Tries after each of a model's targets has failed once, at all together.")
    ] = 2
    backoff_s: Annotated[
        Seconds, Meta(description="Before the same target is tried again: a random time up to this, then up to twice.")
    ] = 0.25
    max_backoff_s: Annotated[
        Seconds, Meta(description="The most of it; a host that asks for a longer pause (Retry-After) is left alone.")
    ] = 8.0
    budget_share: Annotated[
        Share, Meta(description="Further tries by the share of a model's requests, so that no outage is multiplied.")
    ] = 0.2
    budget_per_s: Annotated[
        float, Meta(ge=0, le=10_000, description="And so many a second, so that a few requests can be helped.")
    ] = 3.0


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a target is left out, and how it comes back."""

    failures: Annotated[
        int, Meta(ge=1, le=1000, description="So many failures in a row, and it is left out. A caller's never count.")
    ] = 3
    ejection_s: Annotated[Seconds, Meta(description="For so long, times how often it was left out before.")] = 5.0
    max_ejection_s: Annotated[Seconds, Meta(description="At most for so long.")] = 120.0
    max_ejected: Annotated[
        Share, Meta(description="If more of a model's targets are out than this share, all are tried all the same.")
    ] = 0.5
    slow_start_s: Annotated[Seconds, Meta(description="Then it has its whole share again only after so long.")] = 10.0
    max_cooldown_s: Annotated[
        Seconds,
        Meta(
            description="The longest wait a host may ask for (429, 503); a single request is sent after a tenth of it."
        ),
    ] = 3600.0
    probe: Annotated[
        bool,
        Meta(description="Ask a target that is out for its models, and for one token, before callers try it again."),
    ] = True
    probe_every_s: Annotated[
        Seconds | None,
        Meta(description="Ask every idle target so often, also where nothing failed; null: never, tokens cost money."),
    ] = None


class RoutingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All models' routing."""

    reach: Annotated[
        Reach, Meta(description="local_only, local_first, any or online_first; a model's or a key's comes before it.")
    ] = "any"
    offline: Annotated[bool, Meta(description="true: nothing leaves this house; engines serve alone.")] = False
    sticky_load: Annotated[
        float,
        Meta(ge=1, le=100, description="A session leaves its target when that has so many times the mean load."),
    ] = 1.25
    evals: Annotated[
        str | None, Meta(description="The file that `tidegate eval run` wrote: how good each target is; null: unknown.")
    ] = None
    retry: Annotated[RetryConfig, Meta(description="When something is tried again.")] = RetryConfig()
    health: Annotated[HealthConfig, Meta(description="When a target is left out.")] = HealthConfig()


def faults(routing: RoutingConfig) -> Iterator[str]:
    """What cannot work: key, fault and cure, to be set behind `routing`."""
    retry, health = routing.retry, routing.health
    if retry.backoff_s > retry.max_backoff_s:
        yield f".retry.backoff_s: {retry.backoff_s:g} is over max_backoff_s ({retry.max_backoff_s:g}); lower it"
    if health.ejection_s > health.max_ejection_s:
        yield f".health.ejection_s: {health.ejection_s:g} is over max_ejection_s ({health.max_ejection_s:g}); lower it"
