"""`ordered`: the order of the config; the next target is tried only when the one before fails."""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, Placed, Signals
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class Ordered:
    """Compares nothing."""

    reads: Signals = frozenset()
    allows_affinity = False

    def place(self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random) -> Sequence[Placed]:  # noqa: ARG002 Policy's
        return ease_in([Placed(candidate) for candidate in candidates], rng)
