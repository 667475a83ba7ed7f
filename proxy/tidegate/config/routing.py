"""`routing:` which targets requests may go to, and what is done when a target fails."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.config.server import Seconds
from tidegate.protocol.routing import Reach

Share = Annotated[float, Meta(ge=0, le=1)]


class RetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a request is tried again, before its first content was sent to the caller."""

    repeats: Annotated[
        int, Meta(ge=0, le=100, description="The most repeated attempts, after every target of the model failed once.")
    ] = 2
    backoff_s: Annotated[
        Seconds,
        Meta(
            description="The longest pause before a target is tried again; its length is random, and this limit doubles"
            " each time."
        ),
    ] = 0.25
    max_backoff_s: Annotated[
        Seconds,
        Meta(description="The limit of these pauses; a host that asks for a longer one (Retry-After) is not retried."),
    ] = 8.0
    budget_share: Annotated[
        Share,
        Meta(
            description="The most further attempts, as a share of the model's requests, so that an outage does not"
            " multiply the load."
        ),
    ] = 0.2
    budget_per_s: Annotated[
        float,
        Meta(ge=0, le=10_000, description="Further attempts per second in addition, for models with few requests."),
    ] = 3.0


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a target is left out, and how it returns."""

    failures: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="A target is left out after this many failures in a row; errors of callers do not count.",
        ),
    ] = 3
    ejection_s: Annotated[
        Seconds, Meta(description="How long it is left out the first time; twice as long the second time, and so on.")
    ] = 5.0
    max_ejection_s: Annotated[Seconds, Meta(description="The longest time that it is left out.")] = 120.0
    max_ejected: Annotated[
        Share, Meta(description="If more than this share of a model's targets is left out, all of them are tried.")
    ] = 0.5
    slow_start_s: Annotated[
        Seconds, Meta(description="How long it takes until a target that returned has its whole share of requests.")
    ] = 10.0
    max_cooldown_s: Annotated[
        Seconds,
        Meta(
            description="The longest wait that a host may ask for (429, 503); a single request is sent after a tenth of"
            " the wait."
        ),
    ] = 3600.0
    probe: Annotated[
        bool,
        Meta(
            description="true: a target that was left out gets requests for its models and for one token, before"
            " callers' requests."
        ),
    ] = True
    probe_every_s: Annotated[
        Seconds | None,
        Meta(
            description="How often every idle target gets such requests, even without failures; null: never, as tokens"
            " cost money."
        ),
    ] = None


class RoutingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The routing of all models."""

    reach: Annotated[
        Reach,
        Meta(
            description="Which targets requests may go to: local_only, local_first, any or online_first; the setting of"
            " a model or a key takes precedence."
        ),
    ] = "any"
    offline: Annotated[bool, Meta(description="true: requests go to engines only, and none to upstreams.")] = False
    sticky_load: Annotated[
        float,
        Meta(ge=1, le=100, description="A session leaves its target when that has this many times the mean load."),
    ] = 1.25
    evals: Annotated[
        str | None,
        Meta(description="The file that `tidegate eval run` wrote, with the quality of each target; null: none."),
    ] = None
    retry: Annotated[RetryConfig, Meta(description="How often a request is tried again.")] = RetryConfig()
    health: Annotated[HealthConfig, Meta(description="When a target is left out, and how it returns.")] = HealthConfig()


def faults(routing: RoutingConfig) -> Iterator[str]:
    """Yield the settings that cannot work: each as key, fault and cure, to be appended to `routing`."""
    retry, health = routing.retry, routing.health
    if retry.backoff_s > retry.max_backoff_s:
        yield f".retry.backoff_s: {retry.backoff_s:g} is over max_backoff_s ({retry.max_backoff_s:g}); lower it"
    if health.ejection_s > health.max_ejection_s:
        yield f".health.ejection_s: {health.ejection_s:g} is over max_ejection_s ({health.max_ejection_s:g}); lower it"
