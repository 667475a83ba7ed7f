"""Full jitter."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegate.routing.backoff import delay_s


class Highest(Random):
    """Dice that always fall highest."""

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize(
    ("tries", "longest_s"), [(0, 0.25), (1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (5000, 8)]
)
def test_the_longest_pause_doubles_up_to_the_most(tries, longest_s):
    assert delay_s(tries, 0.25, 8, Highest()) == longest_s


@given(st.integers(0, 10_000), st.floats(0.001, 100), st.floats(0.001, 1000), st.integers())
def test_every_pause_is_within_its_bounds(tries, base_s, max_s, seed):
    assert 0 <= delay_s(tries, base_s, max_s, Random(seed)) <= max_s


def test_pauses_fall_anywhere_between():
    """Not around the longest: those who failed together come back one by one."""
    rng = Random(1)
    pauses = [delay_s(2, 0.25, 8, rng) for _ in range(1000)]
    tenths = [sum(tenth <= 10 * pause < tenth + 1 for pause in pauses) for tenth in range(10)]
    assert min(tenths) > 60
