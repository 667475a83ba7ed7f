"""Ejection after failures, and the return through one trial and a slow start."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.clock import FakeClock
from tidegate.config.routing import HealthConfig
from tidegate.routing.health import Health, available

CONFIG = HealthConfig(
    failures=3, ejection_s=5, max_ejection_s=20, slow_start_s=10, probe=False
)  # ejections last 5, 10, 15, 20, 20 seconds
PROBED = HealthConfig(failures=3, ejection_s=5, max_ejection_s=20, slow_start_s=10, probe=True)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def health(clock):
    return Health(clock, CONFIG)


def eject(health):
    for _ in range(3):
        health.failed(health.enter(in_panic=True))


def bring_back(health, clock):
    """Pass the trial and the slow start."""
    clock.advance(health.out_for_s)
    health.succeeded(health.enter())
    clock.advance(10)


def test_a_new_target_takes_all_requests(health):
    assert (health.state, health.may_take(), health.is_out, health.share, health.out_for_s) == ("ok", True, False, 1, 0)


def test_failures_in_a_row_eject(health):
    assert [health.failed(health.enter()) for _ in range(3)] == [False, False, True]
    assert (health.state, health.may_take(), health.is_out, health.out_for_s) == ("ejected", False, True, 5)
    assert health.enter() is None


def test_a_success_resets_the_count_of_failures(health):
    health.failed(health.enter())
    health.failed(health.enter())
    assert health.succeeded(health.enter()) is False
    assert [health.failed(health.enter()) for _ in range(2)] == [False, False]
    assert health.state == "ok"


def test_a_request_without_an_outcome_changes_nothing(health):
    health.failed(health.enter())
    health.failed(health.enter())
    health.ended_without_outcome(health.enter())
    assert health.failed(health.enter()) is True


def test_an_answer_that_began_before_the_ejection_does_not_readmit(health, clock):
    late = health.enter()
    eject(health)
    assert health.succeeded(late) is False
    clock.advance(5)
    assert health.succeeded(late) is False
    assert health.state == "trial"


def test_a_failure_of_a_request_that_began_before_the_ejection_does_not_count(health, clock):
    late = health.enter()
    eject(health)
    bring_back(health, clock)
    assert [health.failed(late) for _ in range(9)] == [False] * 9
    assert health.state == "ok"


def test_a_trial_is_one_request_at_a_time(health, clock):
    eject(health)
    clock.advance(5)
    assert (health.state, health.may_take(), health.out_for_s) == ("trial", True, 0)
    assert health.enter() is not None
    assert (health.may_take(), health.enter()) == (False, None)


def test_after_an_abandoned_trial_another_request_may_be_the_trial(health, clock):
    eject(health)
    clock.advance(5)
    first = health.enter()
    health.ended_without_outcome(first)
    second = health.enter()
    health.ended_without_outcome(first)  # a second report of the first does not end the second's trial
    assert second is not None
    assert (health.may_take(), health.enter()) == (False, None)


def test_after_a_trial_that_works_comes_the_slow_start(health, clock):
    eject(health)
    clock.advance(5)
    assert health.share == 1.0  # so that the trial, one request, comes soon
    assert health.succeeded(health.enter()) is True
    shares = []
    for _ in range(5):
        shares.append((health.state, round(health.share, 3)))
        clock.advance(2.5)
    assert shares == [("ramping", 0.1), ("ramping", 0.325), ("ramping", 0.55), ("ramping", 0.775), ("ok", 1)]


def test_a_trial_that_fails_ejects_for_longer(health, clock):
    eject(health)
    durations = []
    for _ in range(5):
        durations.append(health.out_for_s)
        clock.advance(health.out_for_s)
        assert health.failed(health.enter()) is True
    assert durations == [5, 10, 15, 20, 20]


def test_failures_in_a_row_eject_during_the_slow_start_too(health, clock):
    eject(health)
    clock.advance(5)
    health.succeeded(health.enter())
    assert [health.failed(health.enter()) for _ in range(3)] == [False, False, True]
    assert health.out_for_s == 10


@pytest.mark.parametrize(("ok_s", "out_s"), [(0, 20), (19, 20), (20, 20), (40, 15), (60, 10), (80, 5), (8000, 5)])
def test_a_long_time_without_ejections_undoes_them(health, clock, ok_s, out_s):
    """One ejection for each `max_ejection_s`; there were five, of which four count."""
    eject(health)
    for _ in range(4):
        clock.advance(health.out_for_s)
        health.failed(health.enter())
    bring_back(health, clock)
    clock.advance(ok_s)
    eject(health)
    assert health.out_for_s == out_s


def test_in_a_panic_a_request_may_enter_an_ejected_target(health):
    """Its success counts as a trial's; its failure does not extend the ejection."""
    eject(health)
    assert health.failed(health.enter(in_panic=True)) is False
    assert health.out_for_s == 5
    assert health.succeeded(health.enter(in_panic=True)) is True
    assert health.state == "ramping"


def test_in_a_panic_other_requests_may_enter_beside_the_trial(health, clock):
    eject(health)
    clock.advance(5)
    trial, other = health.enter(in_panic=True), health.enter(in_panic=True)
    health.ended_without_outcome(other)
    assert health.may_take() is False
    health.ended_without_outcome(trial)
    assert health.may_take() is True


def test_a_restarted_engine_begins_without_failures(health, clock):
    late = health.enter()
    eject(health)
    health.readmit()
    assert (health.state, health.share, health.may_take()) == ("ok", 1, True)
    assert [health.failed(late) for _ in range(3)] == [False] * 3
    eject(health)
    assert health.out_for_s == 5


def test_where_probes_are_on_a_probe_comes_before_callers_requests(clock):
    health = Health(clock, PROBED)
    eject(health)
    assert health.needs_probe() is False
    clock.advance(3600)
    assert (health.needs_probe(), health.state, health.may_take()) == (True, "ejected", False)
    assert health.probed(ok=True) is True
    assert (health.needs_probe(), health.state, health.may_take()) == (False, "trial", True)


def test_a_probe_that_fails_ejects_for_longer(clock):
    health = Health(clock, PROBED)
    eject(health)
    clock.advance(5)
    assert health.probed(ok=False) is True
    assert (health.state, health.out_for_s, health.needs_probe()) == ("ejected", 10, False)


def test_a_probe_that_was_not_needed_changes_nothing(clock):
    health = Health(clock, PROBED)
    assert [health.probed(ok=False), health.probed(ok=True)] == [False, False]
    eject(health)
    assert [health.probed(ok=False), health.probed(ok=True)] == [False, False]
    assert (health.state, health.out_for_s) == ("ejected", 5)


@pytest.mark.parametrize(
    ("out", "max_ejected", "may_take", "is_panic"),
    [
        ([], 0.5, [], False),
        ([False], 0.5, [True], False),
        ([True], 0.5, [True], True),
        ([True], 1.0, [False], False),
        ([True, False], 0.5, [False, True], False),
        ([True, True], 0.5, [True, True], True),
        ([True, False, False], 0.0, [True, True, True], True),
        ([True, False, True], 0.5, [True, True, True], True),
        ([True, False, True, False], 0.5, [False, True, False, True], False),
    ],
)
def test_targets_that_are_out_are_left_out_unless_too_many_are(clock, out, max_ejected, may_take, is_panic):
    healths = [Health(clock, CONFIG) for _ in out]
    for health, is_out in zip(healths, out, strict=True):
        if is_out:
            eject(health)
    result = available(healths, max_ejected)
    assert (list(result.may_take), result.is_panic) == (may_take, is_panic)


def test_a_target_on_trial_still_counts_as_out(clock):
    """Otherwise the requests after the trial would have no target."""
    healths = [Health(clock, CONFIG), Health(clock, CONFIG)]
    eject(healths[0])
    clock.advance(5)
    eject(healths[1])
    result = available(healths, 0.5)
    assert (list(result.may_take), result.is_panic) == ([True, True], True)


class Reference:
    """A plain implementation of the same rules: it counts seconds."""

    def __init__(self, config):
        self.config = config
        self.state, self.remaining_s, self.ok_s = "ok", 0, 0
        self.failures, self.ejections, self.first_valid_number, self.trial = 0, 0, 0, None

    def second(self):
        if self.state == "ok":
            self.ok_s += 1
        self.remaining_s = max(0, self.remaining_s - 1)
        if self.remaining_s == 0 and self.state == "ramping":
            self.state, self.ok_s = "ok", 0
        if self.remaining_s == 0 and self.state == "ejected" and not self.config.probe:
            self.state, self.trial = "trial", None

    def eject(self, entered):
        if self.state == "ok":
            self.ejections = max(0, self.ejections - self.ok_s // int(self.config.max_ejection_s))
        self.ejections = min(self.ejections + 1, 4)
        self.remaining_s = min(20, 5 * self.ejections)
        self.state, self.failures, self.first_valid_number, self.trial = "ejected", 0, entered, None

    def failed(self, number, entered):
        if number < self.first_valid_number:
            return
        self.failures += 1
        if self.state == "trial" or (self.state in {"ok", "ramping"} and self.failures >= 3):
            self.eject(entered)

    def succeeded(self, number):
        if number < self.first_valid_number:
            return
        self.failures = 0
        if self.state in {"ejected", "trial"}:
            self.state, self.remaining_s, self.trial = "ramping", 10, None


class HealthMachine(RuleBasedStateMachine):
    """Requests begin and end in any order, time passes, and probes are reported."""

    config = CONFIG

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(monotonic_s=0)
        self.health = Health(self.clock, self.config)
        self.reference = Reference(self.config)
        self.entered = 0  # number of requests so far
        self.in_flight = {}  # request number to the result of `enter`

    @rule(in_panic=st.booleans())
    def enter(self, in_panic):
        state, trial = self.reference.state, self.reference.trial
        number = self.health.enter(in_panic=in_panic)
        may_enter = in_panic or state in {"ok", "ramping"} or (state == "trial" and trial is None)
        assert (number is not None) == may_enter
        if number is not None:
            self.in_flight[self.entered] = number
            if state == "trial" and trial is None:
                self.reference.trial = self.entered
            self.entered += 1

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), outcome=st.sampled_from(["failed", "succeeded", "none"]))
    def report(self, data, outcome):
        request = data.draw(st.sampled_from(sorted(self.in_flight)))
        number = self.in_flight.pop(request)
        state_before = self.reference.state
        if outcome == "failed":
            first_valid_number = self.reference.first_valid_number
            self.reference.failed(request, self.entered)
            assert self.health.failed(number) == (
                self.reference.first_valid_number != first_valid_number or self.reference.state != state_before
            )
        elif outcome == "succeeded":
            self.reference.succeeded(request)
            assert self.health.succeeded(number) == (self.reference.state != state_before)
        else:
            self.health.ended_without_outcome(number)
            self.reference.trial = None if self.reference.trial == request else self.reference.trial

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def generate(self, data):
        """The first content ends a trial; a failure after it counts as one in the slow start."""
        request = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.health.generated(self.in_flight[request])
        failures = self.reference.failures
        self.reference.succeeded(request)
        self.reference.failures = failures

    @rule(seconds=st.integers(1, 45))
    def wait(self, seconds):
        self.clock.advance(seconds)
        for _ in range(seconds):
            self.reference.second()

    @rule(ok_s=st.sampled_from([0, 0, 25]))
    def wait_out(self, ok_s):
        """Wait until the next trial, or to the end of the slow start and longer."""
        self.wait(int(self.reference.remaining_s) + ok_s)

    @rule()
    def fail_again_and_again(self):
        for _ in range(3):
            number = self.health.enter(in_panic=True)
            self.health.failed(number)
            self.reference.failed(self.entered, self.entered + 1)
            self.entered += 1

    @precondition(lambda self: self.config.probe)
    @rule(ok=st.booleans())
    def probe(self, ok):
        reference = self.reference
        is_due = reference.state == "ejected" and reference.remaining_s == 0
        assert self.health.needs_probe() == is_due
        assert self.health.probed(ok=ok) == is_due
        if is_due and ok:
            reference.state, reference.trial = "trial", None
        elif is_due:
            reference.eject(self.entered)

    @precondition(lambda self: self.reference.ejections > 2)
    @rule()
    def readmit(self):
        self.health.readmit()
        self.reference.__init__(self.config)
        self.reference.first_valid_number = self.entered

    @invariant()
    def agrees_with_the_reference(self):
        health, reference = self.health, self.reference
        ramping = 1 - 0.9 * reference.remaining_s / 10
        expected = {"ok": 1.0, "trial": 1.0, "ejected": 0.1, "ramping": ramping}[reference.state]
        assert health.state == reference.state
        assert health.may_take() == (
            reference.state in {"ok", "ramping"} or (reference.state == "trial" and reference.trial is None)
        )
        assert health.share == pytest.approx(expected)
        assert health.is_out == (reference.state in {"ejected", "trial"})
        assert health.out_for_s == (reference.remaining_s if reference.state == "ejected" else 0)


class ProbedHealthMachine(HealthMachine):
    config = PROBED


TestHealth = HealthMachine.TestCase
TestProbedHealth = ProbedHealthMachine.TestCase
TestHealth.settings = TestProbedHealth.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_no_more_than_the_share_is_ever_left_out(out, max_ejected):
    clock = FakeClock()
    healths = [Health(clock, CONFIG) for _ in out]
    for health, is_out in zip(healths, out, strict=True):
        if is_out:
            eject(health)
    result = available(healths, max_ejected)
    assert list(result.may_take).count(False) <= max_ejected * len(out)
