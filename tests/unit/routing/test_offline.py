"""Whether any hosted upstream can be reached."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fakes.clock import FakeClock
from tidegate.routing.offline import Offline


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def offline(clock):
    return Offline(clock, forced=False, names=["deepseek", "groq"])


def fail_all(offline):
    return [offline.report_unreachable(name) for _ in range(3) for name in ("deepseek", "groq")]


def test_offline_begins_when_every_upstream_has_failed_three_times_in_a_row(offline):
    assert (offline.is_offline, offline.since_s) == (False, 0)
    assert fail_all(offline) == [False, False, False, False, False, True]
    assert offline.is_offline


def test_one_upstream_that_answers_keeps_tidegate_online(offline):
    offline.report_reached("groq")
    assert [offline.report_unreachable("deepseek") for _ in range(100)] == [False] * 100


def test_an_answer_resets_the_count_of_failures_of_its_upstream(offline):
    for name in ("deepseek", "deepseek", "deepseek", "groq", "groq"):
        offline.report_unreachable(name)
    assert offline.report_reached("groq") is False
    assert [offline.report_unreachable("groq") for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("name", ["deepseek", "groq"])
def test_any_answer_ends_offline_at_once(offline, name):
    fail_all(offline)
    assert offline.report_reached(name) is True
    assert (offline.is_offline, offline.since_s, offline.due_probes()) == (False, 0, ())


def test_names_that_are_no_hosted_upstream_do_not_count(offline):
    """A local engine neither begins nor ends the offline state."""
    assert [offline.report_unreachable("engine") for _ in range(9)] == [False] * 9
    fail_all(offline)
    assert offline.report_reached("engine") is False
    assert offline.is_offline


def test_without_upstreams_offline_never_begins_by_itself(clock):
    offline = Offline(clock, forced=False, names=[])
    assert offline.report_unreachable("engine") is False
    assert (offline.is_offline, offline.due_probes()) == (False, ())


def test_offline_set_by_the_operator_never_ends(clock):
    offline = Offline(clock, forced=True, names=["groq"])
    clock.advance(7)
    assert [offline.report_unreachable("groq"), offline.report_reached("groq")] == [False, False]
    assert (offline.is_offline, offline.is_forced, offline.since_s, offline.due_probes()) == (True, True, 7, ())


def test_probes_become_rarer(offline, clock):
    """At 1, 3, 7, … seconds, and then every thirty; each time is returned once."""
    fail_all(offline)
    due = []
    for second in range(130):
        if offline.due_probes():
            due.append(second)
        assert offline.due_probes() == ()
        clock.advance(1)
    assert due == [1, 3, 7, 15, 31, 61, 91, 121]


def test_every_upstream_is_probed(offline, clock):
    fail_all(offline)
    clock.advance(1)
    assert offline.due_probes() == ("deepseek", "groq")


def test_after_a_time_online_probes_start_early_again(offline, clock):
    fail_all(offline)
    for _ in range(100):
        clock.advance(1)
        offline.due_probes()
    offline.report_reached("groq")
    for _ in range(3):
        offline.report_unreachable("groq")
    clock.advance(1)
    assert (offline.since_s, offline.due_probes()) == (1, ("deepseek", "groq"))


class OfflineMachine(RuleBasedStateMachine):
    """A reference stores every answer and reads the last ones."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(monotonic_s=0)
        self.offline = Offline(self.clock, forced=False, names="abc")
        self.answers = {name: [] for name in "abc"}
        self.began_s = None
        self.probes_s = []

    @rule(name=st.sampled_from("abcd"), is_reached=st.sampled_from([False, False, False, False, True]))
    def answer(self, name, is_reached):
        was_offline = self.began_s is not None
        if name in self.answers:
            self.answers[name].append(is_reached)
            if is_reached:
                self.began_s = None
            elif not was_offline and all(last[-3:] == [False] * 3 for last in self.answers.values()):
                self.began_s = self.clock.monotonic_s()
                self.probes_s = [self.began_s + 1]
        changed = self.offline.report_reached(name) if is_reached else self.offline.report_unreachable(name)
        assert changed == (was_offline != (self.began_s is not None))

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def probe(self):
        now_s = self.clock.monotonic_s()
        is_due = self.began_s is not None and now_s >= self.probes_s[-1]
        assert self.offline.due_probes() == (("a", "b", "c") if is_due else ())
        if is_due:
            self.probes_s.append(now_s + min(30, 2 ** len(self.probes_s)))

    @invariant()
    def agrees_with_the_reference(self):
        assert self.offline.is_offline == (self.began_s is not None)
        assert self.offline.since_s == (0 if self.began_s is None else self.clock.monotonic_s() - self.began_s)


TestOffline = OfflineMachine.TestCase
TestOffline.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
