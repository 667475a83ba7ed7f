"""`Planner`: which targets may take a request, in which order they are tried, and why the others are excluded."""

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
from tidegate.routing.candidate import SIGNALS, Availability, Candidate, Policy, RankedCandidate, Signals
from tidegate.routing.health import available
from tidegate.routing.offline import Offline
from tidegate.routing.policies import registry
from tidegate.routing.policies.local_first import locals_first, online_first
from tidegate.routing.pressure import LoadReport
from tidegate.routing.quality import Qualities
from tidegate.routing.request import RoutingRequest
from tidegate.routing.target_registry import TargetRegistry, TargetStats
from tidegate.routing.targets import Target

_UNCONFIGURED = ModelConfig(targets=())  # the settings of a model name that is not configured
_SIDE_ORDERS = {"local_first": locals_first, "online_first": online_first}
_READY: Availability = "ready"
_OFFLINE_S = 5.0  # Retry-After if no better time is known; by then the hosted upstreams have been probed again


class EngineSnapshot(Struct, frozen=True):
    """The state of the engine or host behind a target now, as far as routing uses it.

    Attributes:
        is_ready: the engine answers; always True for a hosted upstream, whose state is unknown.
        state: an engine's state, in a word for people; empty for a host.
        phase: the phase of an engine's start, in a few words; empty if unknown.
        phase_progress: the share of that phase that is done, 0 to 1; None if unknown.
        availability: of an engine that is not ready, see `candidate.Candidate`.
        load_report: the load that an engine last reported; None if it reports none.
        parses_tool_calls: False if it refuses requests whose answer may be a tool call.
        limited_for_s: 0, or the seconds until one of the credentials may be used again.
        refused_for_s: 0, or the seconds for which the host is likely to refuse each of its credentials for that model.
    """

    is_ready: bool = True
    state: str = ""
    load_report: LoadReport | None = None
    parses_tool_calls: bool = True
    limited_for_s: float = 0.0
    refused_for_s: float = 0.0
    phase: str = ""
    phase_progress: float | None = None
    availability: Availability = "unavailable"


class TargetSnapshots(Protocol):
    """The state of the engines and hosts behind targets."""

    def snapshot(self, target: Target) -> EngineSnapshot:
        """The state of the engine or host, for the target's model."""

    def in_flight(self, target: Target) -> int:
        """The number of Tidegate's requests in the target's engine, for any of its models."""


class ModelRouter(Protocol):
    """Which targets a model name means (see `router.Router`)."""

    async def candidates(self, model: str, *, reach: Reach) -> Sequence[Target]:
        """The targets of `model`; raises `ModelNotFound`."""


class RoutingState(Protocol):
    """What is known of targets (see `tidegate.pipeline.upstream`)."""

    @property
    def target_registry(self) -> TargetRegistry:
        """The health and the times of each target."""

    @property
    def qualities(self) -> Qualities:
        """How good the answers of each target are."""

    @property
    def offline(self) -> Offline:
        """Whether hosted upstreams can be reached."""

    @property
    def upstreams(self) -> TargetSnapshots:
        """The state of the engines and hosts behind the targets."""


class ExcludedTarget(Struct, frozen=True):
    """A target that may not take the request.

    Attributes:
        why: the reason, for people.
        for_s: for how many seconds that lasts, if it is known.
        is_limited: the target's host refuses Tidegate's requests by a rate limit for so long.
        is_final: the target can never take such a request.
        lacks_tools: the target is excluded only because of the request's tools.
    """

    target: Target
    why: str
    for_s: float | None = None
    is_limited: bool = False
    is_final: bool = False
    lacks_tools: bool = False


class Plan(Struct, frozen=True):
    """The targets for one request, in order, and the excluded ones.

    Attributes:
        settings: the model's settings.
        ranked: the targets to be tried, in order; at least one, except from `Planner.evaluate`.
        excluded: the excluded targets.
        is_panic: so many of the model's targets are ejected that ejections are ignored (see `health.available`).
        replicas_to_load: replicas to be loaded in addition, because every ready replica of the first target has work.
    """

    settings: ModelConfig
    ranked: Sequence[RankedCandidate]
    excluded: Sequence[ExcludedTarget] = ()
    is_panic: bool = False
    replicas_to_load: Sequence[Target] = ()

    @property
    def targets(self) -> Sequence[Target]:
        """The targets to be tried, in order."""
        return [ranked.candidate.target for ranked in self.ranked]

    @property
    def favoured_count(self) -> int:
        """The number of local engines with room at the front of the order, before the first other target.

        `local_first` prefers them: a request waits in their queues before it goes to other targets.
        """
        for number, ranked in enumerate(self.ranked):
            if ranked.candidate.is_overloaded or not ranked.candidate.target.is_local:
                return number
        return 0  # all targets are local engines with room, so none is preferred to another


class Planner:
    """Makes plans; owns only its policies.

    Args:
        model_router: what model names mean.
        serving: what is known of targets.
        models: the settings of the configured models, by name.
        clock: the clock of `serving`.
        rng: for policies that choose at random.
    """

    def __init__(
        self,
        model_router: ModelRouter,
        serving: RoutingState,
        *,
        models: Mapping[str, ModelConfig],
        routing: RoutingConfig,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._model_router = model_router
        self._target_registry = serving.target_registry
        self._qualities = serving.qualities
        self._offline = serving.offline
        self._snapshots = serving.upstreams
        self._models = models
        self._routing = routing
        self._clock = clock
        self._rng = rng
        self._policies: dict[str, Policy] = {name: registry.make(model) for name, model in models.items()}
        self._default_policy = registry.make(_UNCONFIGURED)

    async def plan(self, routing_request: RoutingRequest) -> Plan:
        """The targets for a request.

        Raises:
            ModelNotFound: the model name is unknown.
            LocalModelUnavailable: the request may use local engines only, and none may take it.
            UpstreamRateLimited, NoTarget: there are targets, but none may take the request.
            UnsupportedParameter: no target can ever take the request with its tools.
        """
        plan = await self.evaluate(routing_request, reads_all=False)
        if not plan.ranked:
            raise _no_target_error(routing_request, plan.excluded, is_offline=self._offline.is_offline)
        return plan

    async def evaluate(self, routing_request: RoutingRequest, *, reads_all: bool = True) -> Plan:
        """The plan, also if no target may take the request; raises `ModelNotFound`.

        With `reads_all` every signal is read, also those that the policy does not compare.
        """
        settings = self._models.get(routing_request.model, _UNCONFIGURED)
        targets = await self._model_router.candidates(routing_request.model, reach=routing_request.reach)
        if len(targets) == 1 and settings is _UNCONFIGURED and not self._offline.is_offline:
            return self._plan_single(routing_request, targets[0], settings)
        policy = self._policies.get(routing_request.model, self._default_policy)
        reads = SIGNALS if reads_all else policy.reads
        all_stats = list(map(self._target_registry.stats_of, targets))
        ejected, is_panic = self._ejected(all_stats)
        candidates: list[Candidate] = []
        unauthorised: list[
            tuple[Candidate, float]
        ] = []  # their hosts refuse Tidegate's credentials, for so many seconds
        excluded: list[ExcludedTarget] = []
        now_s = self._clock.monotonic_s()  # read once: reading the clock costs as much as reading a signal
        for stats in all_stats:
            snapshot = self._snapshots.snapshot(stats.target)
            if (exclusion := self._exclusion(routing_request, stats, snapshot, settings)) is not None:
                excluded.append(exclusion)
            elif stats in ejected:
                excluded.append(ExcludedTarget(stats.target, "it has failed too often", stats.health.out_for_s))
            else:
                candidate = self._candidate(routing_request, stats, snapshot, settings, reads, now_s)
                if snapshot.refused_for_s:
                    unauthorised.append((candidate, snapshot.refused_for_s))
                else:
                    candidates.append(candidate)
        if not candidates:
            candidates = [each for each, _ in unauthorised]  # the hosts may accept the credentials again by now
        elif unauthorised:
            excluded += [
                ExcludedTarget(each.target, "its host has refused our credentials", for_s)
                for each, for_s in unauthorised
            ]
        if not any(candidate.target.group for candidate in candidates):
            return Plan(settings, self._rank(routing_request, candidates, policy, settings), excluded, is_panic)
        key = _affinity_key(routing_request, settings)
        groups = replicas.group(candidates, key, max_load=self._routing.sticky_load)
        ranked = self._rank(routing_request, [each.order[0] for each in groups.values()], policy, settings)
        for group in groups.values():
            excluded += [
                ExcludedTarget(each.target, "a replica that is not loaded, and need not be") for each in group.unneeded
            ]
        first = groups[ranked[0].candidate.target.shared_name].to_load if ranked else None
        loads = () if first is None else (first.target,)
        return Plan(settings, replicas.ungroup(ranked, groups), excluded, is_panic, loads)

    def _plan_single(self, routing_request: RoutingRequest, target: Target, settings: ModelConfig) -> Plan:
        """The plan if there is only one target, without the cost of comparing targets."""
        exclusion = self._exclusion(
            routing_request, self._target_registry.stats_of(target), self._snapshots.snapshot(target), settings
        )
        return (
            Plan(settings, (), (exclusion,))
            if exclusion
            else Plan(settings, (RankedCandidate(Candidate(target=target)),))
        )

    def _exclusion(
        self, routing_request: RoutingRequest, stats: TargetStats, snapshot: EngineSnapshot, settings: ModelConfig
    ) -> ExcludedTarget | None:
        """Why the target may not take the request, apart from its health; None if it may."""
        target = stats.target
        if routing_request.needs_tools and not snapshot.parses_tool_calls:
            return ExcludedTarget(target, "it has no tool-call parser", is_final=True, lacks_tools=True)
        if not target.is_local:
            if routing_request.reach == "local_only":
                return ExcludedTarget(
                    target, "the request may use local engines only (reach local_only)", is_final=True
                )
            if self._offline.is_offline:
                return ExcludedTarget(target, "Tidegate is offline", is_final=self._offline.is_forced)
            if snapshot.limited_for_s:
                return ExcludedTarget(target, "its rate limit is used up", snapshot.limited_for_s, is_limited=True)
        if cooldown_s := stats.cooldown_s:
            return ExcludedTarget(target, "its host asked to wait", cooldown_s)
        ceiling = settings.max_price_usd
        if ceiling is not None:
            price = target.price_usd(routing_request.prompt_tokens, routing_request.answer_tokens)
            if price is not None and price > ceiling:
                why = f"it would cost about {price:.6f} USD, more than the model's max_price_usd"
                return ExcludedTarget(target, why, is_final=True)
        return None

    def _ejected(self, all_stats: Sequence[TargetStats]) -> tuple[Sequence[TargetStats], bool]:
        """The targets that may not be tried because they failed; and whether they are too many to leave out (panic)."""
        for stats in all_stats:
            if not stats.health.may_take():
                break
        else:
            return (), False
        result = available([stats.health for stats in all_stats], self._routing.health.max_ejected)
        ejected = [each for each, may_take in zip(all_stats, result.may_take, strict=True) if not may_take]
        return ejected, result.is_panic

    def _candidate(
        self,
        routing_request: RoutingRequest,
        stats: TargetStats,
        snapshot: EngineSnapshot,
        settings: ModelConfig,
        reads: Signals,
        now_s: float,
    ) -> Candidate:
        target, overflow_s = stats.target, settings.overflow_ttft_s
        ttft_s = per_token_s = failure_rate = 0.0
        price_usd, quality, is_overloaded = None, 0.5, not snapshot.is_ready
        if "latency" in reads:
            ttft_s, per_token_s, failure_rate = stats.latency.read(routing_request.prompt_tokens, now_s)
        if target.is_local and ("latency" in reads or overflow_s is not None):  # includes the wait there
            ttft_s = stats.pressure.predict_s(routing_request.prompt_tokens, snapshot.load_report, now_s)
            is_overloaded = is_overloaded or (overflow_s is not None and ttft_s > overflow_s)
        if "price" in reads:
            price_usd = target.price_usd(routing_request.prompt_tokens, routing_request.answer_tokens)
        if "quality" in reads:
            quality = self._qualities.mean(target, routing_request.task, now_s)
        work, availability = 0.0, _READY
        if target.group:
            # the first counts requests that wait for a slot, the second those for the engine's other models
            own_requests = max(stats.in_flight, self._snapshots.in_flight(target))
            work = own_requests + (
                0.0 if snapshot.load_report is None else snapshot.load_report.other_requests(own_requests, now_s)
            )
            availability = _READY if snapshot.is_ready else snapshot.availability
        return Candidate(
            target=target,
            in_flight=stats.in_flight,
            ttft_s=ttft_s,
            per_token_s=per_token_s,
            failure_rate=failure_rate,
            price_usd=price_usd,
            quality=quality,
            share=stats.health.share,
            is_overloaded=is_overloaded,
            work=work,
            availability=availability,
        )

    def _rank(
        self, routing_request: RoutingRequest, candidates: Sequence[Candidate], policy: Policy, settings: ModelConfig
    ) -> Sequence[RankedCandidate]:
        """The order of the policy, changed by the request's reach and by the session's target."""
        if not candidates:
            return ()
        ranked = policy.rank(candidates, routing_request, self._rng)
        if routing_request.reach in _SIDE_ORDERS:
            ranked = _SIDE_ORDERS[routing_request.reach](ranked)
        if policy.allows_affinity and settings.sticky and len(ranked) > 1:
            ranked = affinity.prefer_session_target(ranked, routing_request, max_load=self._routing.sticky_load)
        return ranked


def _affinity_key(routing_request: RoutingRequest, settings: ModelConfig) -> bytes:
    """The key by which a request stays at a replica; empty if it stays at none.

    Embeddings without a session stay at none, as they have no prefix cache.
    """
    return (
        routing_request.affinity
        if settings.sticky and (routing_request.session or routing_request.endpoint != "embeddings")
        else b""
    )


def _no_target_error(
    routing_request: RoutingRequest, excluded: Sequence[ExcludedTarget], *, is_offline: bool
) -> ProxyError:
    """The error for a request that no target may take; it says whether and when another try may help."""
    model, reasons = routing_request.model[:256], "; ".join(dict.fromkeys(each.why for each in excluded))
    waits_s = [each.for_s for each in excluded if each.for_s is not None]
    is_hopeless = all(each.is_final for each in excluded)
    should_retry = False if is_hopeless else None
    if is_hopeless and any(each.lacks_tools for each in excluded):
        field = routing_request.tools_field
        message = f"Unsupported parameter: '{field}' is not supported with the model '{model}'."
        return UnsupportedParameter(message, param=field)
    if routing_request.reach == "local_only" or is_offline:
        restriction = (
            "may use local engines only"
            if routing_request.reach == "local_only"
            else "cannot use hosted upstreams, as Tidegate is offline"
        )
        if any(each.target.is_local for each in excluded):
            message = f"No local engine may take a request for the model '{model}', which {restriction}: {reasons}."
        else:
            message = f"The model '{model}' is not on a local engine, and the request {restriction}."
        wait_s = None if is_hopeless else min(waits_s, default=_OFFLINE_S)
        return LocalModelUnavailable(message, retry_after_s=wait_s, should_retry=should_retry)
    limited = [each.for_s for each in excluded if each.is_limited and each.for_s is not None]
    if limited:
        message = (
            "The rate limit of every target is used up." if len(limited) == len(excluded) else f"No target: {reasons}."
        )
        return UpstreamRateLimited(message, retry_after_s=min(limited), is_stated=True)
    if is_hopeless:
        return NoTarget(f"No target may take such a request: {reasons}.", should_retry=False)
    return NoTarget(f"No target may take this request now: {reasons}.", retry_after_s=min(waits_s, default=_OFFLINE_S))
