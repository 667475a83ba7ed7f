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
    """Always used to its limit: over its capacity, times rise with what is there, with some chance in them."""

    def __init__(self, capacity, *, usual_s=USUAL_S, seed=1):
        self.capacity = capacity
        self.usual_s = usual_s
        self.rng = Random(seed)

    def answer(self, gradient, samples, *, sizes=(500,)):
        """The limits on the way."""
        limits = []
        for _ in range(samples):
            size = self.rng.choice(sizes)
            queueing = max(1.0, gradient.limit / self.capacity)
            ttft_s = self.usual_s * (1 + size / 2000) * queueing * self.rng.lognormvariate(0, 0.3)
            gradient.sample(ttft_s, gradient.limit, size)
            limits.append(gradient.limit)
        return limits


@given(st.lists(SAMPLE, max_size=200), st.integers(1, 1000), st.integers(1, 50), st.integers(0, 500))
@settings(max_examples=50)
def test_whatever_is_measured_the_limit_stays_in_its_bounds(samples, initial, least, more):
    gradient = Gradient2(initial, least, least + more)
    for sample in samples:
        gradient.sample(*sample)
        assert least <= gradient.limit <= least + more


@given(st.integers(4, 200))
@settings(max_examples=30)
def test_steady_times_under_full_use_let_it_grow(initial):
    assert fed(Gradient2(initial, 4, 1000), 500) > initial


@given(st.floats(2.5, 100), st.integers(20, 200))
@settings(max_examples=30)
def test_rising_times_make_it_shrink(times_slower, initial):
    gradient = Gradient2(initial, 4, 1000)
    before = fed(gradient, 100)
    assert fed(gradient, 300, ttft_s=USUAL_S * times_slower) < before


def test_it_recovers_when_times_are_usual_again():
    gradient = Gradient2(50, 4, 1000)
    before = fed(gradient, 100)
    low = fed(gradient, 150, ttft_s=USUAL_S * 10)
    assert (low < before / 3, fed(gradient, 1000) > before) == (True, True)


def test_it_does_not_grow_while_the_target_is_not_used_to_it():
    assert fed(Gradient2(20, 4, 1000), 500, in_flight=9) == 20


def test_nor_shrink_as_then_it_is_not_the_number_that_makes_it_slow():
    gradient = Gradient2(20, 4, 1000)
    fed(gradient, 50, in_flight=5)
    assert fed(gradient, 10, in_flight=5, ttft_s=USUAL_S * 4) == 20


@pytest.mark.parametrize("capacity", [4, 16, 64])
def test_at_a_target_that_is_always_full_it_rests_near_the_capacity(capacity):
    """It does not take its own queue for the usual thing, however long that goes on."""
    limits = FullTarget(capacity).answer(Gradient2(20, 4, 1000), 20_000)
    late = limits[10_000:]
    assert capacity * 0.7 < sum(late) / len(late) < capacity * 2 + 8


def test_a_target_that_became_slower_for_good_is_measured_anew():
    gradient = Gradient2(20, 4, 200)
    FullTarget(100).answer(gradient, 5_000)
    late = FullTarget(100, usual_s=USUAL_S * 3).answer(gradient, 10_000)[5_000:]
    assert sum(late) / len(late) > 70


def test_what_is_usual_is_not_measured_anew_among_those_that_are_still_too_many():
    """The limit was halved; those that came before still queue."""
    gradient = Gradient2(16, 4, 1000)
    before = fed(gradient, 100)
    for _ in range(2000):
        last, before = before, fed(gradient, 1, ttft_s=USUAL_S * 2, in_flight=60)
        if before < last * 0.6:
            break
    assert (before < 16, fed(gradient, 100, ttft_s=USUAL_S * 2, in_flight=60)) == (True, before)
    assert fed(gradient, 20) > before


def test_long_prompts_are_no_overload():
    """They take 20 times as long, and come all at once."""
    gradient = Gradient2(50, 4, 100)
    target = FullTarget(1000)
    target.answer(gradient, 2000, sizes=(100, 500, 20_000))
    assert min(target.answer(gradient, 1000, sizes=(20_000,))) >= 95


def test_what_was_learnt_under_load_is_unlearnt():
    gradient = Gradient2(20, 4, 1000)
    fed(gradient, 10, ttft_s=USUAL_S * 10)
    grown = fed(gradient, 300)
    assert fed(gradient, 200, ttft_s=USUAL_S * 10) < grown


def test_what_takes_no_time_is_not_counted():
    assert fed(Gradient2(20, 4, 1000), 500, ttft_s=0.0) == 20
