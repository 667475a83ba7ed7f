"""How long a prompt would wait at an engine of ours."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tidegate.routing.pressure import LoadReport, Pressure

from tests.fakes.clock import FakeClock


class Engine:
    """One that reads `speed` prompt tokens a second, one prompt after the other."""

    def __init__(self, speed=1000.0):
        self.clock = FakeClock()
        self.pressure = Pressure(self.clock)
        self.speed = speed

    def serve(self, *prompts):
        """They come together, and start one after the other."""
        for tokens in prompts:
            self.pressure.sent(tokens)
        for tokens in prompts:
            self.clock.advance(tokens / self.speed)
            self.pressure.began(tokens)

    def told(self, **fields):
        return LoadReport(**{"running": 0, "waiting": 0, "at_s": self.clock.monotonic_s(), "our_in_flight": 0} | fields)


@pytest.fixture
def engine():
    made = Engine()
    for _ in range(10):
        made.serve(500, 1500, 1000)
    return made


def test_where_nothing_is_known_nothing_is_expected():
    assert Engine().pressure.predict_s(1000) == 0


def test_an_idle_engine_takes_as_long_as_it_reads(engine):
    assert engine.pressure.predict_s(1000) == pytest.approx(1.0, rel=0.05)
    assert engine.pressure.predict_s(3000) == pytest.approx(3.0, rel=0.05)


def test_those_of_ours_who_wait_there_come_first_to_the_moment(engine):
    for _ in range(4):
        engine.pressure.sent(1000)
    assert engine.pressure.predict_s(1000) == pytest.approx(5.0, rel=0.05)
    engine.pressure.began(1000)
    engine.pressure.left(1000)
    assert engine.pressure.waiting == 2


def test_others_in_the_engines_queue_count_while_the_news_is_fresh(engine):
    told = engine.told(running=2, waiting=3)
    assert engine.pressure.predict_s(1000, told) == pytest.approx(4.0, rel=0.05)
    engine.clock.advance(11)
    assert engine.pressure.predict_s(1000, told) == pytest.approx(1.0, rel=0.05)


def test_ours_are_not_counted_twice(engine):
    """Everything in the engine's queue at the last look was ours, and has started since."""
    told = engine.told(running=1, waiting=3, our_in_flight=4)
    assert engine.pressure.predict_s(1000, told) == pytest.approx(1.0, rel=0.05)


def test_a_full_memory_keeps_prompts_out(engine):
    idle = engine.pressure.predict_s(1000, engine.told(kv_used=0.5))
    assert engine.pressure.predict_s(1000, engine.told(kv_used=1.0)) == pytest.approx(5 * idle)


def test_an_engine_that_stalls_is_seen_before_it_goes_on(engine):
    engine.pressure.sent(1000)
    before = engine.pressure.predict_s(1000)
    engine.clock.advance(60)
    assert engine.pressure.predict_s(1000) > 3 * before


def test_one_believed_to_be_slow_is_believed_less_and_less_while_nothing_is_sent_there(engine):
    """It would never be asked again: nothing starts at one that is left out."""
    engine.serve(60_000)
    slow = engine.pressure.predict_s(60_000)
    engine.clock.advance(300)
    assert engine.pressure.predict_s(60_000) < slow / 1000


def test_what_was_never_measured_here_is_the_engines_own_word():
    engine = Engine()
    assert engine.pressure.predict_s(1000, engine.told(ttft_s=0.7)) == pytest.approx(0.7)


@given(st.integers(0, 50), st.integers(1, 8000))
@settings(max_examples=60)
def test_the_more_wait_the_longer_it_takes(waiting, tokens):
    engine = Engine()
    for _ in range(5):
        engine.serve(500, 1500)
    before = engine.pressure.predict_s(tokens)
    for _ in range(waiting):
        engine.pressure.sent(800)
    assert engine.pressure.predict_s(tokens) >= before * 0.999


class Machine(RuleBasedStateMachine):
    """What waits is what was sent and has neither begun nor left; a prediction is a time."""

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
        (self.pressure.began if is_good else self.pressure.left)(tokens)

    @rule(seconds=st.floats(0, 100))
    def waits(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def it_is_a_time(self):
        assert self.pressure.waiting == len(self.waiting)
        assert 0 <= self.pressure.predict_s(1000) < 1e9


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=25)


@pytest.mark.parametrize(
    ("running", "ours_then", "ours", "age_s", "others"),
    [(3, 3, 3, 0, 0), (5, 3, 3, 0, 2), (5, 3, 5, 0, 0), (5, 5, 1, 0, 0), (8, 1, 1, 6.5, 3.5), (8, 1, 1, 10, 0)],
)
def test_requests_of_others_are_what_the_metrics_count_beyond_ours(running, ours_then, ours, age_s, others):
    """None of ours that have come or gone since."""
    told = LoadReport(running=running, waiting=0, at_s=5.0, our_in_flight=ours_then)
    assert told.not_ours(ours, 5.0 + age_s) == pytest.approx(others)
