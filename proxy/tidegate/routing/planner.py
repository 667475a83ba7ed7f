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
from tidegate.routing.pressure import Told
from tidegate.routing.quality import Qualities
from tidegate.routing.request import Ask
from tidegate.routing.target_registry import Board, Standing
from tidegate.routing.targets import Target

_PLAIN = ModelConfig(targets=())  # how a name is served that nobody configured
_SIDES = {"local_first": locals_first, "online_first": online_first}
_READY: Availability = "ready"
_OFFLINE_S = 5.0  # by then hosts have been asked again whether they are there


class Look(Struct, frozen=True):
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
    told: Told | None = None
    calls_tools: bool = True
    limited_for_s: float = 0.0
    refused_for_s: float = 0.0
    phase: str = ""
    done: float | None = None
    availability: Availability = "unavailable"


class Surroundings(Protocol):
    """What lies behind the targets."""

    def look(self, target: Target) -> Look:
        """At the engine or host, for the target's model."""

    def in_flight(self, target: Target) -> int:
        """Requests of ours in the target's engine, for any of its models."""


class Names(Protocol):
    """What a model means (see `router.Router`)."""

    async def candidates(self, model: str, *, reach: Reach) -> Sequence[Target]:
        """Its targets; raises `ModelNotFound`."""


class Land(Protocol):
    """What is known of targets (see `tidegate.pipeline.serving_state`)."""

    @property
    def board(self) -> Board:
        """How they stand."""

    @property
    def qualities(self) -> Qualities:
        """How good they are."""

    @property
    def offline(self) -> Offline:
        """Whether hosts elsewhere can be reached."""

    @property
    def upstreams(self) -> Surroundings:
        """What lies behind them."""


class Refused(Struct, frozen=True):
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
    refused: Sequence[Refused] = ()
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
        names: Names,
        land: Land,
        *,
        models: Mapping[str, ModelConfig],
        routing: RoutingConfig,
        clock: Clock,
        dice: Random,
    ) -> None:
        self._names = names
        self._board = land.board
        self._qualities = land.qualities
        self._offline = land.offline
        self._surroundings = land.upstreams
        self._models = models
        self._routing = routing
        self._clock = clock
        self._dice = dice
        self._policies: dict[str, Policy] = {name: registry.make(model) for name, model in models.items()}
        self._plain = registry.make(_PLAIN)

    async def plan(self, ask: Ask) -> Plan:
        """The targets for a request.

        Raises:
            ModelNotFound: nobody knows the name.
            LocalModelUnavailable: it may not leave the house, and no engine here has the model.
            UpstreamRateLimited, NoTarget: there are targets, and none may take it.
            UnsupportedParameter: no target can ever take it with its tools.
        """
        plan = await self.consider(ask, looks_at_all=False)
        if not plan.placed:
            raise _nobody(ask, plan.refused, is_offline=self._offline.is_offline)
        return plan

    async def consider(self, ask: Ask, *, looks_at_all: bool = True) -> Plan:
        """The same, also where nobody may take it; raises `ModelNotFound`.

        With `looks_at_all` every signal is read, also those that the policy does not ask for.
        """
        settings = self._models.get(ask.model, _PLAIN)
        targets = await self._names.candidates(ask.model, reach=ask.reach)
        if len(targets) == 1 and settings is _PLAIN and not self._offline.is_offline:
            return self._only(ask, targets[0], settings)
        policy = self._policies.get(ask.model, self._plain)
        reads = SIGNALS if looks_at_all else policy.reads
        standings = list(map(self._board.of, targets))
        out, is_panic = self._out(standings)
        candidates: list[Candidate] = []
        doubtful: list[tuple[Candidate, float]] = []  # their hosts refuse our credentials, for so many seconds
        refused: list[Refused] = []
        now_s = self._clock.monotonic_s()  # read once: it costs as much as looking at a signal
        for standing in standings:
            look = self._surroundings.look(standing.target)
            if (refusal := self._bar(ask, standing, look, settings)) is not None:
                refused.append(refusal)
            elif standing in out:
                refused.append(Refused(standing.target, "it has failed too often", standing.health.out_for_s))
            else:
                candidate = self._candidate(ask, standing, look, settings, reads, now_s)
                if look.refused_for_s:
                    doubtful.append((candidate, look.refused_for_s))
                else:
                    candidates.append(candidate)
        if not candidates:
            candidates = [each for each, _ in doubtful]  # it may be over
        elif doubtful:
            refused += [Refused(each.target, "its host has refused our credentials", for_s) for each, for_s in doubtful]
        if not any(candidate.target.group for candidate in candidates):
            return Plan(settings, self._place(ask, candidates, policy, settings), refused, is_panic)
        key = _key(ask, settings)
        groups = replicas.group(candidates, key, max_load=self._routing.sticky_load)
        placed = self._place(ask, [each.order[0] for each in groups.values()], policy, settings)
        for found in groups.values():
            refused += [Refused(each.target, "a replica that is not loaded, and need not be") for each in found.spared]
        first = groups[placed[0].candidate.target.shared_name].wanted if placed else None
        loads = () if first is None else (first.target,)
        return Plan(settings, replicas.ungroup(placed, groups), refused, is_panic, loads)

    def _only(self, ask: Ask, target: Target, settings: ModelConfig) -> Plan:
        """The plan where there is nothing to choose, without the price of choosing."""
        refusal = self._bar(ask, self._board.of(target), self._surroundings.look(target), settings)
        return Plan(settings, (), (refusal,)) if refusal else Plan(settings, (Placed(Candidate(target=target)),))

    def _bar(self, ask: Ask, standing: Standing, look: Look, settings: ModelConfig) -> Refused | None:
        """Why the target may not have the request, however well it does; None where it may."""
        target = standing.target
        if ask.needs_tools and not look.calls_tools:
            return Refused(target, "it has no tool-call parser", is_final=True, lacks_tools=True)
        if not target.is_local:
            if ask.reach == "local_only":
                return Refused(target, "the request may not leave this house (reach local_only)", is_final=True)
            if self._offline.is_offline:
                return Refused(target, "Tidegate is offline", is_final=self._offline.is_forced)
            if look.limited_for_s:
                return Refused(target, "its rate limit is used up", look.limited_for_s, is_limited=True)
        if cooldown_s := standing.cooldown_s:
            return Refused(target, "its host asked to wait", cooldown_s)
        ceiling = settings.max_price_usd
        if ceiling is not None:
            price = target.price_usd(ask.prompt_tokens, ask.answer_tokens)
            if price is not None and price > ceiling:
                why = f"it would cost about {price:.6f} USD, more than the model's max_price_usd"
                return Refused(target, why, is_final=True)
        return None

    def _out(self, standings: Sequence[Standing]) -> tuple[Sequence[Standing], bool]:
        """Those that may not be tried, as they have failed; and whether they are too many for that to count (panic)."""
        for standing in standings:
            if not standing.health.may_take():
                break
        else:
            return (), False
        found = available([standing.health for standing in standings], self._routing.health.max_ejected)
        out = [each for each, may_take in zip(standings, found.may_take, strict=True) if not may_take]
        return out, found.is_panic

    def _candidate(
        self, ask: Ask, standing: Standing, look: Look, settings: ModelConfig, reads: Signals, now_s: float
    ) -> Candidate:
        target, limit_s = standing.target, settings.overflow_ttft_s
        ttft_s = per_token_s = failure_rate = 0.0
        price_usd, quality, is_pressed = None, 0.5, not look.is_ready
        if "latency" in reads:
            ttft_s, per_token_s, failure_rate = standing.latency.read(ask.prompt_tokens, now_s)
        if target.is_local and ("latency" in reads or limit_s is not None):  # who waits there counts
            ttft_s = standing.pressure.predict_s(ask.prompt_tokens, look.told, now_s)
            is_pressed = is_pressed or (limit_s is not None and ttft_s > limit_s)
        if "price" in reads:
            price_usd = target.price_usd(ask.prompt_tokens, ask.answer_tokens)
        if "quality" in reads:
            quality = self._qualities.mean(target, ask.task, now_s)
        work, availability = 0.0, _READY
        if target.group:
            # the one has the requests at its gate, the other those for other models of the engine
            ours = max(standing.in_flight, self._surroundings.in_flight(target))
            work = ours + (0.0 if look.told is None else look.told.not_ours(ours, now_s))
            availability = _READY if look.is_ready else look.availability
        return Candidate(
            target=target,
            in_flight=standing.in_flight,
            ttft_s=ttft_s,
            per_token_s=per_token_s,
            failure_rate=failure_rate,
            price_usd=price_usd,
            quality=quality,
            share=standing.health.share,
            is_pressed=is_pressed,
            work=work,
            availability=availability,
        )

    def _place(
        self, ask: Ask, candidates: Sequence[Candidate], policy: Policy, settings: ModelConfig
    ) -> Sequence[Placed]:
        if not candidates:
            return ()
        placed = policy.place(candidates, ask, self._dice)
        if ask.reach in _SIDES:
            placed = _SIDES[ask.reach](placed)
        if policy.sticks and settings.sticky and len(placed) > 1:
            placed = affinity.stay(placed, ask, max_load=self._routing.sticky_load)
        return placed


def _key(ask: Ask, settings: ModelConfig) -> bytes:
    """The key by which a request stays at a replica; empty: at none, as for embeddings, which have no prefix cache."""
    return ask.affinity if settings.sticky and (ask.session or ask.endpoint != "embeddings") else b""


def _nobody(ask: Ask, refused: Sequence[Refused], *, is_offline: bool) -> ProxyError:
    """The error for a request that no target may take; whether another try may help is in it."""
    model, told = ask.model[:256], "; ".join(dict.fromkeys(each.why for each in refused))
    waits_s = [each.for_s for each in refused if each.for_s is not None]
    is_hopeless = all(each.is_final for each in refused)
    should_retry = False if is_hopeless else None
    if is_hopeless and any(each.lacks_tools for each in refused):
        field = ask.tools_field
        told = f"Unsupported parameter: '{field}' is not supported with the model '{model}'."
        return UnsupportedParameter(told, param=field)
    if ask.reach == "local_only" or is_offline:
        line = "may not leave" if ask.reach == "local_only" else "cannot leave, as Tidegate is offline"
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
