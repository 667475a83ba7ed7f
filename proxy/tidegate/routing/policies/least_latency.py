"""`least_latency`: the faster one of two chosen at random (power of two choices).

Always taking the fastest would send every request of a burst to the same target, until its higher load is measured. The
better one of two chosen at random is nearly as good, and spreads the burst (Mitzenmacher). The candidates that were not
chosen follow by the same measure, so that failover goes to the next best.
"""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, RankedCandidate, Signals
from tidegate.routing.policies.expectation import expected_s
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class LeastLatency:
    """Scores are `expectation.expected_s`."""

    reads: Signals = frozenset({"latency"})
    allows_affinity = True

    def rank(
        self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random
    ) -> Sequence[RankedCandidate]:
        answer_tokens = routing_request.answer_tokens
        timed = [(expected_s(candidate, answer_tokens), number) for number, candidate in enumerate(candidates)]
        order = sorted(timed)
        if len(timed) > 2:
            winner = min(_two(timed, rng))
            order.remove(winner)
            order.insert(0, winner)
        return ease_in([RankedCandidate(candidates[number], time_s) for time_s, number in order], rng)


def _two(timed: Sequence[tuple[float, int]], rng: Random) -> tuple[tuple[float, int], tuple[float, int]]:
    """Two different candidates at random; written out, as `Random.sample` costs more than all the rest."""
    first = int(rng.random() * len(timed))
    second = int(rng.random() * (len(timed) - 1))
    return timed[first], timed[second + (second >= first)]
