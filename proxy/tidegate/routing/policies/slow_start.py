"""Slow start: a target that was out is not given its whole part at once."""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Placed


def ease_in(placed: Sequence[Placed], rng: Random) -> Sequence[Placed]:
    """The same order, but one in slow start comes first only as often as its share says.

    Otherwise the next one comes first; the one that gave way stays the next to be tried.
    """
    for number, one in enumerate(placed):
        share = one.candidate.share
        if share >= 1.0 or rng.random() < share:
            return [one, *placed[:number], *placed[number + 1 :]] if number else placed
    return placed
