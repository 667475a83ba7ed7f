"""`least_cost`: the cheapest target for this request; of equally cheap ones the faster. Unknown prices come last."""

from collections.abc import Sequence
from math import inf
from random import Random

from tidegate.routing.candidate import Candidate, RankedCandidate, Signals
from tidegate.routing.policies.expectation import expected_s
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class LeastCost:
    """Scores are prices in US dollars."""

    reads: Signals = frozenset({"price", "latency"})
    allows_affinity = False

    def rank(
        self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random
    ) -> Sequence[RankedCandidate]:
        answer_tokens = routing_request.answer_tokens

        def rank(candidate: Candidate) -> tuple[float, float]:
            return price_or_most(candidate), expected_s(candidate, answer_tokens)

        ranked = sorted(candidates, key=rank)
        return ease_in([RankedCandidate(candidate, candidate.price_usd) for candidate in ranked], rng)


def price_or_most(candidate: Candidate) -> float:
    """The price in US dollars; infinite if it is unknown."""
    return inf if candidate.price_usd is None else candidate.price_usd
