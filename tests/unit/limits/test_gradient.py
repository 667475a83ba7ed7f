"""A limit learnt from times to first token."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.limits.gradient import Gradient2

USUAL_S = 0.5
SAMPLE = st.tuples(
    st.floats(min_value=-1, max_value=1e6, allow_nan=False), st.integers(0, 2000), st.integers(0, 1_000_000)
)


def fed(gradient, samples, *, ttft_s=USUAL_S, in_flight=None, prompt_tokens=500):
    for _ in range(samples):
        gradient.sample(ttft_s, gradient.limit if in_flight is None else in_flight, prompt_tokens)
    return gradient.limit


class FullTarget:
    """A target that always has as many requests as the limit allows.

    Over its capacity, times rise with the number of requests; they vary at random.
    """

    def __init__(self, capacity, *, baseline_s=USUAL_S, seed=1):
        self.capacity = capacity
        self.baseline_s = baseline_s
        self.rng = Random(seed)

    def answer(self, gradient, samples, *, sizes=(500,)):
        """The limit after each sample."""
        limits = []
        for _ in range(samples):
            size = self.rng.choice(sizes)
            queueing = max(1.0, gradient.limit / self.capacity)
            ttft_s = self.baseline_s * (1 + size / 2000) * queueing * self.rng.lognormvariate(0, 0.3)
            gradient.sample(ttft_s, gradient.limit, size)
            limits.append(gradient.limit)
        return limits


@given(st.lists(SAMPLE, max_size=200), st.integers(1, 1000), st.integers(1, 50), st.integers(0, 500))
@settings(max_examples=50)
def test_the_limit_stays_in_its_bounds_whatever_is_measured(samples, initial, least, more):
    gradient = Gradient2(initial, least, least + more)
    for sample in samples:
        gradient.sample(*sample)
        assert least <= gradient.limit <= least + more


@given(st.integers(4, 200))
@settings(max_examples=30)
def test_steady_times_under_full_use_let_the_limit_grow(initial):
    assert fed(Gradient2(initial, 4, 1000), 500) > initial


@given(st.floats(2.5, 100), st.integers(20, 200))
@settings(max_examples=30)
def test_rising_times_make_the_limit_shrink(times_slower, initial):
    gradient = Gradient2(initial, 4, 1000)
    before = fed(gradient, 100)
    assert fed(gradient, 300, ttft_s=USUAL_S * times_slower) < before


def test_the_limit_recovers_when_times_are_normal_again():
    gradient = Gradient2(50, 4, 1000)
    before = fed(gradient, 100)
    low = fed(gradient, 150, ttft_s=USUAL_S * 10)
    assert (low < before / 3, fed(gradient, 1000) > before) == (True, True)


def test_the_limit_does_not_grow_while_the_target_is_used_to_less_than_half_of_it():
    assert fed(Gradient2(20, 4, 1000), 500, in_flight=9) == 20


def test_the_limit_does_not_shrink_when_a_target_with_little_load_is_slow():
    gradient = Gradient2(20, 4, 1000)
    fed(gradient, 50, in_flight=5)
    assert fed(gradient, 10, in_flight=5, ttft_s=USUAL_S * 4) == 20


@pytest.mark.parametrize("capacity", [4, 16, 64])
def test_at_a_target_that_is_always_full_the_limit_settles_near_the_capacity(capacity):
    """The target's own queue does not become the baseline, however long it lasts."""
    limits = FullTarget(capacity).answer(Gradient2(20, 4, 1000), 20_000)
    late = limits[10_000:]
    assert capacity * 0.7 < sum(late) / len(late) < capacity * 2 + 8


def test_a_target_that_became_slower_for_good_is_measured_anew():
    gradient = Gradient2(20, 4, 200)
    FullTarget(100).answer(gradient, 5_000)
    late = FullTarget(100, baseline_s=USUAL_S * 3).answer(gradient, 10_000)[5_000:]
    assert sum(late) / len(late) > 70


def test_new_baselines_wait_until_the_requests_over_the_halved_limit_have_ended():
    """The limit was halved; the requests sent before that still queue."""
    gradient = Gradient2(16, 4, 1000)
    before = fed(gradient, 100)
    for _ in range(2000):
        last, before = before, fed(gradient, 1, ttft_s=USUAL_S * 2, in_flight=60)
        if before < last * 0.6:
            break
    assert (before < 16, fed(gradient, 100, ttft_s=USUAL_S * 2, in_flight=60)) == (True, before)
    assert fed(gradient, 20) > before


def test_long_prompts_are_no_overload():
    """They take 20 times as long, and arrive all at once."""
    gradient = Gradient2(50, 4, 100)
    target = FullTarget(1000)
    target.answer(gradient, 2000, sizes=(100, 500, 20_000))
    assert min(target.answer(gradient, 1000, sizes=(20_000,))) >= 95


def test_a_baseline_learnt_under_load_is_corrected():
    gradient = Gradient2(20, 4, 1000)
    fed(gradient, 10, ttft_s=USUAL_S * 10)
    grown = fed(gradient, 300)
    assert fed(gradient, 200, ttft_s=USUAL_S * 10) < grown


def test_a_time_of_zero_is_not_counted():
    assert fed(Gradient2(20, 4, 1000), 500, ttft_s=0.0) == 20
