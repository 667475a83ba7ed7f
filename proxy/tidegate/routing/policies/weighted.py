"""`weighted`: a random order, in which each target is first as often as its weight says."""

from collections.abc import Sequence
from math import inf, log
from random import Random

from tidegate.routing.candidate import Candidate, RankedCandidate, Signals
from tidegate.routing.request import RoutingRequest


class Weighted:
    """Draws without replacement, so that the target that takes over for a failed one is chosen by weight too.

    Each candidate gets an exponentially distributed random number, smaller for a higher weight; sorting by it is such a
    draw (Efraimidis and Spirakis). The number is the score. In slow start the weight is multiplied by the share. A
    weight of 0 comes last: such a target is tried only when all others have failed.
    """

    reads: Signals = frozenset()
    allows_affinity = True

    def rank(
        self,
        candidates: Sequence[Candidate],
        routing_request: RoutingRequest,  # noqa: ARG002 - a parameter of `Policy`
        rng: Random,
    ) -> Sequence[RankedCandidate]:
        ranked = [
            RankedCandidate(candidate, _random_score(candidate.target.weight * candidate.share, rng))
            for candidate in candidates
        ]
        return sorted(ranked, key=_score)


def _random_score(weight: float, rng: Random) -> float:
    return -log(1.0 - rng.random()) / weight if weight > 0 else inf


def _score(ranked: RankedCandidate) -> float:
    return inf if ranked.score is None else ranked.score
