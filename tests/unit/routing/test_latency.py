"""How fast one target answers, learnt from its answers."""

from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fakes.clock import FakeClock
from tidegate.routing.latency import Latency


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def latency(clock):
    return Latency(clock)


def test_without_samples_the_times_are_0(latency):
    assert (latency.ttft_s(10), latency.per_token_s, latency.failure_rate) == (0, 0, 0)
    assert latency.p95_wait_s(is_stream=True) is None


def test_a_slower_answer_counts_at_once_and_decays_by_the_clock(latency, clock):
    for _ in range(50):
        latency.began(100, 0.2)
    latency.began(100, 4.0)
    assert latency.ttft_s(100) == pytest.approx(4.0)
    clock.advance(10)
    mean = 0.2 + 0.1 * (0.6 - 0.2)
    assert latency.ttft_s(100) == pytest.approx(mean + (4.0 - mean) * exp(-1))
    clock.advance(100)
    assert latency.ttft_s(100) == pytest.approx(mean, rel=0.01)


def test_ten_minutes_after_the_last_sample_the_time_is_unknown(latency, clock):
    latency.began(100, 0.2)
    clock.advance(601)
    assert latency.ttft_s(100) == 0


def test_prompts_of_each_length_have_their_own_time_or_that_of_the_nearest_length(latency):
    latency.began(5_000, 2.0)
    assert latency.ttft_s(10) == latency.ttft_s(50_000) == 2.0
    latency.began(10, 0.1)
    assert (latency.ttft_s(10), latency.ttft_s(5_000)) == (0.1, 2.0)


def test_the_time_per_token_is_that_of_the_tokens_after_the_first(latency):
    latency.began(10, 0.1)
    latency.ended(11, 2.0)
    assert latency.per_token_s == pytest.approx(0.2)


def test_the_time_of_an_unstreamed_answer_is_divided_as_in_streams(latency):
    latency.began(10, 1.0)
    latency.ended(11, 1.0)
    latency.ended_unstreamed(10, 11, 2.0)
    assert latency.ttft_s(10) == pytest.approx(1.0)
    assert latency.per_token_s == pytest.approx(0.1)


def test_failing_at_once_does_not_make_a_target_look_fast(latency, clock):
    latency.began(10, 0.2)
    latency.failed(0.001)
    assert latency.ttft_s(10) > 1.0
    clock.advance(60)
    assert latency.ttft_s(10) < 0.21


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_95th_percentile_of_waits_is_kept_for_streams_and_others_separately(latency, is_stream):
    for number in range(100):
        latency.waited(number / 100, is_stream=is_stream)
    assert latency.p95_wait_s(is_stream=is_stream) == pytest.approx(0.95)
    assert latency.p95_wait_s(is_stream=not is_stream) is None


class LatencyMachine(RuleBasedStateMachine):
    """Whatever happens, all readings are times and shares, within the range of the samples."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.latency = Latency(self.clock)
        self.longest_s = 0.0

    @rule(tokens=st.integers(1, 100_000), seconds=st.floats(0.001, 100))
    def began(self, tokens, seconds):
        self.latency.began(tokens, seconds)
        self.longest_s = max(self.longest_s, seconds)

    @rule(tokens=st.integers(1, 100_000), answer=st.integers(0, 5000), seconds=st.floats(0.001, 100))
    def ended_unstreamed(self, tokens, answer, seconds):
        self.latency.ended_unstreamed(tokens, answer, seconds)
        self.longest_s = max(self.longest_s, seconds)

    @rule(seconds=st.floats(0, 100))
    def failed(self, seconds):
        self.latency.failed(seconds)
        self.longest_s = max(self.longest_s, min(seconds + 1, 30))

    @rule(seconds=st.floats(0, 1000))
    def waits(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def all_values_are_within_the_samples(self):
        assert 0 <= self.latency.failure_rate < 1
        for tokens in (1, 5_000, 50_000):
            assert 0 <= self.latency.ttft_s(tokens) <= self.longest_s * 1.001
        assert 0 <= self.latency.per_token_s <= self.longest_s * 1.001


TestLatency = LatencyMachine.TestCase
TestLatency.settings = settings(max_examples=60, stateful_step_count=25)


@given(st.lists(st.booleans(), min_size=50, max_size=50))
@settings(max_examples=30)
def test_the_failure_rate_follows_the_outcomes(outcomes):
    latency = Latency(FakeClock())
    expected = 0.0
    for is_good in outcomes:
        if is_good:
            latency.ended(1, 0.1)
            expected *= 0.9
        else:
            latency.failed(0.1)
            expected += 0.1 * (1 - expected)
    assert latency.failure_rate == pytest.approx(expected)
