"""`balanced`: everything that is known, weighted by the config.

    score = latency x worse(expected seconds) + cost x worse(price) + load x worse(in flight)
          + quality x (1 - quality) + failures x failure rate + locality x (0 local, 1 hosted)

    worse(x) = (x - lowest) / highest

The lowest score comes first. The signals of the second line are between 0 and 1 by nature. Those of the first line are
scaled over the candidates at hand: 0 for the best, 0.5 for one that is twice the best if none is worse, near 1 for one
that is far worse. (If each were stretched from 0 to 1, a hundredth of a second could outweigh ten times the price.) An
unknown price counts as 0.5. An unknown time counts as the best there is: so the target gets tried, and then its time is
known. An infinite time counts as 1. If all values are negligible, none is worse: the decaying penalty of an old failure
may be far less than a nanosecond.
"""

from collections.abc import Sequence
from math import inf
from operator import attrgetter
from random import Random

from tidegate.config.models import BalanceConfig
from tidegate.routing.candidate import SIGNALS, Candidate, RankedCandidate, Signals
from tidegate.routing.policies.expectation import expected_s
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest

_NEUTRAL = 0.5
_NEGLIGIBLE = 1e-12  # seconds or dollars: if all values are less, none is worse

_score = attrgetter("score")


class Balanced:
    """Scores are the weighted sums."""

    reads: Signals = SIGNALS
    allows_affinity = True

    def __init__(self, weights: BalanceConfig) -> None:
        self._weights = weights

    def rank(
        self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random
    ) -> Sequence[RankedCandidate]:
        if not candidates:
            return ()
        weights, answer_tokens = self._weights, routing_request.answer_tokens
        seconds: list[float | None] = []  # a loop: comprehensions with names of the enclosing function are slower
        dollars: list[float | None] = []
        for each in candidates:
            seconds.append(expected_s(each, answer_tokens))
            dollars.append(each.price_usd)
        times, time_factor, time_offset = weigh(seconds, weights.latency)
        prices, price_factor, price_offset = weigh(dollars, weights.cost)
        quality_weight, failure_weight = weights.quality, weights.failures
        constant = quality_weight - time_offset - price_offset
        ranked = []
        for each, time_s, price, extra in zip(
            candidates, times, prices, self._load_and_locality(candidates), strict=True
        ):
            risk = failure_weight * each.failure_rate - quality_weight * each.quality
            ranked.append(RankedCandidate(each, time_factor * time_s + price_factor * price + risk + extra + constant))
        ranked.sort(key=_score)
        return ease_in(ranked, rng)

    def _load_and_locality(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """The part of the scores for load and locality, whose weights are 0 by default."""
        weights = self._weights
        if not weights.load and not weights.locality:
            return (0.0,) * len(candidates)
        loads, load_factor, load_offset = weigh([each.in_flight for each in candidates], weights.load)
        localities = [0.0 if each.target.is_local else weights.locality for each in candidates]
        return [load_factor * load - load_offset + locality for load, locality in zip(loads, localities, strict=True)]


def weigh(values: Sequence[float | None], weight: float) -> tuple[Sequence[float], float, float]:
    """The values, with unknown and infinite ones replaced; a factor; an offset.

    Factor x value - offset is weight x worse(value), 0 to weight. (A list of the results would take twice the time.)
    """
    if None in values or inf in values:
        known, lowest, highest = _fill(values)
    else:
        known = values  # type: ignore[assignment]  # it contains no None
        lowest, highest = min(known), max(known)
    factor = weight / highest if highest > _NEGLIGIBLE else 0.0
    return known, factor, factor * lowest


def _fill(values: Sequence[float | None]) -> tuple[Sequence[float], float, float]:
    """The values, with unknown and infinite ones replaced; the lowest and highest known value.

    If the highest is negligible, it is returned as 1.
    """
    known = [value for value in values if value is not None and value != inf]
    lowest, highest = min(known, default=0.0), max(known, default=0.0)
    if highest <= _NEGLIGIBLE:
        highest = 1.0
    filled = [
        lowest + _NEUTRAL * highest if value is None else lowest + highest if value == inf else value
        for value in values
    ]
    return filled, lowest, highest
