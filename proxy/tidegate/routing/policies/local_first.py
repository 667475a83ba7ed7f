"""`local_first`: local engines that are not overloaded, then hosted upstreams.

`locals_first` and `online_first` are separate functions: the reaches `local_first` and `online_first` apply them to any
policy's order. An overloaded engine (too long a wait, or not ready) comes after the hosted upstreams and stays
in the list: if all of those fail, it still answers, if late.
"""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, RankedCandidate, Signals
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class LocalFirst:
    """Local and hosted targets are each in the order of the config; nothing is compared."""

    reads: Signals = frozenset()
    allows_affinity = True

    def rank(
        self,
        candidates: Sequence[Candidate],
        routing_request: RoutingRequest,  # noqa: ARG002 - a parameter of `Policy`
        rng: Random,
    ) -> Sequence[RankedCandidate]:
        return ease_in(locals_first([RankedCandidate(candidate) for candidate in candidates]), rng)


def locals_first(ranked: Sequence[RankedCandidate]) -> list[RankedCandidate]:
    """Local engines with room, hosted upstreams, overloaded engines; each group in its earlier order."""
    return sorted(ranked, key=_local_rank)


def online_first(ranked: Sequence[RankedCandidate]) -> list[RankedCandidate]:
    """Hosted upstreams, local engines with room, overloaded engines; each group in its earlier order."""
    return sorted(ranked, key=_online_rank)


def _local_rank(ranked: RankedCandidate) -> int:
    candidate = ranked.candidate
    return (2 if candidate.is_overloaded else 0) if candidate.target.is_local else 1


def _online_rank(ranked: RankedCandidate) -> int:
    candidate = ranked.candidate
    return (2 if candidate.is_overloaded else 1) if candidate.target.is_local else 0
