"""When an engine is suspected: by what it does, not by what its health route says."""

import pytest
from tidegate.engines.base import Load
from tidegate.engines.supervision.hang_detector import HangDetector
from tidegate.errors import UpstreamFailed, UpstreamUnreachable

from tests.fakes.clock import FakeClock
from tests.fakes.control import too_slow, working

IDLE = Load(steps=7)


class Bedside:
    """Looks at an engine once a second, or as often as its answers allow."""

    def __init__(self, *, in_flight=1):
        self.clock = FakeClock()
        self.hang_detector = HangDetector(self.clock)
        self.hang_detector.in_flight = in_flight

    def look(self, told, *, takes_s=1.0):
        self.clock.advance(takes_s)
        if isinstance(told, Exception):
            self.hang_detector.missed(told)
        else:
            self.hang_detector.saw(told)
        return self.hang_detector.complaint()

    def until_suspected(self, told, *, takes_s=1.0, limit_s=3600):
        """Seconds from now to the first complaint; None where there is none within the limit."""
        since_s = self.clock.monotonic_s()
        while (passed_s := self.clock.monotonic_s() - since_s) < limit_s:
            if self.look(told(passed_s), takes_s=takes_s):
                return self.clock.monotonic_s() - since_s
        return None


@pytest.fixture
def bedside():
    return Bedside()


@pytest.mark.parametrize("takes_s", [1.0, 2.5, 6.0])
def test_a_hung_engine_is_suspected_within_a_minute_of_its_last_step(bedside, takes_s):
    """Even where each look takes as long as it may (5 s, and one between two), and the last step was just missed."""
    bedside.look(working(1), takes_s=takes_s)
    bedside.look(working(2), takes_s=takes_s)
    assert bedside.until_suspected(lambda _: working(2), takes_s=takes_s) + takes_s <= 60


def test_it_says_for_how_long(bedside):
    bedside.look(working(1))
    bedside.until_suspected(lambda _: working(1))
    assert bedside.hang_detector.complaint() == "it has work, but has not made a step for 40 s"


@pytest.mark.parametrize("every_s", [1, 10, 39])
def test_a_slow_engine_is_not_suspected_in_ten_minutes(bedside, every_s):
    assert bedside.until_suspected(lambda passed_s: working(1 + passed_s // every_s), limit_s=600) is None


def test_one_whose_steps_are_a_minute_apart_is_suspected_only_once(bedside):
    """It looks like a hung one until the step is made; that it was made is remembered."""

    def told(passed_s):
        return working(1 + passed_s // 60)

    assert bedside.until_suspected(told, limit_s=600) is not None
    bedside.hang_detector.was_slow()
    assert bedside.until_suspected(told, limit_s=600) is None


def test_patience_ends_at_two_minutes(bedside):
    bedside.look(working(1))
    for _ in range(10):
        bedside.hang_detector.was_slow()
    assert 120 <= bedside.until_suspected(lambda _: working(1)) <= 122


def test_the_first_step_may_take_two_minutes(bedside):
    """Kernels are compiled then."""
    assert 120 <= bedside.until_suspected(lambda _: working(0)) <= 122


def test_that_the_first_step_was_slow_does_not_make_it_more_patient(bedside):
    bedside.until_suspected(lambda _: working(0))
    bedside.hang_detector.was_slow()
    bedside.look(working(1))
    assert 40 <= bedside.until_suspected(lambda _: working(1)) <= 42


def test_an_idle_engine_stands_still_and_is_well():
    assert Bedside(in_flight=0).until_suspected(lambda _: IDLE) is None


def test_work_is_what_we_have_in_it_or_what_it_says_it_has(bedside):
    """A request may hang before it is counted; and an engine of somebody else's has other callers."""
    bedside.look(IDLE)
    assert bedside.until_suspected(lambda _: IDLE) is not None
    for load in (Load(running=1, steps=7), Load(waiting=1, steps=7)):
        others = Bedside(in_flight=0)
        others.look(load)
        assert others.until_suspected(lambda _, load=load: load) is not None


def test_idleness_does_not_count_as_standing_still(bedside):
    bedside.hang_detector.in_flight = 0
    for _ in range(100):
        bedside.look(IDLE)
    bedside.hang_detector.in_flight = 1
    assert bedside.until_suspected(lambda _: IDLE) >= 40


def test_a_counter_that_starts_anew_moves(bedside):
    """Somebody else has restarted the engine."""
    bedside.look(working(1000))
    bedside.look(working(0))
    assert bedside.hang_detector.complaint() is None


def test_without_a_counter_of_steps_nothing_is_known(bedside):
    assert bedside.until_suspected(lambda _: Load(running=5)) is None


def test_a_failed_scrape_says_nothing(bedside):
    bedside.look(working(1))
    assert bedside.until_suspected(lambda _: UpstreamFailed("500")) is None


def test_a_scrape_that_fails_now_and_then_hides_nothing(bedside):
    bedside.look(working(1))
    suspected_s = bedside.until_suspected(lambda s: UpstreamFailed("500") if s % 3 == 0 else working(1))
    assert suspected_s <= 42


def test_one_that_answers_too_slowly_is_busy_for_a_while(bedside):
    """The whole process may hang, and its metrics with it."""
    bedside.look(working(1))
    assert 40 <= bedside.until_suspected(lambda _: too_slow(), takes_s=6) <= 54


def test_an_idle_one_that_answers_too_slowly_is_left_alone(bedside):
    """And has its time when a request comes at last."""
    bedside.look(working(1))
    bedside.hang_detector.in_flight = 0
    assert bedside.until_suspected(lambda _: too_slow(), takes_s=6) is None
    bedside.hang_detector.in_flight = 1
    assert bedside.until_suspected(lambda _: too_slow(), takes_s=6) >= 40


def test_one_long_look_is_no_evidence(bedside):
    """We may have been the ones who slept, with the whole machine."""
    bedside.look(working(1))
    assert bedside.look(working(1), takes_s=3600) is None


def test_a_refused_connection_is_death_the_third_time(bedside):
    refused = UpstreamUnreachable("refused")
    assert bedside.look(refused) is None
    assert bedside.look(refused) is None
    assert bedside.look(refused) == "it refused the connection 3 times"


def test_an_answer_in_between_takes_refusals_back(bedside):
    refused = UpstreamUnreachable("refused")
    for steps in range(9):
        assert bedside.look(refused) is None
        assert bedside.look(refused) is None
        assert bedside.look(working(steps)) is None
