"""Which target to try next, by what has become of those before."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegate.config.routing import RetryConfig
from tidegate.errors import (
    AnswerMisfit,
    EngineDied,
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
)
from tidegate.routing.schedule import PATIENCE_S, AttemptSchedule
from tidegate.routing.targets import Target

A, B, C = (Target(name, "m") for name in "abc")
ERRORS = [
    AnswerMisfit,
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


class Trip:
    """An itinerary, and what it took from the budget; every step fails as told."""

    def __init__(self, *targets, budgets=100, favoured=0, **retry):
        self.withdrawn = 0
        self.budgets = budgets
        self.now_s = 50.0
        self.way = AttemptSchedule(
            targets, retry=RetryConfig(**retry), withdraw=self.withdraw, rng=Random(7), favoured=favoured
        )

    def withdraw(self):
        if self.withdrawn >= self.budgets:
            return False
        self.withdrawn += 1
        return True

    def step(self):
        return self.way.step(self.now_s)

    def fail(self, step, error=None, *, took_s=0.0, has_other_key=False):
        error = error or UpstreamFailed("no")
        self.way.failed(step, error, now_s=self.now_s, took_s=took_s, has_other_key=has_other_key)

    def names(self, *errors, **how):
        """The targets of the steps, each of which fails with the next error, the last one again and again."""
        errors, found = list(errors), []
        while (step := self.step()) is not None:
            found.append(step.target.upstream)
            self.fail(step, errors.pop(0) if len(errors) > 1 else errors[0], **how)
        return "".join(found)


def test_every_target_comes_once_before_any_comes_twice():
    assert Trip(A, B, C, repeats=3).names(UpstreamFailed("no")) == "abcabc"


def test_there_are_as_many_repeats_as_the_config_says():
    trip = Trip(A, B, repeats=1)
    assert trip.names(UpstreamFailed("no")) == "aba"
    assert trip.way.is_exhausted
    assert Trip(A, B, repeats=0).names(UpstreamFailed("no")) == "ab"


def test_a_repeat_waits_a_random_time_which_grows():
    trip = Trip(A, repeats=7, backoff_s=1.0, max_backoff_s=4.0)
    pauses = []
    while (step := trip.step()) is not None:
        pauses.append(step.pause_s)
        trip.now_s += step.pause_s
        trip.fail(step)
    assert pauses[0] == 0
    bounds = [1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert all(0 <= pause <= bound for pause, bound in zip(pauses[1:], bounds, strict=True))
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize(
    "error",
    [AnswerMisfit("no"), UpstreamLacksModel("no"), UpstreamLacksOperation("no"), UpstreamRefusedUs("no")],
    ids=["misfits", "lacks", "is not for it", "refuses"],
)
def test_what_would_fail_again_is_not_repeated(error):
    assert Trip(A, B).names(error) == "ab"


def test_what_took_long_to_fail_is_not_repeated():
    """The caller has waited once; another target may still be quicker."""
    assert Trip(A, B).names(UpstreamTimeout("slow"), took_s=PATIENCE_S) == "ab"


def test_a_longer_pause_than_we_make_is_the_callers_to_make():
    assert Trip(A, max_backoff_s=5).names(UpstreamRateLimited("no", retry_after_s=6)) == "a"
    trip = Trip(A, max_backoff_s=5)
    trip.fail(trip.step(), UpstreamRateLimited("no", retry_after_s=4))
    assert trip.step().pause_s == 4


def test_another_key_is_tried_at_once():
    trip = Trip(A)
    trip.fail(trip.step(), UpstreamRefusedUs("no"), has_other_key=True)
    assert trip.step().pause_s == 0


@pytest.mark.parametrize("error", [EngineUnavailable("starting"), TargetBusy("full")], ids=["starting", "full"])
def test_who_could_not_take_it_is_waited_for_at_the_end(error):
    """It has not been tried, so it costs no try and nothing of the budget."""
    trip = Trip(A, B)
    first = trip.step()
    assert not first.can_wait
    trip.fail(first, error)
    second = trip.step()
    assert (second.target, second.can_wait, trip.withdrawn) == (B, False, 0)
    trip.fail(second, UpstreamLacksModel("no"))
    last = trip.step()
    assert (last.target, last.can_wait, trip.way.tries) == (A, True, 1)
    trip.fail(last, error)
    assert trip.step() is None


FULL, LOADING, FAILED = TargetBusy("full"), EngineUnavailable("loading"), UpstreamUnreachable("gone")


def test_who_is_favoured_and_full_is_queued_for_before_others_are_tried():
    trip = Trip(A, B, C, favoured=2, repeats=0)
    steps = []
    for error in (FULL, FULL, FULL, FAILED, FULL, FULL):
        steps.append(trip.step())
        trip.fail(steps[-1], error)
    assert [(step.target, step.can_queue, step.can_wait) for step in steps] == [
        (A, False, False),
        (B, False, False),
        (A, True, False),
        (C, False, False),
        (A, False, True),
        (B, False, True),
    ]
    assert trip.step() is None


@pytest.mark.parametrize(("errors", "way"), [((LOADING, FAILED), "aba"), ((FAILED, FAILED), "ab")])
def test_who_is_favoured_and_not_just_full_is_not_queued_for(errors, way):
    """Loading takes long, and failed is failed; what loads is waited for in the end."""
    trip = Trip(A, B, favoured=1, repeats=0)
    assert trip.names(*errors, FAILED) == way


def test_of_the_favoured_the_next_is_asked_before_the_first_is_queued_for():
    trip = Trip(A, B, C, favoured=2)
    assert trip.names(FULL, FAILED, FAILED).startswith("abac")


def test_the_only_target_may_be_waited_for_from_the_start():
    assert Trip(A).step().can_wait


@pytest.mark.parametrize("error", [UpstreamUnreachable("gone"), UpstreamRateLimited("full")], ids=["gone", "limited"])
def test_going_on_is_free_where_the_first_one_has_no_part_in_the_work(error):
    trip = Trip(A, B, budgets=0)
    assert trip.names(error) == "ab"
    assert trip.way.is_exhausted


def test_an_empty_budget_ends_the_tries():
    trip = Trip(A, B, budgets=0)
    assert trip.names(UpstreamFailed("no")) == "a"
    assert trip.way.is_exhausted
    assert Trip(A, B, budgets=2, repeats=9).names(UpstreamFailed("no")) == "aba"


@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(ERRORS), st.booleans(), st.sampled_from([0.0, 60.0])), min_size=1, max_size=12),
    st.integers(0, 3),
)
def test_any_way_ends_and_keeps_its_word(targets, repeats, budgets, failures, favoured):
    """Never more repeats than allowed, never more paid ones than the budget gave, each target before any repeat."""
    trip = Trip(
        *(Target(str(number), "m") for number in range(targets)), budgets=budgets, repeats=repeats, favoured=favoured
    )
    tried, visited, number, queued = [], [], 0, 0
    while (step := trip.step()) is not None:
        number += 1
        assert number <= 2 * targets + 1 + repeats
        kind, has_other_key, took_s = failures[number % len(failures)]
        is_busy = kind in {EngineUnavailable, TargetBusy}
        if step.can_queue:
            queued += 1
            assert (queued, visited[-1]) == (1, str(favoured - 1))
        elif step.target.upstream in visited:
            assert len(set(visited)) == targets
        visited.append(step.target.upstream)
        if not is_busy:
            tried.append(step.target.upstream)
        trip.fail(step, kind("no"), took_s=took_s, has_other_key=has_other_key)
    assert len(tried) == trip.way.tries <= targets + repeats
    assert trip.withdrawn <= budgets


def test_a_request_may_leave_a_target_while_another_one_is_left():
    trip = Trip(A, B)
    moves = []
    for _ in range(2):
        step = trip.step()
        moves.append((step.target, step.can_move))
        trip.fail(step)
    assert moves == [(A, True), (B, False)]
    assert trip.step().can_move is False  # a repeat is the last resort
    assert Trip(A).step().can_move is False


@pytest.mark.parametrize("error", [EngineStalled("moved"), EngineDied("its core is gone")])
def test_leaving_an_engine_that_stands_still_or_died_costs_nothing(error):
    """Or an engine that hangs or dies under fifty callers would lose most of them."""
    trip = Trip(A, B, budgets=0)
    trip.fail(trip.step(), error, took_s=41)
    assert trip.step().target is B
