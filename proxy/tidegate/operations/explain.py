"""`Explainer`: where a request would be sent and why, without sending it; and the state of every target."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tidegate.config.models import Policy
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.preferences import Preferences
from tidegate.pipeline.request import routing_request_of
from tidegate.pipeline.upstream import ServingState
from tidegate.protocol.request import ModelRequest
from tidegate.protocol.routing import Priority, Reach, Task
from tidegate.routing.candidate import RankedCandidate
from tidegate.routing.health import State
from tidegate.routing.planner import ExcludedTarget, Plan
from tidegate.routing.quality import Quality
from tidegate.routing.request import RoutingRequest
from tidegate.routing.target_registry import TargetStats

_POLICY_REASONS: Mapping[Policy, str] = {
    "ordered": "its position in the config",
    "weighted": "drawn at random by its weight, for each request anew",
    "least_latency": "first the faster of two targets drawn at random, then the others, by expected time",
    "least_cost": "by its price for this request",
    "best_quality": "by the quality of its answers to this kind of task",
    "local_first": "first local engines with free capacity, then hosted upstreams, then busy local engines",
    "balanced": "by the weighted sum of its signals",
}

_REACH_REASONS: Mapping[Reach, str] = {"local_first": "local engines first", "online_first": "hosted upstreams first"}


class ExplainablePlanner(Protocol):
    """Makes plans without sending anything (see `tidegate.routing.planner`)."""

    async def evaluate(self, routing_request: RoutingRequest) -> Plan:
        """Return the plan for the request, which may have no targets; raises `ModelNotFound`."""


class CandidateReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One target as it would be used for this request, as JSON.

    Attributes:
        place: the position in the order, 1 is tried first; None if the target is not tried.
        why: why it has this position, or why it is not tried.
        is_full: whether the slots of its concurrency limit are all taken: the request would go to the next target, or
            wait.
        queue: the number of requests that wait for a slot.
        score: the value that the policy orders by, lower is better; None if the policy does not compare values.
        for_s: for how many seconds it is not tried, if that is known.
        signals: the values that policies compare, see `tidegate.routing.candidate.Candidate`.
    """

    target: str
    is_local: bool
    place: int | None = None
    why: str
    is_full: bool = False
    queue: int = 0
    score: float | None = None
    for_s: float | None = None
    signals: Mapping[str, float | bool | None] = {}


class Explanation(Struct, frozen=True, kw_only=True):
    """What would be done with a request, as JSON."""

    model: str
    policy: Policy
    reach: Reach
    priority: Priority
    task: Task
    prompt_tokens: int
    answer_tokens: int
    is_offline: bool
    is_panic: bool
    candidates: Sequence[CandidateReport]


class TargetReport(Struct, frozen=True, kw_only=True):
    """The state of one target, as JSON.

    Attributes:
        engine: the state of its engine; None for a target at a hosted upstream.
        out_for_s: seconds until it may be tried again.
        limited_for_s: seconds of cooldown left: the longer one of the target's own and of all credentials of its host.
        queue: the number of requests that wait for a slot; None if the upstream has no concurrency limit.
        health: `ok`; `ejected` (gets no requests); `trial` (the next request tests it); `ramping` (gets more and more
            requests, see `share`).
        share: the part of its usual requests that it gets now, 0 to 1; less than 1 while it is ramping.
        ttft_s: recent time to first token of short prompts, in seconds, with failures counted as long times; 0 if it
            is not known.
    """

    target: str
    is_local: bool
    engine: str | None
    health: State
    out_for_s: float
    limited_for_s: float
    share: float
    in_flight: int
    queue: int | None
    concurrency: int | None
    ttft_s: float
    per_token_s: float
    failure_rate: float
    quality: Sequence[Quality]


class TargetList(Struct, frozen=True):
    """The targets that have got requests or are in the config, as JSON."""

    is_offline: bool
    targets: Sequence[TargetReport]


class Explainer:
    """Reads the state of routing, and changes nothing.

    The code that calls a method must have authenticated the administrator.
    """

    def __init__(self, planner: ExplainablePlanner, preferences: Preferences, serving: ServingState) -> None:
        self._planner = planner
        self._preferences = preferences
        self._serving = serving

    async def explain(self, request: ModelRequest, context: RequestContext) -> Explanation:
        """Where the request would be sent.

        Raises:
            ModelNotFound: no target has the model.
            RequestError: the request would be refused.
        """
        self._preferences.resolve(request, context)
        routing_request = routing_request_of(request, context)
        plan = await self._planner.evaluate(routing_request)
        ranked = [self._placed(place, each, plan, routing_request) for place, each in enumerate(plan.ranked, start=1)]
        return Explanation(
            model=routing_request.model,
            policy=plan.settings.policy,
            reach=routing_request.reach,
            priority=routing_request.priority,
            task=routing_request.task,
            prompt_tokens=routing_request.prompt_tokens,
            answer_tokens=routing_request.answer_tokens,
            is_offline=self._serving.offline.is_offline,
            is_panic=plan.is_panic,
            candidates=[*ranked, *map(_excluded_report, plan.excluded)],
        )

    def targets(self) -> TargetList:
        """The state of every target that has got requests or is in the config."""
        return self._list(
            each for each in self._serving.target_registry.all() if each.target.upstream in self._serving.upstreams
        )

    def configured(self) -> TargetList:
        """The state of the targets that are in the config."""
        return self._list(self._serving.target_registry.configured())

    def _list(self, all_stats: Iterable[TargetStats]) -> TargetList:
        return TargetList(self._serving.offline.is_offline, list(map(self._report, all_stats)))

    def _placed(
        self, place: int, ranked: RankedCandidate, plan: Plan, routing_request: RoutingRequest
    ) -> CandidateReport:
        candidate = ranked.candidate
        signals = {name: getattr(candidate, name) for name in candidate.__struct_fields__ if name != "target"}
        concurrency_limit = self._serving.concurrency.get(candidate.target.upstream)
        is_full = concurrency_limit is not None and not concurrency_limit.has_free_slot(routing_request.priority)
        return CandidateReport(
            target=candidate.target.name,
            is_local=candidate.target.is_local,
            place=place,
            why=self._why(ranked, plan, routing_request),
            is_full=is_full,
            queue=0 if concurrency_limit is None else concurrency_limit.waiting,
            score=ranked.score,
            signals=signals,
        )

    def _why(self, ranked: RankedCandidate, plan: Plan, routing_request: RoutingRequest) -> str:
        candidate = ranked.candidate
        snapshot = self._serving.upstreams.snapshot(candidate.target)
        if not snapshot.is_ready:
            return f"its engine is {snapshot.state}"
        if candidate.is_overloaded:
            return "its first token would take longer than overflow_ttft_s"
        if ranked.why:
            return ranked.why
        reach_reason = (
            f", {_REACH_REASONS[routing_request.reach]} (reach {routing_request.reach})"
            if routing_request.reach in _REACH_REASONS
            else ""
        )
        return f"{plan.settings.policy}: {_POLICY_REASONS[plan.settings.policy]}{reach_reason}"

    def _report(self, stats: TargetStats) -> TargetReport:
        target, latency = stats.target, stats.latency
        snapshot, concurrency_limit = (
            self._serving.upstreams.snapshot(target),
            self._serving.concurrency.get(target.upstream),
        )
        return TargetReport(
            target=target.name,
            is_local=target.is_local,
            engine=snapshot.state or None,
            health=stats.health.state,
            out_for_s=stats.health.out_for_s,
            limited_for_s=max(snapshot.limited_for_s, stats.cooldown_s),
            share=stats.health.share,
            in_flight=stats.in_flight,
            queue=None if concurrency_limit is None else concurrency_limit.waiting,
            concurrency=None if concurrency_limit is None else concurrency_limit.limit,
            ttft_s=latency.ttft_s(1),
            per_token_s=latency.per_token_s,
            failure_rate=latency.failure_rate,
            quality=self._serving.qualities.report(target),
        )


def _excluded_report(excluded: ExcludedTarget) -> CandidateReport:
    return CandidateReport(
        target=excluded.target.name, is_local=excluded.target.is_local, why=excluded.why, for_s=excluded.for_s
    )
