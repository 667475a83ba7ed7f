"""`Planner`: which targets may take a request, in which order; who may not, and why."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from msgspec import Struct

from proxy.config.cards import Price
from proxy.config.models import ModelConfig
from proxy.config.routing import RoutingConfig
from proxy.errors import LocalModelUnavailable, NoTarget, ProxyError, UpstreamRateLimited
from proxy.protocol.routing import Reach
from proxy.routing import affinity
from proxy.routing.ask import Ask
from proxy.routing.board import Board, Standing
from proxy.routing.candidate import Candidate, Placed, Policy
from proxy.routing.health import available
from proxy.routing.offline import Offline
from proxy.routing.policies import registry
from proxy.routing.policies.local_first import locals_first, online_first
from proxy.routing.pressure import Told
from proxy.routing.quality import Qualities
from proxy.routing.targets import Target

_PLAIN = ModelConfig(targets=())  # how a name is served that nobody configured
_STICKY = frozenset(
    {"weighted", "least_latency", "local_first", "balanced"}
)  # the others' order is the operator's word
_BLIND = frozenset({"ordered", "weighted", "local_first"})  # they compare nothing but whether an engine is pressed
_SIDES = {"local_first": locals_first, "online_first": online_first}
_OFFLINE_S = 5.0  # by then hosts have been asked again whether they are there
_TOKENS = 1_000_000


class Look(Struct, frozen=True):
    """What an engine does now.

    Attributes:
        is_ready: it answers.
        state: a word for people.
        told: what it last said of its load; None where it says nothing.
    """

    is_ready: bool
    state: str
    told: Told | None = None


class Surroundings(Protocol):
    """What lies behind the targets, as far as it may keep a request away."""

    def look(self, target: Target) -> Look | None:
        """At the engine; None for a host elsewhere."""

    def free_in_s(self, target: Target) -> float:
        """0, or the seconds until one of the host's credentials may be used again."""

    def refused_for_s(self, target: Target) -> float:
        """0, or the seconds for which the host is not likely to take any of our credentials."""


class Names(Protocol):
    """What a model means (see `router.Router`)."""

    async def candidates(self, model: str, *, reach: Reach) -> Sequence[Target]:
        """Its targets; raises `ModelNotFound`."""


class Land(Protocol):
    """What is known of targets (see `proxy.pipeline.landscape`)."""

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
    """

    target: Target
    why: str
    for_s: float | None = None
    is_limited: bool = False
    is_final: bool = False


class Plan(Struct, frozen=True):
    """What is to be done with one request.

    Attributes:
        settings: the model's.
        placed: the targets to be tried, in order; at least one.
        refused: the others.
        is_panic: too many are out of order for that to count.
    """

    settings: ModelConfig
    placed: Sequence[Placed]
    refused: Sequence[Refused] = ()
    is_panic: bool = False

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
        dice: for policies that draw.
    """

    def __init__(
        self,
        names: Names,
        land: Land,
        *,
        models: Mapping[str, ModelConfig],
        routing: RoutingConfig,
        dice: Random,
    ) -> None:
        self._names = names
        self._board = land.board
        self._qualities = land.qualities
        self._offline = land.offline
        self._surroundings = land.upstreams
        self._models = models
        self._routing = routing
        self._dice = dice
        self._policies: dict[str, Policy] = {name: registry.make(model) for name, model in models.items()}
        self._plain = registry.make(_PLAIN)

    async def plan(self, ask: Ask) -> Plan:
        """The targets for a request.

        Raises:
            ModelNotFound: nobody knows the name.
            LocalModelUnavailable: it may not leave the house, and no engine here has the model.
            UpstreamRateLimited, NoTarget: there are targets, and none may take it.
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
        refused: list[Refused] = []
        standings = [self._board.of(target) for target in targets]
        free = [each for each in standings if not self._is_barred(ask, each.target, settings, refused)]
        able, is_panic = self._able(standings, free, refused)
        if len(able) > 1:
            able = self._with_good_keys(able, refused)
        is_blind = settings.policy in _BLIND and not looks_at_all
        candidates = [self._candidate(ask, standing, settings, is_blind=is_blind) for standing in able]
        return Plan(settings, self._place(ask, candidates, settings), refused, is_panic)

    def _only(self, ask: Ask, target: Target, settings: ModelConfig) -> Plan:
        """The plan where there is nothing to choose, without the price of choosing."""
        refused: list[Refused] = []
        if self._is_barred(ask, target, settings, refused):
            return Plan(settings, (), refused)
        return Plan(settings, (Placed(Candidate(target=target)),))

    def _is_barred(self, ask: Ask, target: Target, settings: ModelConfig, refused: list[Refused]) -> bool:
        """Whether the target may not have the request, however well it does; why is noted."""
        if not target.is_local:
            if ask.reach == "local_only":
                refused.append(
                    Refused(target, "the request may not leave this house (reach local_only)", is_final=True)
                )
                return True
            if self._offline.is_offline:
                refused.append(Refused(target, "Tidegate is offline", is_final=self._offline.is_forced))
                return True
            if (wait_s := self._surroundings.free_in_s(target)) > 0:
                refused.append(Refused(target, "its rate limit is used up", wait_s, is_limited=True))
                return True
        ceiling = settings.max_price_usd
        if ceiling is not None and (price := price_usd(target, ask)) is not None and price > ceiling:
            refused.append(
                Refused(
                    target, f"it would cost about {price:.6f} USD, more than the model's max_price_usd", is_final=True
                )
            )
            return True
        return False

    def _able(
        self, standings: Sequence[Standing], free: Sequence[Standing], refused: list[Refused]
    ) -> tuple[Sequence[Standing], bool]:
        """Those of `free` that are in order; all of them where too many of the model's targets are not (panic)."""
        if all(standing.health.may_take() for standing in standings):
            return free, False
        found = available([standing.health for standing in standings], self._routing.health.max_ejected)
        if found.is_panic:
            return free, True
        out = {id(each) for each, may_take in zip(standings, found.may_take, strict=True) if not may_take}
        refused += [
            Refused(each.target, "it has failed too often", each.health.out_for_s) for each in free if id(each) in out
        ]
        return [standing for standing in free if id(standing) not in out], False

    def _with_good_keys(self, able: Sequence[Standing], refused: list[Refused]) -> Sequence[Standing]:
        """Those whose hosts have not refused our credentials; all of them where all have, as it may be over."""
        refused_for_s = self._surroundings.refused_for_s
        out = {id(each): for_s for each in able if (for_s := refused_for_s(each.target))}
        if not out or len(out) == len(able):
            return able
        refused += [
            Refused(each.target, "its host has refused our credentials", out[id(each)])
            for each in able
            if id(each) in out
        ]
        return [each for each in able if id(each) not in out]

    def _candidate(self, ask: Ask, standing: Standing, settings: ModelConfig, *, is_blind: bool) -> Candidate:
        target, limit_s = standing.target, settings.overflow_ttft_s
        look = self._surroundings.look(target) if target.is_local else None
        is_pressed = look is not None and not look.is_ready
        if is_blind and (look is None or is_pressed or limit_s is None):
            return Candidate(
                target=target, in_flight=standing.in_flight, share=standing.health.share, is_pressed=is_pressed
            )
        prompt_tokens = ask.prompt_tokens
        ttft_s, per_token_s, failure_rate = standing.latency.read(prompt_tokens)
        if look is not None:
            ttft_s = standing.pressure.predict_s(prompt_tokens, look.told)  # those who wait there count
        return Candidate(
            target=target,
            in_flight=standing.in_flight,
            ttft_s=ttft_s,
            per_token_s=per_token_s,
            failure_rate=failure_rate,
            price_usd=price_usd(target, ask),
            quality=self._qualities.mean(target, ask.task),
            share=standing.health.share,
            is_pressed=is_pressed or (look is not None and limit_s is not None and ttft_s > limit_s),
        )

    def _place(self, ask: Ask, candidates: Sequence[Candidate], settings: ModelConfig) -> Sequence[Placed]:
        if not candidates:
            return ()
        placed = self._policies.get(ask.model, self._plain).place(candidates, ask, self._dice)
        if ask.reach in _SIDES:
            placed = _SIDES[ask.reach](placed)
        if len(placed) > 1 and settings.sticky and settings.policy in _STICKY:
            placed = affinity.stay(placed, ask, max_load=self._routing.sticky_load)
        return placed


def price_usd(target: Target, ask: Ask) -> float | None:
    """About what the request will cost there, in US dollars; None where that is not known."""
    if target.is_local:
        return 0.0
    price: Price | None = target.card.price
    if price is None:
        return None
    tokens_usd = ask.prompt_tokens * float(price.input_usd_per_mtok) + ask.answer_tokens * float(
        price.output_usd_per_mtok
    )
    return tokens_usd / _TOKENS


def _nobody(ask: Ask, refused: Sequence[Refused], *, is_offline: bool) -> ProxyError:
    """The error for a request that no target may take; whether another try may help is in it."""
    model, told = ask.model[:256], "; ".join(dict.fromkeys(each.why for each in refused))
    waits_s = [each.for_s for each in refused if each.for_s is not None]
    is_hopeless = all(each.is_final for each in refused)
    should_retry = False if is_hopeless else None
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
