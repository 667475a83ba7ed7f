"""`balanced`: everything that is known, weighed by the config.

    score = latency x worse(expected seconds) + cost x worse(price) + load x worse(in flight)
          + quality x (1 - quality) + failures x failure rate + locality x (0 ours, 1 elsewhere)

    worse(x) = (x - least) / most

The least score comes first. The signals of the last line are between 0 and 1 by nature; those of the first are made so
over the candidates at hand: 0 for the best, 0.5 for what is twice the best where nothing is worse, near 1 for what is
far worse. (Stretching each from 0 to 1 would let a hundredth of a second outweigh ten times the price.) A price that is
not known counts as 0.5, a time as the best there is: it gets tried, and then it is known. What takes for ever is 1.
Where all are next to nothing (a failure of long ago leaves less than a billionth of a second), nobody is worse.
"""

from collections.abc import Sequence
from math import inf
from operator import attrgetter
from random import Random

from tidegate.config.models import BalanceConfig
from tidegate.routing.candidate import SIGNALS, Candidate, Placed, Signals
from tidegate.routing.policies.expectation import expected_s
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest

_NEUTRAL = 0.5
_NOTHING = 1e-12  # seconds or dollars: where all is less, nothing is worse

_score = attrgetter("score")


class Balanced:
    """Scores are the weighted sums."""

    reads: Signals = SIGNALS
    sticks = True

    def __init__(self, weights: BalanceConfig) -> None:
        self._weights = weights

    def place(self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random) -> Sequence[Placed]:
        if not candidates:
            return ()
        weights, answer_tokens = self._weights, routing_request.answer_tokens
        seconds: list[float | None] = []  # loops: a comprehension that knows names of the outside takes longer
        dollars: list[float | None] = []
        for each in candidates:
            seconds.append(expected_s(each, answer_tokens))
            dollars.append(each.price_usd)
        times, slow, least_slow = weigh(seconds, weights.latency)
        prices, dear, least_dear = weigh(dollars, weights.cost)
        good, failing = weights.quality, weights.failures
        rest = good - least_slow - least_dear
        placed = []
        for each, time_s, price, more in zip(candidates, times, prices, self._seldom(candidates), strict=True):
            risk = failing * each.failure_rate - good * each.quality
            placed.append(Placed(each, slow * time_s + dear * price + risk + more + rest))
        placed.sort(key=_score)
        return ease_in(placed, rng)

    def _seldom(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """What is added for load and locality, which weigh nothing unless the config says so."""
        weights = self._weights
        if not weights.load and not weights.locality:
            return (0.0,) * len(candidates)
        loads, busy, least_busy = weigh([each.in_flight for each in candidates], weights.load)
        far = [0.0 if each.target.is_local else weights.locality for each in candidates]
        return [busy * load - least_busy + place for load, place in zip(loads, far, strict=True)]


def weigh(values: Sequence[float | None], weight: float) -> tuple[Sequence[float], float, float]:
    """The values, with what is not known or endless filled in; a factor; an offset.

    Factor x value - offset is weight x worse(value): 0 to weight. (A list of those would cost twice the time.)
    """
    if None in values or inf in values:
        known, least, most = _fill(values)
    else:
        known = values  # type: ignore[assignment]  # there is no None in it
        least, most = min(known), max(known)
    factor = weight / most if most > _NOTHING else 0.0
    return known, factor, factor * least


def _fill(values: Sequence[float | None]) -> tuple[Sequence[float], float, float]:
    """The values with something in each place; the least and the most of the known, 0 and 1 where that is nothing."""
    known = [value for value in values if value is not None and value != inf]
    least, most = min(known, default=0.0), max(known, default=0.0)
    if most <= _NOTHING:
        most = 1.0
    filled = [least + _NEUTRAL * most if value is None else least + most if value == inf else value for value in values]
    return filled, least, most
