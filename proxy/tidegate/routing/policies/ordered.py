"""`ordered`: the order of the config; the next target is tried only when the one before fails."""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, RankedCandidate, Signals
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class Ordered:
    """Compares nothing."""

    reads: Signals = frozenset()
    allows_affinity = False

    def rank(
        self,
        candidates: Sequence[Candidate],
        routing_request: RoutingRequest,  # noqa: ARG002 - a parameter of `Policy`
        rng: Random,
    ) -> Sequence[RankedCandidate]:
        return ease_in([RankedCandidate(candidate) for candidate in candidates], rng)
