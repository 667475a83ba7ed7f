"""What is known of each target, and the reports of attempts."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.candidates import routing_request
from tests.fakes.clock import FakeClock
from tidegate.config.routing import HealthConfig
from tidegate.errors import (
    EngineUnavailable,
    SchemaMismatch,
    StreamBroken,
    TargetBusy,
    ToolCallUnparsable,
    UnsupportedParameter,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tidegate.protocol.usage import Usage
from tidegate.routing.target_registry import _MAX_UNCONFIGURED, TargetRegistry
from tidegate.routing.targets import Target

A = Target("a", "m")
REQUEST = routing_request()
TARGETS_FAULT = [UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, StreamBroken]
NOT_TARGETS_FAULT = [
    SchemaMismatch,
    EngineUnavailable,
    TargetBusy,
    ToolCallUnparsable,
    UnsupportedParameter,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamRejected,
]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def target_registry(clock):
    return TargetRegistry(clock, HealthConfig(failures=3, probe=False))


def unavailable(seconds):
    error = UpstreamFailed("no", status=503, retry_after_s=seconds)
    error.is_stated = True
    return error


def test_a_target_is_in_cooldown_after_a_503_with_retry_after(target_registry, clock):
    """Also in panic mode; a single request is its trial."""
    target_registry.begin(A, REQUEST).end(unavailable(600))
    assert target_registry.stats_of(A).cooldown_s == 600
    assert target_registry.begin(A, REQUEST, in_panic=True) is None
    clock.advance(60)
    trial = target_registry.begin(A, REQUEST)
    assert target_registry.begin(A, REQUEST, in_panic=True) is None
    trial.end(unavailable(100))
    assert target_registry.stats_of(A).cooldown_s == 100
    clock.advance(10)
    target_registry.begin(A, REQUEST).end()  # ended without an outcome
    assert target_registry.stats_of(A).cooldown_s == 90
    clock.advance(10)
    target_registry.begin(A, REQUEST).end(is_whole=True)
    assert (target_registry.stats_of(A).cooldown_s, target_registry.begin(A, REQUEST) is None) == (0, False)


def test_the_first_content_of_the_trial_ends_the_cooldown(target_registry, clock):
    target_registry.begin(A, REQUEST).end(unavailable(600))
    clock.advance(60)
    target_registry.begin(A, REQUEST).note_first_content()
    assert target_registry.begin(A, REQUEST) is not None


def test_only_a_wait_that_the_host_sent_begins_a_cooldown(target_registry):
    target_registry.begin(A, REQUEST).end(UpstreamFailed("no", status=503, retry_after_s=5))
    assert target_registry.stats_of(A).cooldown_s == 0


@pytest.mark.parametrize("error", TARGETS_FAULT)
def test_failures_by_the_targets_fault_eject_it(target_registry, error):
    for _ in range(3):
        target_registry.begin(A, REQUEST).end(error("no"))
    assert target_registry.begin(A, REQUEST) is None
    assert target_registry.stats_of(A).latency.failure_rate > 0


@pytest.mark.parametrize("error", NOT_TARGETS_FAULT)
def test_other_failures_do_not_eject_the_target(target_registry, error):
    for _ in range(10):
        target_registry.begin(A, REQUEST).end(error("no"))
    assert target_registry.stats_of(A).health.state == "ok"
    assert target_registry.stats_of(A).latency.failure_rate == 0


def test_in_a_panic_an_ejected_target_is_tried(target_registry):
    for _ in range(3):
        target_registry.begin(A, REQUEST).end(UpstreamFailed("no"))
    assert target_registry.begin(A, REQUEST, in_panic=True) is not None


def test_a_restarted_engine_begins_without_failures(target_registry):
    for _ in range(3):
        target_registry.begin(A, REQUEST).end(UpstreamFailed("no"))
    target_registry.readmit("b")
    assert target_registry.stats_of(A).health.is_out
    target_registry.readmit("a")
    assert target_registry.stats_of(A).health.state == "ok"


def test_the_times_are_those_of_the_target(target_registry, clock):
    in_flight = target_registry.begin(A, REQUEST)
    clock.advance(1)
    sent_s = clock.monotonic_s()
    clock.advance(2)
    in_flight.note_first_content()
    first_s = clock.monotonic_s()
    clock.advance(4)
    in_flight.end(sent_s=sent_s, first_s=first_s, usage=Usage(10, 5, 15), is_whole=True)
    latency = target_registry.stats_of(A).latency
    assert (latency.ttft_s(10), latency.per_token_s) == (2.0, 1.0)


def test_a_long_unstreamed_answer_is_no_long_wait(target_registry, clock):
    """Its first token was not seen, so the request does not count as waiting; the token took less than the answer."""
    in_flight = target_registry.begin(A, REQUEST)
    clock.advance(10)
    pressure = target_registry.stats_of(A).pressure
    assert (pressure.waiting, pressure.predict_s(10)) == (0, 0)
    ttft_s = in_flight.end(sent_s=clock.monotonic_s() - 10, usage=Usage(10, 1000, 1010), is_whole=True)
    assert 0 < pressure.predict_s(10) < 0.1
    assert 0 < ttft_s < 0.1


def test_the_time_to_first_token_is_returned_if_the_answer_is_whole(target_registry, clock):
    in_flight = target_registry.begin(A, REQUEST)
    assert in_flight.end(sent_s=1.0, first_s=3.5, is_whole=True) == 2.5
    assert in_flight.end(sent_s=1.0, first_s=3.5, is_whole=True) is None
    assert target_registry.begin(A, REQUEST).end(sent_s=1.0, first_s=3.5) is None


def test_first_tokens_that_are_seen_without_a_stream_count(target_registry):
    """From some engines a stream is requested though the caller wants none."""
    in_flight = target_registry.begin(A, REQUEST)
    in_flight.note_first_content()
    in_flight.end(first_s=1.0, is_whole=True)
    target_registry.begin(A, REQUEST)
    assert target_registry.stats_of(A).pressure.waiting == 1


def test_an_abandoned_attempt_says_nothing_about_the_target(target_registry, clock):
    in_flight = target_registry.begin(A, REQUEST)
    clock.advance(50)
    in_flight.end()
    stats = target_registry.stats_of(A)
    assert (stats.in_flight, stats.pressure.waiting, stats.latency.ttft_s(1)) == (0, 0, 0.0)


def test_configured_targets_are_kept_whatever_names_callers_invent(target_registry):
    target_registry.set_configured([A])
    target_registry.begin(A, REQUEST).end(UpstreamFailed("no"))
    failed = target_registry.stats_of(A)
    for number in range(5000):
        target_registry.stats_of(Target("a", f"m{number}"))
    assert target_registry.stats_of(A) is failed
    assert (target_registry.configured(), len(target_registry.all())) == ([failed], 4097)


def test_of_invented_names_the_one_used_last_is_kept_longest(target_registry):
    used = target_registry.stats_of(Target("a", "asked"))
    for number in range(5000):
        target_registry.stats_of(Target("a", f"m{number}"))
        assert target_registry.stats_of(Target("a", "asked")) is used


def test_a_slow_reader_does_not_make_a_target_slow(target_registry, clock):
    in_flight = target_registry.begin(A, REQUEST)
    sent_s = clock.monotonic_s()
    clock.advance(60)
    in_flight.end(sent_s=sent_s, first_s=sent_s + 2, reading_s=54, usage=Usage(10, 5, 15), is_whole=True)
    assert target_registry.stats_of(A).latency.per_token_s == 1.0


def test_a_first_content_ends_a_trial(target_registry, clock):
    for _ in range(3):
        target_registry.begin(A, REQUEST).end(UpstreamFailed("no"))
    clock.advance(1000)
    in_flight = target_registry.begin(A, REQUEST)
    assert target_registry.stats_of(A).health.state == "trial"
    in_flight.note_first_content()
    assert target_registry.stats_of(A).health.state == "ramping"


def test_only_an_answer_sets_the_targets_endpoint(target_registry):
    embeddings = routing_request()
    embeddings.endpoint = "embeddings"
    target_registry.begin(A, embeddings).end(UpstreamFailed("no"))
    assert target_registry.stats_of(A).endpoint == "chat"
    target_registry.begin(A, embeddings).end(is_whole=True)
    assert target_registry.stats_of(A).endpoint == "embeddings"


def test_the_number_of_invented_names_is_bounded(target_registry):
    for number in range(5000):
        target_registry.begin(Target("a", f"m{number}"), REQUEST).end()
    assert len(target_registry.all()) <= 4097


class RegistryMachine(RuleBasedStateMachine):
    """Whatever becomes of attempts, `in_flight` is the number of those that have not ended."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.target_registry = TargetRegistry(self.clock, HealthConfig(probe=False))
        self.in_flights = []

    @rule()
    def begins(self):
        in_flight = self.target_registry.begin(A, REQUEST)
        if in_flight is not None:
            self.in_flights.append(in_flight)

    @precondition(lambda self: self.in_flights)
    @rule(
        kind=st.sampled_from([None, *TARGETS_FAULT, *NOT_TARGETS_FAULT]),
        is_whole=st.booleans(),
        has_begun=st.booleans(),
    )
    def ends(self, kind, is_whole, has_begun):
        in_flight = self.in_flights.pop(0)
        if has_begun:
            in_flight.note_first_content()
        in_flight.end(None if kind is None else kind("no"), is_whole=is_whole and kind is None)
        in_flight.end(UpstreamFailed("once more"))

    @rule(seconds=st.floats(0, 200))
    def waits(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def all_attempts_are_counted(self):
        assert self.target_registry.stats_of(A).in_flight == len(self.in_flights)
        assert 0 <= self.target_registry.stats_of(A).pressure.waiting <= len(self.in_flights)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=25)


def test_a_reload_keeps_the_stats_of_targets_that_it_configures(clock):
    """Also if callers have invented as many names as are stored."""
    target_registry = TargetRegistry(clock, HealthConfig(failures=1, probe=False))
    failed = Target("u", "failed")
    target_registry.begin(failed, REQUEST).end(UpstreamFailed("no"))
    for number in range(_MAX_UNCONFIGURED - 1):
        target_registry.stats_of(Target("u", str(number)))
    target_registry.set_configured([Target("u", "new"), Target("u", "newer"), Target("u", "failed", weight=2.0)])
    kept = target_registry.configured()[-1]
    assert (kept.health.is_out, kept.target.weight) == (True, 2.0)
