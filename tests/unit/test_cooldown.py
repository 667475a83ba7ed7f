"""How long a host gets no requests after it asked to wait, and the trial before that time is over."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidegate.cooldown import Cooldown


@pytest.fixture
def cooldown():
    return Cooldown(max_s=3600, trial_s=5)


def test_without_a_wait_every_request_may_be_sent(cooldown):
    assert (cooldown.is_over(0), cooldown.may_enter(0), cooldown.remaining_s(0), cooldown.enter(0)) == (
        True,
        True,
        0,
        0,
    )
    assert cooldown.extend(4, now_s=10)
    assert (cooldown.is_over(13.9), cooldown.may_enter(13.9), cooldown.remaining_s(11)) == (False, False, 3)
    assert (cooldown.is_over(14), cooldown.may_enter(14), cooldown.remaining_s(14), cooldown.enter(14)) == (
        True,
        True,
        0,
        0,
    )


@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf])
def test_an_invalid_wait_changes_nothing(cooldown, seconds):
    assert not cooldown.extend(seconds, now_s=0)
    assert cooldown.until_s == -math.inf
    cooldown.extend(100, now_s=0)
    number = cooldown.enter(10)
    assert not cooldown.extend(seconds, now_s=11, trial=number)
    assert cooldown.until_s == 100
    assert not cooldown.may_enter(50)  # the trial is still in flight


@pytest.mark.parametrize(("seconds", "kept_s"), [(3600, 3600), (3601, 3600), (1e300, 3600), (math.inf, 3600)])
def test_no_wait_is_longer_than_the_longest(cooldown, seconds, kept_s):
    cooldown.extend(seconds, now_s=0)
    assert cooldown.until_s == kept_s


@pytest.mark.parametrize(("wait_s", "tried_at_s"), [(6, 5), (50, 5), (60, 6), (600, 60), (3600, 360), (9999, 360)])
def test_one_trial_is_sent_after_a_tenth_of_the_wait(cooldown, wait_s, tried_at_s):
    cooldown.extend(wait_s, now_s=0)
    assert not cooldown.may_enter(tried_at_s - 0.01)
    assert cooldown.may_enter(tried_at_s)
    assert cooldown.enter(tried_at_s)
    assert not cooldown.may_enter(tried_at_s)
    assert cooldown.remaining_s(tried_at_s) == min(wait_s, 3600) - tried_at_s


def test_a_short_wait_has_no_trial(cooldown):
    cooldown.extend(5, now_s=0)
    assert not cooldown.may_enter(4.99)


def test_a_trial_that_succeeds_ends_the_cooldown(cooldown):
    cooldown.extend(600, now_s=0)
    cooldown.succeeded(cooldown.enter(60))
    assert cooldown.is_over(60)


@pytest.mark.parametrize(("seconds", "until_s"), [(10, 71), (600, 661), (3600, 3661)])
def test_the_answer_to_the_trial_replaces_the_earlier_wait(cooldown, seconds, until_s):
    cooldown.extend(600, now_s=0)
    number = cooldown.enter(60)
    cooldown.extend(seconds, now_s=61, trial=number)
    assert cooldown.until_s == until_s
    assert not cooldown.may_enter(61 + 4.9)
    cooldown.ended(number, now_s=62)
    cooldown.succeeded(number)
    assert cooldown.until_s == until_s


def test_after_a_trial_without_an_outcome_the_next_one_is_later(cooldown):
    cooldown.extend(600, now_s=0)
    cooldown.ended(cooldown.enter(60), now_s=100)
    assert not cooldown.may_enter(159)
    assert cooldown.may_enter(160)
    assert cooldown.enter(160) == 2


def test_requests_sent_before_the_cooldown_do_not_end_it(cooldown):
    cooldown.extend(600, now_s=0)
    cooldown.succeeded(0)
    cooldown.ended(0, now_s=1)
    assert cooldown.until_s == 600
    cooldown.extend(100, now_s=1)  # an earlier answer that came late
    assert cooldown.until_s == 600
    cooldown.extend(900, now_s=1)
    assert cooldown.until_s == 901
    assert not cooldown.may_enter(90.9)


def test_a_trial_that_outlasts_its_cooldown_does_not_end_a_later_one(cooldown):
    cooldown.extend(60, now_s=0)
    number = cooldown.enter(6)
    cooldown.extend(60, now_s=70)
    cooldown.succeeded(number)
    cooldown.ended(number, now_s=71)
    assert cooldown.until_s == 130
    assert cooldown.may_enter(76)


def test_changed_limits_hold_for_later_waits(cooldown):
    cooldown.extend(600, now_s=0)
    cooldown.configure(max_s=10, trial_s=1)
    assert cooldown.until_s == 600
    cooldown.extend(600, now_s=600)
    assert cooldown.until_s == 610
    assert cooldown.may_enter(601)


class CooldownMachine(RuleBasedStateMachine):
    """Whatever happens, there is at most one trial at a time, and every wait ends."""

    @initialize()
    def begin(self):
        self.now_s, self.trials, self.last_s = 0.0, [], -math.inf
        self.cooldown = Cooldown(max_s=100, trial_s=5)

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 101.0]))
    def advance(self, seconds):
        self.now_s += seconds

    @rule()
    def enter(self):
        if self.cooldown.may_enter(self.now_s):
            was_over = self.cooldown.is_over(self.now_s)
            number = self.cooldown.enter(self.now_s)
            assert (number == 0) == was_over
            if number:
                self.trials = [number]  # a trial that outlasted its cooldown has no effect any more

    @rule(seconds=st.sampled_from([-1.0, 1.0, 60.0, 1000.0]), is_trial=st.booleans())
    def extend(self, seconds, is_trial):
        trial = self.trials[0] if is_trial and self.trials else 0
        if self.cooldown.extend(seconds, self.now_s, trial):
            self.last_s = max(self.last_s, self.now_s + min(seconds, 100))

    @rule(works=st.booleans())
    def end(self, works):
        for number in self.trials:
            if works:
                self.cooldown.succeeded(number)
            self.cooldown.ended(number, self.now_s)
        self.trials = []

    @invariant()
    def ends_in_time(self):
        assert self.cooldown.until_s <= self.last_s
        assert (self.cooldown.remaining_s(self.now_s) > 0) == (not self.cooldown.may_enter(self.now_s))
        assert self.cooldown.remaining_s(self.now_s) <= 100


CooldownMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestCooldown = CooldownMachine.TestCase
