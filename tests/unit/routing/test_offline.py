"""Whether anything elsewhere can be reached."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tidegate.routing.offline import Offline

from tests.fakes.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def line(clock):
    return Offline(clock, forced=False, names=["deepseek", "groq"])


def cut(line):
    return [line.unreachable(name) for _ in range(3) for name in ("deepseek", "groq")]


def test_it_begins_when_every_upstream_has_failed_three_times_in_a_row(line):
    assert (line.is_offline, line.since_s) == (False, 0)
    assert cut(line) == [False, False, False, False, False, True]
    assert line.is_offline


def test_one_upstream_that_is_there_keeps_it_online(line):
    line.reached("groq")
    assert [line.unreachable("deepseek") for _ in range(100)] == [False] * 100


def test_an_answer_between_starts_the_row_of_that_upstream_anew(line):
    for name in ("deepseek", "deepseek", "deepseek", "groq", "groq"):
        line.unreachable(name)
    assert line.reached("groq") is False
    assert [line.unreachable("groq") for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("name", ["deepseek", "groq"])
def test_any_answer_ends_it_at_once(line, name):
    cut(line)
    assert line.reached(name) is True
    assert (line.is_offline, line.since_s, line.probe_due()) == (False, 0, ())


def test_what_is_no_upstream_does_not_count(line):
    """An engine of ours neither begins it nor ends it."""
    assert [line.unreachable("engine") for _ in range(9)] == [False] * 9
    cut(line)
    assert line.reached("engine") is False
    assert line.is_offline


def test_without_upstreams_it_never_begins_by_itself(clock):
    line = Offline(clock, forced=False, names=[])
    assert line.unreachable("engine") is False
    assert (line.is_offline, line.probe_due()) == (False, ())


def test_what_the_operator_says_never_ends(clock):
    line = Offline(clock, forced=True, names=["groq"])
    clock.advance(7)
    assert [line.unreachable("groq"), line.reached("groq")] == [False, False]
    assert (line.is_offline, line.is_forced, line.since_s, line.probe_due()) == (True, True, 7, ())


def test_probes_become_rarer(line, clock):
    """At 1, 3, 7, … seconds, and then every thirty; each time is said once."""
    cut(line)
    due = []
    for second in range(130):
        if line.probe_due():
            due.append(second)
        assert line.probe_due() == ()
        clock.advance(1)
    assert due == [1, 3, 7, 15, 31, 61, 91, 121]


def test_every_upstream_is_probed(line, clock):
    cut(line)
    clock.advance(1)
    assert line.probe_due() == ("deepseek", "groq")


def test_after_a_time_online_probes_start_early_again(line, clock):
    cut(line)
    for _ in range(100):
        clock.advance(1)
        line.probe_due()
    line.reached("groq")
    for _ in range(3):
        line.unreachable("groq")
    clock.advance(1)
    assert (line.since_s, line.probe_due()) == (1, ("deepseek", "groq"))


class LineMachine(RuleBasedStateMachine):
    """Beside a reference that keeps every answer and looks at the last ones."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(monotonic_s=0)
        self.line = Offline(self.clock, forced=False, names="abc")
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
        changed = self.line.reached(name) if is_reached else self.line.unreachable(name)
        assert changed == (was_offline != (self.began_s is not None))

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def probe(self):
        now_s = self.clock.monotonic_s()
        is_due = self.began_s is not None and now_s >= self.probes_s[-1]
        assert self.line.probe_due() == (("a", "b", "c") if is_due else ())
        if is_due:
            self.probes_s.append(now_s + min(30, 2 ** len(self.probes_s)))

    @invariant()
    def says_the_same(self):
        assert self.line.is_offline == (self.began_s is not None)
        assert self.line.since_s == (0 if self.began_s is None else self.clock.monotonic_s() - self.began_s)


TestLine = LineMachine.TestCase
TestLine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
