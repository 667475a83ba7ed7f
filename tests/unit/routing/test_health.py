"""Out after failures, back through one trial and a slow start."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tidegate.config.routing import HealthConfig
from tidegate.routing.health import Health, available

from tests.fakes.clock import FakeClock

CONFIG = HealthConfig(
    failures=3, ejection_s=5, max_ejection_s=20, slow_start_s=10, probe=False
)  # times out: 5, 10, 15, 20, 20 seconds
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
    """Through the trial and the slow start."""
    clock.advance(health.out_for_s)
    health.succeeded(health.enter())
    clock.advance(10)


def test_a_target_that_nothing_is_known_of_takes_everything(health):
    assert (health.state, health.may_take(), health.is_out, health.share, health.out_for_s) == ("ok", True, False, 1, 0)


def test_failures_in_a_row_eject(health):
    assert [health.failed(health.enter()) for _ in range(3)] == [False, False, True]
    assert (health.state, health.may_take(), health.is_out, health.out_for_s) == ("ejected", False, True, 5)
    assert health.enter() is None


def test_a_success_between_starts_the_row_anew(health):
    health.failed(health.enter())
    health.failed(health.enter())
    assert health.succeeded(health.enter()) is False
    assert [health.failed(health.enter()) for _ in range(2)] == [False, False]
    assert health.state == "ok"


def test_what_teaches_nothing_changes_nothing(health):
    health.failed(health.enter())
    health.failed(health.enter())
    health.gave_up(health.enter())
    assert health.failed(health.enter()) is True


def test_an_answer_that_began_before_the_ejection_does_not_readmit(health, clock):
    late = health.enter()
    eject(health)
    assert health.succeeded(late) is False
    clock.advance(5)
    assert health.succeeded(late) is False
    assert health.state == "trial"


def test_a_failure_that_began_before_the_ejection_makes_nothing_worse(health, clock):
    late = health.enter()
    eject(health)
    bring_back(health, clock)
    assert [health.failed(late) for _ in range(9)] == [False] * 9
    assert health.state == "ok"


def test_a_trial_is_for_one_at_a_time(health, clock):
    eject(health)
    clock.advance(5)
    assert (health.state, health.may_take(), health.out_for_s) == ("trial", True, 0)
    assert health.enter() is not None
    assert (health.may_take(), health.enter()) == (False, None)


def test_a_trial_that_is_abandoned_frees_the_place(health, clock):
    eject(health)
    clock.advance(5)
    first = health.enter()
    health.gave_up(first)
    second = health.enter()
    health.gave_up(first)  # said twice, it does not free the place of the next
    assert second is not None
    assert (health.may_take(), health.enter()) == (False, None)


def test_a_trial_that_works_starts_slowly(health, clock):
    eject(health)
    clock.advance(5)
    assert health.share == 1.0  # of one request, which is to come soon
    assert health.succeeded(health.enter()) is True
    shares = []
    for _ in range(5):
        shares.append((health.state, round(health.share, 3)))
        clock.advance(2.5)
    assert shares == [("ramping", 0.1), ("ramping", 0.325), ("ramping", 0.55), ("ramping", 0.775), ("ok", 1)]


def test_a_trial_that_fails_ejects_for_longer(health, clock):
    eject(health)
    lasted = []
    for _ in range(5):
        lasted.append(health.out_for_s)
        clock.advance(health.out_for_s)
        assert health.failed(health.enter()) is True
    assert lasted == [5, 10, 15, 20, 20]


def test_failures_in_a_row_eject_from_the_slow_start_too(health, clock):
    eject(health)
    clock.advance(5)
    health.succeeded(health.enter())
    assert [health.failed(health.enter()) for _ in range(3)] == [False, False, True]
    assert health.out_for_s == 10


@pytest.mark.parametrize(("well_s", "out_s"), [(0, 20), (19, 20), (20, 20), (40, 15), (60, 10), (80, 5), (8000, 5)])
def test_a_good_long_run_makes_up_for_times_out(health, clock, well_s, out_s):
    """One for each `max_ejection_s`; it has been out five times, of which four count."""
    eject(health)
    for _ in range(4):
        clock.advance(health.out_for_s)
        health.failed(health.enter())
    bring_back(health, clock)
    clock.advance(well_s)
    eject(health)
    assert health.out_for_s == out_s


def test_in_a_panic_one_may_enter_all_the_same(health):
    """Its success is as good as a trial's; its failure does not make it longer."""
    eject(health)
    assert health.failed(health.enter(in_panic=True)) is False
    assert health.out_for_s == 5
    assert health.succeeded(health.enter(in_panic=True)) is True
    assert health.state == "ramping"


def test_in_a_panic_a_trial_is_not_alone(health, clock):
    eject(health)
    clock.advance(5)
    trial, other = health.enter(in_panic=True), health.enter(in_panic=True)
    health.gave_up(other)
    assert health.may_take() is False
    health.gave_up(trial)
    assert health.may_take() is True


def test_an_engine_that_started_anew_starts_fresh(health, clock):
    late = health.enter()
    eject(health)
    health.readmit()
    assert (health.state, health.share, health.may_take()) == ("ok", 1, True)
    assert [health.failed(late) for _ in range(3)] == [False] * 3
    eject(health)
    assert health.out_for_s == 5


def test_where_probes_are_on_a_probe_comes_before_callers(clock):
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


def test_a_probe_that_nobody_needed_changes_nothing(clock):
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
def test_who_is_out_is_left_out_unless_too_many_are(clock, out, max_ejected, may_take, is_panic):
    healths = [Health(clock, CONFIG) for _ in out]
    for health, is_out in zip(healths, out, strict=True):
        if is_out:
            eject(health)
    found = available(healths, max_ejected)
    assert (list(found.may_take), found.is_panic) == (may_take, is_panic)


def test_a_target_on_trial_still_counts_as_out(clock):
    """Else who follows the trial would find nothing to fall back on."""
    healths = [Health(clock, CONFIG), Health(clock, CONFIG)]
    eject(healths[0])
    clock.advance(5)
    eject(healths[1])
    found = available(healths, 0.5)
    assert (list(found.may_take), found.is_panic) == ([True, True], True)


class Reference:
    """The same in the plainest way: it is told of every second, and counts."""

    def __init__(self, config):
        self.config = config
        self.state, self.left_s, self.well_s = "ok", 0, 0
        self.row, self.times, self.since, self.trial = 0, 0, 0, None

    def second(self):
        if self.state == "ok":
            self.well_s += 1
        self.left_s = max(0, self.left_s - 1)
        if self.left_s == 0 and self.state == "ramping":
            self.state, self.well_s = "ok", 0
        if self.left_s == 0 and self.state == "ejected" and not self.config.probe:
            self.state, self.trial = "trial", None

    def eject(self, entered):
        if self.state == "ok":
            self.times = max(0, self.times - self.well_s // int(self.config.max_ejection_s))
        self.times = min(self.times + 1, 4)
        self.left_s = min(20, 5 * self.times)
        self.state, self.row, self.since, self.trial = "ejected", 0, entered, None

    def failed(self, number, entered):
        if number < self.since:
            return
        self.row += 1
        if self.state == "trial" or (self.state in {"ok", "ramping"} and self.row >= 3):
            self.eject(entered)

    def succeeded(self, number):
        if number < self.since:
            return
        self.row = 0
        if self.state in {"ejected", "trial"}:
            self.state, self.left_s, self.trial = "ramping", 10, None


class HealthMachine(RuleBasedStateMachine):
    """Requests begin and end in any order, time passes, probes come and go."""

    config = CONFIG

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(monotonic_s=0)
        self.health = Health(self.clock, self.config)
        self.reference = Reference(self.config)
        self.entered = 0  # requests so far
        self.under_way = {}  # by number: what `enter` gave

    @rule(in_panic=st.booleans())
    def enter(self, in_panic):
        state, trial = self.reference.state, self.reference.trial
        turn = self.health.enter(in_panic=in_panic)
        is_let_in = in_panic or state in {"ok", "ramping"} or (state == "trial" and trial is None)
        assert (turn is not None) == is_let_in
        if turn is not None:
            self.under_way[self.entered] = turn
            if state == "trial" and trial is None:
                self.reference.trial = self.entered
            self.entered += 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), how=st.sampled_from(["failed", "succeeded", "gave_up"]))
    def report(self, data, how):
        number = data.draw(st.sampled_from(sorted(self.under_way)))
        turn = self.under_way.pop(number)
        was = self.reference.state
        if how == "failed":
            since = self.reference.since
            self.reference.failed(number, self.entered)
            assert self.health.failed(turn) == (self.reference.since != since or self.reference.state != was)
        elif how == "succeeded":
            self.reference.succeeded(number)
            assert self.health.succeeded(turn) == (self.reference.state != was)
        else:
            self.health.gave_up(turn)
            self.reference.trial = None if self.reference.trial == number else self.reference.trial

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def generate(self, data):
        """The first content: a trial is over, and who fails after it has failed."""
        number = data.draw(st.sampled_from(sorted(self.under_way)))
        self.health.generated(self.under_way[number])
        row = self.reference.row
        self.reference.succeeded(number)
        self.reference.row = row

    @rule(seconds=st.integers(1, 45))
    def wait(self, seconds):
        self.clock.advance(seconds)
        for _ in range(seconds):
            self.reference.second()

    @rule(well_s=st.sampled_from([0, 0, 25]))
    def wait_out(self, well_s):
        """To its next trial, or past its slow start and on."""
        self.wait(int(self.reference.left_s) + well_s)

    @rule()
    def fail_again_and_again(self):
        for _ in range(3):
            turn = self.health.enter(in_panic=True)
            self.health.failed(turn)
            self.reference.failed(self.entered, self.entered + 1)
            self.entered += 1

    @precondition(lambda self: self.config.probe)
    @rule(ok=st.booleans())
    def probe(self, ok):
        reference = self.reference
        is_due = reference.state == "ejected" and reference.left_s == 0
        assert self.health.needs_probe() == is_due
        assert self.health.probed(ok=ok) == is_due
        if is_due and ok:
            reference.state, reference.trial = "trial", None
        elif is_due:
            reference.eject(self.entered)

    @precondition(lambda self: self.reference.times > 2)
    @rule()
    def readmit(self):
        self.health.readmit()
        self.reference.__init__(self.config)
        self.reference.since = self.entered

    @invariant()
    def says_the_same(self):
        health, reference = self.health, self.reference
        ramping = 1 - 0.9 * reference.left_s / 10
        expected = {"ok": 1.0, "trial": 1.0, "ejected": 0.1, "ramping": ramping}[reference.state]
        assert health.state == reference.state
        assert health.may_take() == (
            reference.state in {"ok", "ramping"} or (reference.state == "trial" and reference.trial is None)
        )
        assert health.share == pytest.approx(expected)
        assert health.is_out == (reference.state in {"ejected", "trial"})
        assert health.out_for_s == (reference.left_s if reference.state == "ejected" else 0)


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
    found = available(healths, max_ejected)
    assert list(found.may_take).count(False) <= max_ejected * len(out)
