"""`local_first`: local engines while they have room, then hosted upstreams.

The partitions are separate functions, because the reaches `local_first` and `online_first` apply them to any policy's
order. A pressed engine (too long a wait, or not ready) comes after the hosted upstreams and stays in the list: if all
of those fail, it still answers, if late.
"""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, Placed, Signals
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class LocalFirst:
    """Both sides are in the order of the config; nothing is compared."""

    reads: Signals = frozenset()
    allows_affinity = True

    def place(self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random) -> Sequence[Placed]:  # noqa: ARG002 Policy's
        return ease_in(locals_first([Placed(candidate) for candidate in candidates]), rng)


def locals_first(placed: Sequence[Placed]) -> list[Placed]:
    """Local engines with room, hosted upstreams, pressed engines; each group in its earlier order."""
    return sorted(placed, key=_local_rank)


def online_first(placed: Sequence[Placed]) -> list[Placed]:
    """Hosted upstreams, local engines with room, pressed engines; each group in its earlier order."""
    return sorted(placed, key=_online_rank)


def _local_rank(placed: Placed) -> int:
    candidate = placed.candidate
    return (2 if candidate.is_pressed else 0) if candidate.target.is_local else 1


def _online_rank(placed: Placed) -> int:
    candidate = placed.candidate
    return (2 if candidate.is_pressed else 1) if candidate.target.is_local else 0
