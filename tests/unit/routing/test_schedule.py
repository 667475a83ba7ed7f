"""Which target to try next, by the outcome of the attempts before."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.routing import RetryConfig
from tidegate.errors import (
    EngineDied,
    EngineStalled,
    EngineUnavailable,
    SchemaMismatch,
    TargetBusy,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tidegate.routing.schedule import MAX_REPEATABLE_S, AttemptSchedule
from tidegate.routing.targets import Target

A, B, C = (Target(name, "m") for name in "abc")
ERRORS = [
    SchemaMismatch,
    EngineStalled,
    EngineUnavailable,
    TargetBusy,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamTimeout,
    UpstreamUnreachable,
]


class ScriptedSchedule:
    """A schedule whose attempts fail as the test says; counts what is taken from the budget."""

    def __init__(self, *targets, budgets=100, favoured_count=0, **retry):
        self.withdrawn = 0
        self.budgets = budgets
        self.now_s = 50.0
        self.schedule = AttemptSchedule(
            targets, retry=RetryConfig(**retry), withdraw=self.withdraw, rng=Random(7), favoured_count=favoured_count
        )

    def withdraw(self):
        if self.withdrawn >= self.budgets:
            return False
        self.withdrawn += 1
        return True

    def step(self):
        return self.schedule.next_attempt(self.now_s)

    def fail(self, attempt, error=None, *, took_s=0.0, has_other_key=False):
        error = error or UpstreamFailed("no")
        self.schedule.failed(attempt, error, now_s=self.now_s, took_s=took_s, has_other_key=has_other_key)

    def names(self, *errors, **arguments):
        """The targets of the attempts, in order. Each attempt fails with the next error; the last error repeats."""
        errors, names = list(errors), []
        while (attempt := self.step()) is not None:
            names.append(attempt.target.upstream)
            self.fail(attempt, errors.pop(0) if len(errors) > 1 else errors[0], **arguments)
        return "".join(names)


def test_every_target_is_tried_once_before_any_is_tried_twice():
    assert ScriptedSchedule(A, B, C, repeats=3).names(UpstreamFailed("no")) == "abcabc"


def test_there_are_as_many_repeats_as_configured():
    scripted = ScriptedSchedule(A, B, repeats=1)
    assert scripted.names(UpstreamFailed("no")) == "aba"
    assert scripted.schedule.is_exhausted
    assert ScriptedSchedule(A, B, repeats=0).names(UpstreamFailed("no")) == "ab"


def test_a_repeat_waits_a_random_time_that_grows():
    scripted = ScriptedSchedule(A, repeats=7, backoff_s=1.0, max_backoff_s=4.0)
    pauses = []
    while (attempt := scripted.step()) is not None:
        pauses.append(attempt.pause_s)
        scripted.now_s += attempt.pause_s
        scripted.fail(attempt)
    assert pauses[0] == 0
    bounds = [1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert all(0 <= pause <= bound for pause, bound in zip(pauses[1:], bounds, strict=True))
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize(
    "error",
    [SchemaMismatch("no"), UpstreamLacksModel("no"), UpstreamLacksOperation("no"), UpstreamRefusedUs("no")],
    ids=["misfits", "lacks", "is not for it", "refuses"],
)
def test_an_attempt_that_would_fail_again_is_not_repeated(error):
    assert ScriptedSchedule(A, B).names(error) == "ab"


def test_an_attempt_that_took_long_to_fail_is_not_repeated():
    """The caller has waited once; another target may still be faster."""
    assert ScriptedSchedule(A, B).names(UpstreamTimeout("slow"), took_s=MAX_REPEATABLE_S) == "ab"


def test_a_pause_over_the_maximum_is_left_to_the_caller():
    assert ScriptedSchedule(A, max_backoff_s=5).names(UpstreamRateLimited("no", retry_after_s=6)) == "a"
    scripted = ScriptedSchedule(A, max_backoff_s=5)
    scripted.fail(scripted.step(), UpstreamRateLimited("no", retry_after_s=4))
    assert scripted.step().pause_s == 4


def test_another_credential_is_tried_at_once():
    scripted = ScriptedSchedule(A)
    scripted.fail(scripted.step(), UpstreamRefusedUs("no"), has_other_key=True)
    assert scripted.step().pause_s == 0


@pytest.mark.parametrize("error", [EngineUnavailable("starting"), TargetBusy("full")], ids=["starting", "full"])
def test_a_target_that_could_not_take_the_request_is_waited_for_at_the_end(error):
    """It does not count as tried, and takes nothing from the budget."""
    scripted = ScriptedSchedule(A, B)
    first = scripted.step()
    assert not first.can_wait
    scripted.fail(first, error)
    second = scripted.step()
    assert (second.target, second.can_wait, scripted.withdrawn) == (B, False, 0)
    scripted.fail(second, UpstreamLacksModel("no"))
    last = scripted.step()
    assert (last.target, last.can_wait, scripted.schedule.tries) == (A, True, 1)
    scripted.fail(last, error)
    assert scripted.step() is None


FULL, LOADING, FAILED = TargetBusy("full"), EngineUnavailable("loading"), UpstreamUnreachable("gone")


def test_a_favoured_full_target_is_queued_for_before_others_are_tried():
    scripted = ScriptedSchedule(A, B, C, favoured_count=2, repeats=0)
    attempts = []
    for error in (FULL, FULL, FULL, FAILED, FULL, FULL):
        attempts.append(scripted.step())
        scripted.fail(attempts[-1], error)
    assert [(attempt.target, attempt.can_queue, attempt.can_wait) for attempt in attempts] == [
        (A, False, False),
        (B, False, False),
        (A, True, False),
        (C, False, False),
        (A, False, True),
        (B, False, True),
    ]
    assert scripted.step() is None


@pytest.mark.parametrize(("errors", "order"), [((LOADING, FAILED), "aba"), ((FAILED, FAILED), "ab")])
def test_a_favoured_target_that_is_not_just_full_is_not_queued_for(errors, order):
    """Loading takes long, and a failure stays one; a loading engine is waited for at the end."""
    scripted = ScriptedSchedule(A, B, favoured_count=1, repeats=0)
    assert scripted.names(*errors, FAILED) == order


def test_all_favoured_targets_are_tried_before_one_is_queued_for():
    scripted = ScriptedSchedule(A, B, C, favoured_count=2)
    assert scripted.names(FULL, FAILED, FAILED).startswith("abac")


def test_the_only_target_may_be_waited_for_from_the_start():
    assert ScriptedSchedule(A).step().can_wait


@pytest.mark.parametrize("error", [UpstreamUnreachable("gone"), UpstreamRateLimited("full")], ids=["gone", "limited"])
def test_failover_is_free_if_the_first_target_does_no_work_for_the_request(error):
    scripted = ScriptedSchedule(A, B, budgets=0)
    assert scripted.names(error) == "ab"
    assert scripted.schedule.is_exhausted


def test_an_empty_budget_ends_the_attempts():
    scripted = ScriptedSchedule(A, B, budgets=0)
    assert scripted.names(UpstreamFailed("no")) == "a"
    assert scripted.schedule.is_exhausted
    assert ScriptedSchedule(A, B, budgets=2, repeats=9).names(UpstreamFailed("no")) == "aba"


@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(ERRORS), st.booleans(), st.sampled_from([0.0, 60.0])), min_size=1, max_size=12),
    st.integers(0, 3),
)
def test_every_schedule_ends_within_its_limits(targets, repeats, budgets, failures, favoured_count):
    """No more repeats than configured, no more paid attempts than the budget has, each target before any repeat."""
    scripted = ScriptedSchedule(
        *(Target(str(number), "m") for number in range(targets)),
        budgets=budgets,
        repeats=repeats,
        favoured_count=favoured_count,
    )
    tried, seen, number, queued = [], [], 0, 0
    while (attempt := scripted.step()) is not None:
        number += 1
        assert number <= 2 * targets + 1 + repeats
        kind, has_other_key, took_s = failures[number % len(failures)]
        is_busy = kind in {EngineUnavailable, TargetBusy}
        if attempt.can_queue:
            queued += 1
            assert (queued, seen[-1]) == (1, str(favoured_count - 1))
        elif attempt.target.upstream in seen:
            assert len(set(seen)) == targets
        seen.append(attempt.target.upstream)
        if not is_busy:
            tried.append(attempt.target.upstream)
        scripted.fail(attempt, kind("no"), took_s=took_s, has_other_key=has_other_key)
    assert len(tried) == scripted.schedule.tries <= targets + repeats
    assert scripted.withdrawn <= budgets


def test_a_request_may_leave_a_target_while_another_one_is_left():
    scripted = ScriptedSchedule(A, B)
    may_move = []
    for _ in range(2):
        attempt = scripted.step()
        may_move.append((attempt.target, attempt.may_leave))
        scripted.fail(attempt)
    assert may_move == [(A, True), (B, False)]
    assert scripted.step().may_leave is False  # a repeat is the last resort
    assert ScriptedSchedule(A).step().may_leave is False


@pytest.mark.parametrize("error", [EngineStalled("moved"), EngineDied("its core is gone")])
def test_leaving_an_engine_that_hangs_or_died_costs_nothing(error):
    """Otherwise an engine that hangs or dies with fifty requests would lose most of them."""
    scripted = ScriptedSchedule(A, B, budgets=0)
    scripted.fail(scripted.step(), error, took_s=41)
    assert scripted.step().target is B
