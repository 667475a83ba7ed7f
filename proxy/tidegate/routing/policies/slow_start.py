"""Slow start: a target that was ejected does not get all of its usual requests at once."""

from collections.abc import Sequence
from random import Random

from tidegate.routing.candidate import RankedCandidate


def ease_in(ranked: Sequence[RankedCandidate], rng: Random) -> Sequence[RankedCandidate]:
    """The same order, but a candidate in slow start comes first only as often as its share says.

    Otherwise the next candidate comes first, and the one in slow start follows it.
    """
    for number, each in enumerate(ranked):
        share = each.candidate.share
        if share >= 1.0 or rng.random() < share:
            return [each, *ranked[:number], *ranked[number + 1 :]] if number else ranked
    return ranked
