"""When an engine is suspected to hang: by its progress, not by its health route."""

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.control import too_slow, working
from tidegate.engines.base import Load
from tidegate.engines.supervision.hang_detector import HangDetector
from tidegate.errors import UpstreamFailed, UpstreamUnreachable

IDLE = Load(steps=7)


class Polling:
    """Polls an engine once a second, or as often as its answers allow; the answers are arguments."""

    def __init__(self, *, in_flight=1):
        self.clock = FakeClock()
        self.hang_detector = HangDetector(self.clock)
        self.hang_detector.in_flight = in_flight

    def poll(self, answer, *, takes_s=1.0):
        self.clock.advance(takes_s)
        if isinstance(answer, Exception):
            self.hang_detector.record_failure(answer)
        else:
            self.hang_detector.record_load(answer)
        return self.hang_detector.fault_reason()

    def until_suspected(self, answer_at, *, takes_s=1.0, limit_s=3600):
        """Seconds from now until the engine is suspected; None if it is not within the limit."""
        since_s = self.clock.monotonic_s()
        while (passed_s := self.clock.monotonic_s() - since_s) < limit_s:
            if self.poll(answer_at(passed_s), takes_s=takes_s):
                return self.clock.monotonic_s() - since_s
        return None


@pytest.fixture
def polling():
    return Polling()


@pytest.mark.parametrize("takes_s", [1.0, 2.5, 6.0])
def test_a_hung_engine_is_suspected_within_a_minute_of_its_last_step(polling, takes_s):
    """Even if each poll takes the longest time (5 s, and a pause of 1 s), and the last step was just missed."""
    polling.poll(working(1), takes_s=takes_s)
    polling.poll(working(2), takes_s=takes_s)
    assert polling.until_suspected(lambda _: working(2), takes_s=takes_s) + takes_s <= 60


def test_the_reason_says_for_how_long(polling):
    polling.poll(working(1))
    polling.until_suspected(lambda _: working(1))
    assert polling.hang_detector.fault_reason() == "it has work, but has not made a step for 40 s"


@pytest.mark.parametrize("every_s", [1, 10, 39])
def test_a_slow_engine_is_not_suspected_in_ten_minutes(polling, every_s):
    assert polling.until_suspected(lambda passed_s: working(1 + passed_s // every_s), limit_s=600) is None


def test_an_engine_with_one_step_a_minute_is_suspected_only_once(polling):
    """It looks like a hung engine until the step is made; after that the limit is higher."""

    def answer_at(passed_s):
        return working(1 + passed_s // 60)

    assert polling.until_suspected(answer_at, limit_s=600) is not None
    polling.hang_detector.record_late_step()
    assert polling.until_suspected(answer_at, limit_s=600) is None


def test_the_limit_is_at_most_two_minutes(polling):
    polling.poll(working(1))
    for _ in range(10):
        polling.hang_detector.record_late_step()
    assert 120 <= polling.until_suspected(lambda _: working(1)) <= 122


def test_the_first_step_may_take_two_minutes(polling):
    """Kernels are compiled before the first step."""
    assert 120 <= polling.until_suspected(lambda _: working(0)) <= 122


def test_a_slow_first_step_does_not_raise_the_limit(polling):
    polling.until_suspected(lambda _: working(0))
    polling.hang_detector.record_late_step()
    polling.poll(working(1))
    assert 40 <= polling.until_suspected(lambda _: working(1)) <= 42


def test_an_idle_engine_without_steps_is_not_suspected():
    assert Polling(in_flight=0).until_suspected(lambda _: IDLE) is None


def test_work_is_a_request_of_tidegate_or_one_in_the_engines_metrics(polling):
    """A request may hang before the engine counts it; an engine that Tidegate does not start has other callers."""
    polling.poll(IDLE)
    assert polling.until_suspected(lambda _: IDLE) is not None
    for load in (Load(running=1, steps=7), Load(waiting=1, steps=7)):
        others = Polling(in_flight=0)
        others.poll(load)
        assert others.until_suspected(lambda _, load=load: load) is not None


def test_idle_time_does_not_count_as_time_without_a_step(polling):
    polling.hang_detector.in_flight = 0
    for _ in range(100):
        polling.poll(IDLE)
    polling.hang_detector.in_flight = 1
    assert polling.until_suspected(lambda _: IDLE) >= 40


def test_a_counter_that_starts_at_zero_again_has_moved(polling):
    """The engine was restarted, but not by Tidegate."""
    polling.poll(working(1000))
    polling.poll(working(0))
    assert polling.hang_detector.fault_reason() is None


def test_an_engine_without_a_step_counter_is_never_suspected(polling):
    assert polling.until_suspected(lambda _: Load(running=5)) is None


def test_a_failed_scrape_is_no_evidence(polling):
    polling.poll(working(1))
    assert polling.until_suspected(lambda _: UpstreamFailed("500")) is None


def test_occasional_failed_scrapes_do_not_hide_a_hung_engine(polling):
    polling.poll(working(1))
    suspected_s = polling.until_suspected(lambda s: UpstreamFailed("500") if s % 3 == 0 else working(1))
    assert suspected_s <= 42


def test_an_engine_that_answers_too_slowly_is_suspected_after_a_while(polling):
    """The whole process may hang, and its metrics with it."""
    polling.poll(working(1))
    assert 40 <= polling.until_suspected(lambda _: too_slow(), takes_s=6) <= 54


def test_an_idle_engine_that_answers_too_slowly_is_not_suspected(polling):
    """It has the full time again when a request comes."""
    polling.poll(working(1))
    polling.hang_detector.in_flight = 0
    assert polling.until_suspected(lambda _: too_slow(), takes_s=6) is None
    polling.hang_detector.in_flight = 1
    assert polling.until_suspected(lambda _: too_slow(), takes_s=6) >= 40


def test_one_long_poll_is_no_evidence(polling):
    """The whole machine, with Tidegate, may have been suspended."""
    polling.poll(working(1))
    assert polling.poll(working(1), takes_s=3600) is None


def test_the_third_refused_connection_is_a_reason(polling):
    refused = UpstreamUnreachable("refused")
    assert polling.poll(refused) is None
    assert polling.poll(refused) is None
    assert polling.poll(refused) == "it refused the connection 3 times"


def test_an_answer_resets_the_count_of_refusals(polling):
    refused = UpstreamUnreachable("refused")
    for steps in range(9):
        assert polling.poll(refused) is None
        assert polling.poll(refused) is None
        assert polling.poll(working(steps)) is None
