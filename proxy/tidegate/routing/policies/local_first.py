"""`local_first`: our own engines while they have room, then hosts elsewhere.

The partitions are functions by themselves: the reaches `local_first` and `online_first` want them of any policy's
order. An engine that is pressed (too long a wait, or not ready) comes after the hosts elsewhere and stays in the list:
when all of those fail it still answers, if late.
"""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Candidate, Placed, Signals
from tidegate.routing.policies.slow_start import ease_in
from tidegate.routing.request import RoutingRequest


class LocalFirst:
    """Each side in the order of the config; compares nothing."""

    reads: Signals = frozenset()
    sticks = True

    def place(self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random) -> Sequence[Placed]:  # noqa: ARG002 Policy's
        return ease_in(locals_first([Placed(candidate) for candidate in candidates]), rng)


def locals_first(placed: Sequence[Placed]) -> list[Placed]:
    """Engines of ours with room, hosts elsewhere, pressed engines; each group in the order it had."""
    return sorted(placed, key=_local_rank)


def online_first(placed: Sequence[Placed]) -> list[Placed]:
    """Hosts elsewhere, engines of ours with room, pressed engines; each group in the order it had."""
    return sorted(placed, key=_online_rank)


def _local_rank(placed: Placed) -> int:
    candidate = placed.candidate
    return (2 if candidate.is_pressed else 0) if candidate.target.is_local else 1


def _online_rank(placed: Placed) -> int:
    candidate = placed.candidate
    return (2 if candidate.is_pressed else 1) if candidate.target.is_local else 0
