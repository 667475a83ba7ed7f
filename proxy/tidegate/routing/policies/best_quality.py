"""`best_quality`: the target with the best answers; of equally good ones the cheaper, then the faster."""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, RankedCandidate, Signals
from tidegate.routing.policies.expectation import expected_s
from tidegate.routing.policies.least_cost import price_or_most
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class BestQuality:
    """Scores are one minus the quality, 0 to 1."""

    reads: Signals = frozenset({"quality", "price", "latency"})
    allows_affinity = False

    def rank(
        self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random
    ) -> Sequence[RankedCandidate]:
        answer_tokens = routing_request.answer_tokens

        def rank(candidate: Candidate) -> tuple[float, float, float]:
            return -candidate.quality, price_or_most(candidate), expected_s(candidate, answer_tokens)

        ranked = sorted(candidates, key=rank)
        return ease_in([RankedCandidate(candidate, 1.0 - candidate.quality) for candidate in ranked], rng)
