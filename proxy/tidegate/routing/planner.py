"""`Planner`: which targets may take a request, in which order; who may not, and why."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.models import ModelConfig
from tidegate.config.routing import RoutingConfig
from tidegate.errors import LocalModelUnavailable, NoTarget, ProxyError, UnsupportedParameter, UpstreamRateLimited
from tidegate.protocol.routing import Reach
from tidegate.routing import affinity, replicas
from tidegate.routing.candidate import SIGNALS, Availability, Candidate, Placed, Policy, Signals
from tidegate.routing.health import available
from tidegate.routing.offline import Offline
from tidegate.routing.policies import registry
from tidegate.routing.policies.local_first import locals_first, online_first
from tidegate.routing.pressure import LoadReport
from tidegate.routing.quality import Qualities
from tidegate.routing.request import RoutingRequest
from tidegate.routing.target_registry import TargetRegistry, TargetStats
from tidegate.routing.targets import Target

_PLAIN = ModelConfig(targets=())  # how a name is served that nobody configured
_SIDES = {"local_first": locals_first, "online_first": online_first}
_READY: Availability = "ready"
_OFFLINE_S = 5.0  # by then hosts have been asked again whether they are there


class EngineSnapshot(Struct, frozen=True):
    """What lies behind a target now, as far as it may keep a request away.

    Attributes:
        is_ready: it answers; of a host elsewhere nobody knows.
        state: what an engine does, a word for people; empty for a host.
        phase: of a start, in a few words; empty where the engine tells none.
        done: the share of that phase that is done, 0 to 1; None where unknown.
        availability: of an engine that is not ready, see `candidate.Candidate`.
        told: what an engine last said of its load; None where it says nothing.
        calls_tools: False if it refuses requests whose answer may be a tool call.
        limited_for_s: 0, or the seconds until one of the credentials may be used again.
        refused_for_s: 0, or the seconds for which it is not likely to take any of our credentials for that model.
    """

    is_ready: bool = True
    state: str = ""
    told: LoadReport | None = None
    calls_tools: bool = True
    limited_for_s: float = 0.0
    refused_for_s: float = 0.0
    phase: str = ""
    done: float | None = None
    availability: Availability = "unavailable"


class TargetSnapshots(Protocol):
    """What lies behind the targets."""

    def look(self, target: Target) -> EngineSnapshot:
        """At the engine or host, for the target's model."""

    def in_flight(self, target: Target) -> int:
        """Requests of ours in the target's engine, for any of its models."""


class ModelRouter(Protocol):
    """What a model means (see `router.Router`)."""

    async def candidates(self, model: str, *, reach: Reach) -> Sequence[Target]:
        """Its targets; raises `ModelNotFound`."""


class RoutingState(Protocol):
    """What is known of targets (see `tidegate.pipeline.upstream`)."""

    @property
    def target_registry(self) -> TargetRegistry:
        """How they stand."""

    @property
    def qualities(self) -> Qualities:
        """How good they are."""

    @property
    def offline(self) -> Offline:
        """Whether hosts elsewhere can be reached."""

    @property
    def upstreams(self) -> TargetSnapshots:
        """What lies behind them."""


class ExcludedTarget(Struct, frozen=True):
    """A target that may not take the request.

    Attributes:
        for_s: how many seconds that lasts, where it is known.
        is_limited: its host wants no more of us for so long.
        is_final: no such request will ever do better.
        lacks_tools: it is refused only because of its tools.
    """

    target: Target
    why: str
    for_s: float | None = None
    is_limited: bool = False
    is_final: bool = False
    lacks_tools: bool = False


class Plan(Struct, frozen=True):
    """What is to be done with one request.

    Attributes:
        settings: the model's.
        placed: the targets to be tried, in order; at least one.
        refused: the others.
        is_panic: too many are out of order for that to count.
        loads: replicas that are to be loaded, as every ready replica of the first target has work.
    """

    settings: ModelConfig
    placed: Sequence[Placed]
    refused: Sequence[ExcludedTarget] = ()
    is_panic: bool = False
    loads: Sequence[Target] = ()

    @property
    def targets(self) -> Sequence[Target]:
        """Those to be tried."""
        return [placed.candidate.target for placed in self.placed]

    @property
    def favoured(self) -> int:
        """How many engines of ours with room stand in front, as `local_first` wants them."""
        for number, placed in enumerate(self.placed):
            if placed.candidate.is_pressed or not placed.candidate.target.is_local:
                return number
        return 0  # there is nobody behind them


class Planner:
    """Makes plans; owns nothing but its policies.

    Args:
        names: what models mean.
        models: their settings, by name.
        clock: the one that the land goes by.
        dice: for policies that draw.
    """

    def __init__(
        self,
        names: ModelRouter,
        serving: RoutingState,
        *,
        models: Mapping[str, ModelConfig],
        routing: RoutingConfig,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._names = names
        self._target_registry = serving.target_registry
        self._qualities = serving.qualities
        self._offline = serving.offline
        self._surroundings = serving.upstreams
        self._models = models
        self._routing = routing
        self._clock = clock
        self._rng = rng
        self._policies: dict[str, Policy] = {name: registry.make(model) for name, model in models.items()}
        self._plain = registry.make(_PLAIN)

    async def plan(self, routing_request: RoutingRequest) -> Plan:
        """The targets for a request.

        Raises:
            ModelNotFound: nobody knows the name.
            LocalModelUnavailable: it may not leave the house, and no engine here has the model.
            UpstreamRateLimited, NoTarget: there are targets, and none may take it.
            UnsupportedParameter: no target can ever take it with its tools.
        """
        plan = await self.consider(routing_request, looks_at_all=False)
        if not plan.placed:
            raise _nobody(routing_request, plan.refused, is_offline=self._offline.is_offline)
        return plan

    async def consider(self, routing_request: RoutingRequest, *, looks_at_all: bool = True) -> Plan:
        """The same, also where nobody may take it; raises `ModelNotFound`.

        With `looks_at_all` every signal is read, also those that the policy does not ask for.
        """
        settings = self._models.get(routing_request.model, _PLAIN)
        targets = await self._names.candidates(routing_request.model, reach=routing_request.reach)
        if len(targets) == 1 and settings is _PLAIN and not self._offline.is_offline:
            return self._only(routing_request, targets[0], settings)
        policy = self._policies.get(routing_request.model, self._plain)
        reads = SIGNALS if looks_at_all else policy.reads
        all_stats = list(map(self._target_registry.of, targets))
        out, is_panic = self._out(all_stats)
        candidates: list[Candidate] = []
        doubtful: list[tuple[Candidate, float]] = []  # their hosts refuse our credentials, for so many seconds
        refused: list[ExcludedTarget] = []
        now_s = self._clock.monotonic_s()  # read once: it costs as much as looking at a signal
        for stats in all_stats:
            look = self._surroundings.look(stats.target)
            if (refusal := self._bar(routing_request, stats, look, settings)) is not None:
                refused.append(refusal)
            elif stats in out:
                refused.append(ExcludedTarget(stats.target, "it has failed too often", stats.health.out_for_s))
            else:
                candidate = self._candidate(routing_request, stats, look, settings, reads, now_s)
                if look.refused_for_s:
                    doubtful.append((candidate, look.refused_for_s))
                else:
                    candidates.append(candidate)
        if not candidates:
            candidates = [each for each, _ in doubtful]  # it may be over
        elif doubtful:
            refused += [
                ExcludedTarget(each.target, "its host has refused our credentials", for_s) for each, for_s in doubtful
            ]
        if not any(candidate.target.group for candidate in candidates):
            return Plan(settings, self._place(routing_request, candidates, policy, settings), refused, is_panic)
        key = _key(routing_request, settings)
        groups = replicas.group(candidates, key, max_load=self._routing.sticky_load)
        placed = self._place(routing_request, [each.order[0] for each in groups.values()], policy, settings)
        for found in groups.values():
            refused += [
                ExcludedTarget(each.target, "a replica that is not loaded, and need not be") for each in found.spared
            ]
        first = groups[placed[0].candidate.target.shared_name].wanted if placed else None
        loads = () if first is None else (first.target,)
        return Plan(settings, replicas.ungroup(placed, groups), refused, is_panic, loads)

    def _only(self, routing_request: RoutingRequest, target: Target, settings: ModelConfig) -> Plan:
        """The plan where there is nothing to choose, without the price of choosing."""
        refusal = self._bar(
            routing_request, self._target_registry.of(target), self._surroundings.look(target), settings
        )
        return Plan(settings, (), (refusal,)) if refusal else Plan(settings, (Placed(Candidate(target=target)),))

    def _bar(
        self, routing_request: RoutingRequest, stats: TargetStats, look: EngineSnapshot, settings: ModelConfig
    ) -> ExcludedTarget | None:
        """Why the target may not have the request, however well it does; None where it may."""
        target = stats.target
        if routing_request.needs_tools and not look.calls_tools:
            return ExcludedTarget(target, "it has no tool-call parser", is_final=True, lacks_tools=True)
        if not target.is_local:
            if routing_request.reach == "local_only":
                return ExcludedTarget(target, "the request may not leave this house (reach local_only)", is_final=True)
            if self._offline.is_offline:
                return ExcludedTarget(target, "Tidegate is offline", is_final=self._offline.is_forced)
            if look.limited_for_s:
                return ExcludedTarget(target, "its rate limit is used up", look.limited_for_s, is_limited=True)
        if cooldown_s := stats.cooldown_s:
            return ExcludedTarget(target, "its host asked to wait", cooldown_s)
        ceiling = settings.max_price_usd
        if ceiling is not None:
            price = target.price_usd(routing_request.prompt_tokens, routing_request.answer_tokens)
            if price is not None and price > ceiling:
                why = f"it would cost about {price:.6f} USD, more than the model's max_price_usd"
                return ExcludedTarget(target, why, is_final=True)
        return None

    def _out(self, all_stats: Sequence[TargetStats]) -> tuple[Sequence[TargetStats], bool]:
        """Those that may not be tried, as they have failed; and whether they are too many for that to count (panic)."""
        for stats in all_stats:
            if not stats.health.may_take():
                break
        else:
            return (), False
        found = available([stats.health for stats in all_stats], self._routing.health.max_ejected)
        out = [each for each, may_take in zip(all_stats, found.may_take, strict=True) if not may_take]
        return out, found.is_panic

    def _candidate(
        self,
        routing_request: RoutingRequest,
        stats: TargetStats,
        look: EngineSnapshot,
        settings: ModelConfig,
        reads: Signals,
        now_s: float,
    ) -> Candidate:
        target, limit_s = stats.target, settings.overflow_ttft_s
        ttft_s = per_token_s = failure_rate = 0.0
        price_usd, quality, is_pressed = None, 0.5, not look.is_ready
        if "latency" in reads:
            ttft_s, per_token_s, failure_rate = stats.latency.read(routing_request.prompt_tokens, now_s)
        if target.is_local and ("latency" in reads or limit_s is not None):  # who waits there counts
            ttft_s = stats.pressure.predict_s(routing_request.prompt_tokens, look.told, now_s)
            is_pressed = is_pressed or (limit_s is not None and ttft_s > limit_s)
        if "price" in reads:
            price_usd = target.price_usd(routing_request.prompt_tokens, routing_request.answer_tokens)
        if "quality" in reads:
            quality = self._qualities.mean(target, routing_request.task, now_s)
        work, availability = 0.0, _READY
        if target.group:
            # the one has the requests at its gate, the other those for other models of the engine
            ours = max(stats.in_flight, self._surroundings.in_flight(target))
            work = ours + (0.0 if look.told is None else look.told.not_ours(ours, now_s))
            availability = _READY if look.is_ready else look.availability
        return Candidate(
            target=target,
            in_flight=stats.in_flight,
            ttft_s=ttft_s,
            per_token_s=per_token_s,
            failure_rate=failure_rate,
            price_usd=price_usd,
            quality=quality,
            share=stats.health.share,
            is_pressed=is_pressed,
            work=work,
            availability=availability,
        )

    def _place(
        self, routing_request: RoutingRequest, candidates: Sequence[Candidate], policy: Policy, settings: ModelConfig
    ) -> Sequence[Placed]:
        if not candidates:
            return ()
        placed = policy.place(candidates, routing_request, self._rng)
        if routing_request.reach in _SIDES:
            placed = _SIDES[routing_request.reach](placed)
        if policy.sticks and settings.sticky and len(placed) > 1:
            placed = affinity.stay(placed, routing_request, max_load=self._routing.sticky_load)
        return placed


def _key(routing_request: RoutingRequest, settings: ModelConfig) -> bytes:
    """The key by which a request stays at a replica; empty: at none, as for embeddings, which have no prefix cache."""
    return (
        routing_request.affinity
        if settings.sticky and (routing_request.session or routing_request.endpoint != "embeddings")
        else b""
    )


def _nobody(routing_request: RoutingRequest, refused: Sequence[ExcludedTarget], *, is_offline: bool) -> ProxyError:
    """The error for a request that no target may take; whether another try may help is in it."""
    model, told = routing_request.model[:256], "; ".join(dict.fromkeys(each.why for each in refused))
    waits_s = [each.for_s for each in refused if each.for_s is not None]
    is_hopeless = all(each.is_final for each in refused)
    should_retry = False if is_hopeless else None
    if is_hopeless and any(each.lacks_tools for each in refused):
        field = routing_request.tools_field
        told = f"Unsupported parameter: '{field}' is not supported with the model '{model}'."
        return UnsupportedParameter(told, param=field)
    if routing_request.reach == "local_only" or is_offline:
        line = "may not leave" if routing_request.reach == "local_only" else "cannot leave, as Tidegate is offline"
        if any(each.target.is_local for each in refused):
            message = f"No engine here may take a request for the model '{model}', which {line}: {told}."
        else:
            message = f"The model '{model}' is not on an engine here, and the request {line}."
        wait_s = None if is_hopeless else min(waits_s, default=_OFFLINE_S)
        return LocalModelUnavailable(message, retry_after_s=wait_s, should_retry=should_retry)
    limited = [each.for_s for each in refused if each.is_limited and each.for_s is not None]
    if limited:
        limit = "The rate limit of every target is used up." if len(limited) == len(refused) else f"No target: {told}."
        return UpstreamRateLimited(limit, retry_after_s=min(limited), is_told=True)
    if is_hopeless:
        return NoTarget(f"No target may take such a request: {told}.", should_retry=False)
    return NoTarget(f"No target may take this request now: {told}.", retry_after_s=min(waits_s, default=_OFFLINE_S))
