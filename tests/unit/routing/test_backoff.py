"""Full jitter: random pauses before the same target is tried again."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.routing.backoff import delay_s


class Highest(Random):
    """Random numbers that are always the highest possible."""

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize(
    ("repeats", "longest_s"), [(0, 0.25), (1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (5000, 8)]
)
def test_the_longest_pause_doubles_up_to_the_maximum(repeats, longest_s):
    assert delay_s(repeats, 0.25, 8, Highest()) == longest_s


@given(st.integers(0, 10_000), st.floats(0.001, 100), st.floats(0.001, 1000), st.integers())
def test_every_pause_is_within_its_bounds(repeats, base_s, max_s, seed):
    assert 0 <= delay_s(repeats, base_s, max_s, Random(seed)) <= max_s


def test_pauses_are_spread_over_the_whole_range():
    """Not around the longest: requests that failed together come back one by one."""
    rng = Random(1)
    pauses = [delay_s(2, 0.25, 8, rng) for _ in range(1000)]
    tenths = [sum(tenth <= 10 * pause < tenth + 1 for pause in pauses) for tenth in range(10)]
    assert min(tenths) > 60
