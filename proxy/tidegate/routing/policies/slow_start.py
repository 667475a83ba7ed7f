"""Slow start: a target that was ejected does not get all of its usual requests at once."""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import Placed


def ease_in(placed: Sequence[Placed], rng: Random) -> Sequence[Placed]:
    """The same order, but a candidate in slow start comes first only as often as its share says.

    Otherwise the next candidate comes first, and the one in slow start follows it.
    """
    for number, each in enumerate(placed):
        share = each.candidate.share
        if share >= 1.0 or rng.random() < share:
            return [each, *placed[:number], *placed[number + 1 :]] if number else placed
    return placed
