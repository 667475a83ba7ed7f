"""`weighted`: at random, each as often as its weight says."""

from collections.abc import Sequence
from math import inf, log
from random import Random

from tidegate.routing.candidate import Candidate, Placed, Signals
from tidegate.routing.request import RoutingRequest


class Weighted:
    """Draws without putting back, so that who takes over for a failed one is by weight too.

    Each waits an exponentially distributed time, the heavier the shorter; the order in which they are done is such a
    draw (Efraimidis and Spirakis). That time is the score. In slow start the weight counts by the share; a weight of 0
    comes last: only when all others have failed.
    """

    reads: Signals = frozenset()
    sticks = True

    def place(self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random) -> Sequence[Placed]:  # noqa: ARG002 Policy's
        drawn = [Placed(candidate, _wait(candidate.target.weight * candidate.share, rng)) for candidate in candidates]
        return sorted(drawn, key=_score)


def _wait(weight: float, rng: Random) -> float:
    return -log(1.0 - rng.random()) / weight if weight > 0 else inf


def _score(placed: Placed) -> float:
    return inf if placed.score is None else placed.score
