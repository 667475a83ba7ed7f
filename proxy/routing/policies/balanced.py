"""`balanced`: everything that is known, weighed by the config.

    score = latency x worse(expected seconds) + cost x worse(price) + load x worse(in flight)
          + quality x (best quality - quality) + failures x failure rate + locality x (0 ours, 1 elsewhere)

    worse(x) = (x - least) / most

The least score comes first. The signals of the last line are between 0 and 1 by nature; those of the first are made so
over the candidates at hand: 0 for the best, 0.5 for what is twice the best where nothing is worse, near 1 for what is
far worse. (Stretching each from 0 to 1 would let a hundredth of a second outweigh ten times the price.) A price that is
not known counts as 0.5, a time as the best there is: it gets tried, and then it is known.
"""

from collections.abc import Sequence
from itertools import repeat
from math import inf
from operator import attrgetter
from random import Random

from proxy.config.models import BalanceConfig
from proxy.routing.ask import Ask
from proxy.routing.candidate import Candidate, Placed
from proxy.routing.policies.expectation import expected_s
from proxy.routing.policies.slow_start import ease_in

_NEUTRAL = 0.5


class Balanced:
    """Scores are the weighted sums."""

    def __init__(self, weights: BalanceConfig) -> None:
        self._weights = weights

    def place(self, candidates: Sequence[Candidate], ask: Ask, dice: Random) -> Sequence[Placed]:
        if not candidates:
            return ()
        placed = list(map(Placed, candidates, self._scores(candidates, ask)))
        placed.sort(key=attrgetter("score"))
        return ease_in(placed, dice)

    def _scores(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        weights = self._weights
        slowness = worse([expected_s(candidate, ask) for candidate in candidates])
        price = worse([candidate.price_usd for candidate in candidates])
        load = worse([candidate.in_flight for candidate in candidates]) if weights.load else repeat(0.0)
        best = max([candidate.quality for candidate in candidates])
        return [
            weights.latency * slow
            + weights.cost * dear
            + weights.load * busy
            + weights.quality * (best - candidate.quality)
            + weights.failures * candidate.failure_rate
            + (0.0 if candidate.target.is_local else weights.locality)
            for candidate, slow, dear, busy in zip(candidates, slowness, price, load, strict=False)
        ]


def worse(values: Sequence[float | None]) -> list[float]:
    """How much worse than the least each is, as a share of the most: 0 to 1; None: not known; endless is 1."""
    known = [value for value in values if value is not None and value != inf]
    if not known:
        return [_NEUTRAL if value is None else 1.0 for value in values]
    least, most = min(known), max(known) or 1.0
    return [_NEUTRAL if value is None else 1.0 if value == inf else (value - least) / most for value in values]
