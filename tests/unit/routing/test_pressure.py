"""How long a prompt would wait at a local engine."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.clock import FakeClock
from tidegate.routing.pressure import LoadReport, Pressure


class Engine:
    """An engine that reads `speed` prompt tokens a second, one prompt after the other."""

    def __init__(self, speed=1000.0):
        self.clock = FakeClock()
        self.pressure = Pressure(self.clock)
        self.speed = speed

    def serve(self, *prompts):
        """The prompts are sent together, and start one after the other."""
        for tokens in prompts:
            self.pressure.sent(tokens)
        for tokens in prompts:
            self.clock.advance(tokens / self.speed)
            self.pressure.began(tokens)

    def load_report(self, **fields):
        return LoadReport(
            **{"running": 0, "waiting": 0, "at_s": self.clock.monotonic_s(), "tidegate_in_flight": 0} | fields
        )


@pytest.fixture
def engine():
    engine = Engine()
    for _ in range(10):
        engine.serve(500, 1500, 1000)
    return engine


def test_without_samples_the_prediction_is_0():
    assert Engine().pressure.predict_s(1000) == 0


def test_an_idle_engine_takes_as_long_as_its_prefill(engine):
    assert engine.pressure.predict_s(1000) == pytest.approx(1.0, rel=0.05)
    assert engine.pressure.predict_s(3000) == pytest.approx(3.0, rel=0.05)


def test_tidegates_waiting_requests_count_exactly(engine):
    for _ in range(4):
        engine.pressure.sent(1000)
    assert engine.pressure.predict_s(1000) == pytest.approx(5.0, rel=0.05)
    engine.pressure.began(1000)
    engine.pressure.ended_without_token(1000)
    assert engine.pressure.waiting == 2


def test_other_clients_requests_count_while_the_metrics_are_fresh(engine):
    load_report = engine.load_report(running=2, waiting=3)
    assert engine.pressure.predict_s(1000, load_report) == pytest.approx(4.0, rel=0.05)
    engine.clock.advance(11)
    assert engine.pressure.predict_s(1000, load_report) == pytest.approx(1.0, rel=0.05)


def test_tidegates_requests_are_not_counted_twice(engine):
    """All requests in the engine's queue were Tidegate's when the metrics were read, and have started since."""
    load_report = engine.load_report(running=1, waiting=3, tidegate_in_flight=4)
    assert engine.pressure.predict_s(1000, load_report) == pytest.approx(1.0, rel=0.05)


def test_full_kv_memory_delays_prompts(engine):
    idle = engine.pressure.predict_s(1000, engine.load_report(kv_used=0.5))
    assert engine.pressure.predict_s(1000, engine.load_report(kv_used=1.0)) == pytest.approx(5 * idle)


def test_an_engine_that_stalls_is_noticed_before_it_goes_on(engine):
    engine.pressure.sent(1000)
    before = engine.pressure.predict_s(1000)
    engine.clock.advance(60)
    assert engine.pressure.predict_s(1000) > 3 * before


def test_the_prediction_of_a_slow_engine_decays_while_nothing_is_sent_there(engine):
    """Otherwise it would never get a request again: a target that gets none has no new samples."""
    engine.serve(60_000)
    slow = engine.pressure.predict_s(60_000)
    engine.clock.advance(300)
    assert engine.pressure.predict_s(60_000) < slow / 1000


def test_without_samples_the_engines_own_time_is_used():
    engine = Engine()
    assert engine.pressure.predict_s(1000, engine.load_report(ttft_s=0.7)) == pytest.approx(0.7)


@given(st.integers(0, 50), st.integers(1, 8000))
@settings(max_examples=60)
def test_the_more_requests_wait_the_longer_it_takes(waiting, tokens):
    engine = Engine()
    for _ in range(5):
        engine.serve(500, 1500)
    before = engine.pressure.predict_s(tokens)
    for _ in range(waiting):
        engine.pressure.sent(800)
    assert engine.pressure.predict_s(tokens) >= before * 0.999


class PressureMachine(RuleBasedStateMachine):
    """The waiting requests are those sent that have neither begun nor left; a prediction is a time."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.pressure = Pressure(self.clock)
        self.waiting = []

    @rule(tokens=st.integers(1, 20_000))
    def sent(self, tokens):
        self.pressure.sent(tokens)
        self.waiting.append(tokens)

    @precondition(lambda self: self.waiting)
    @rule(is_good=st.booleans())
    def ends(self, is_good):
        tokens = self.waiting.pop(0)
        (self.pressure.began if is_good else self.pressure.ended_without_token)(tokens)

    @rule(seconds=st.floats(0, 100))
    def waits(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def the_prediction_is_a_time(self):
        assert self.pressure.waiting == len(self.waiting)
        assert 0 <= self.pressure.predict_s(1000) < 1e9


TestPressure = PressureMachine.TestCase
TestPressure.settings = settings(max_examples=60, stateful_step_count=25)


@pytest.mark.parametrize(
    ("running", "tidegate_in_flight", "own_requests", "age_s", "others"),
    [(3, 3, 3, 0, 0), (5, 3, 3, 0, 2), (5, 3, 5, 0, 0), (5, 5, 1, 0, 0), (8, 1, 1, 6.5, 3.5), (8, 1, 1, 10, 0)],
)
def test_other_clients_requests_are_those_that_the_metrics_count_beyond_tidegates(
    running, tidegate_in_flight, own_requests, age_s, others
):
    """Tidegate's requests that were sent or have ended since are not counted as others."""
    load_report = LoadReport(running=running, waiting=0, at_s=5.0, tidegate_in_flight=tidegate_in_flight)
    assert load_report.other_requests(own_requests, 5.0 + age_s) == pytest.approx(others)
