"""The budget for further attempts: a share of the requests, plus some per second."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tidegate.routing.retry_budget import RetryBudget


@pytest.fixture
def clock():
    return FakeClock()


def withdrawn(budget, tries=10_000):
    return sum(budget.withdraw() for _ in range(tries))


@pytest.mark.parametrize(
    ("share", "per_s", "deposits", "expected"),
    [
        (0.2, 0, 0, 0),
        (0.2, 0, 4, 0),
        (0.2, 0, 5, 1),
        (0.2, 0, 1000, 200),
        (0.29, 0, 100, 29),
        (0.05, 0, 20, 1),
        (0.2, 3, 0, 30),
        (0.2, 3, 100, 50),
        (0, 0, 100, 0),
        (1, 0, 100, 100),
    ],
)
def test_the_budget_is_a_share_of_the_requests_plus_some_per_second(clock, share, per_s, deposits, expected):
    """Those of all seconds for which deposits are kept are available at once, so that a first burst can use them."""
    budget = RetryBudget(clock, share, per_s)
    for _ in range(deposits):
        budget.deposit()
    assert budget.available_withdrawals == pytest.approx(expected, abs=0.99)
    assert withdrawn(budget) == expected


@pytest.mark.parametrize(("age_s", "expected"), [(0, 20), (9.9, 20), (10.9, 20), (11, 0), (1e9, 0)])
def test_deposits_expire(clock, age_s, expected):
    """After `keep_s`, to a tenth of it."""
    budget = RetryBudget(clock, 0.2, 0, keep_s=10)
    for _ in range(100):
        budget.deposit()
    clock.advance(age_s)
    assert withdrawn(budget) == expected


def test_withdrawals_expire_after_the_same_time(clock):
    budget = RetryBudget(clock, 0, 3, keep_s=10)
    assert withdrawn(budget) == 30
    clock.advance(10.9)
    assert withdrawn(budget) == 0
    clock.advance(0.2)
    assert withdrawn(budget) == 30


def test_a_deposit_is_not_used_twice(clock):
    """It expires before the withdrawal that used it; meanwhile the budget is negative."""
    budget = RetryBudget(clock, 1, 0, keep_s=10)
    budget.deposit()
    clock.advance(5)
    assert budget.withdraw() is True
    clock.advance(6)
    assert budget.available_withdrawals == -1
    budget.deposit()
    assert budget.withdraw() is False


# per moment: the seconds since the last one, the number of requests, the number of further attempts
MOMENTS = st.lists(
    st.tuples(st.sampled_from([0, 0.3, 1, 4.5, 10, 11, 70]), st.integers(0, 30), st.integers(0, 60)), max_size=25
)


@given(MOMENTS, st.sampled_from([0, 0.05, 0.2, 1]), st.sampled_from([0, 0.1, 3]))
@settings(max_examples=100)
def test_in_any_period_no_more_is_withdrawn_than_its_share(moments, share, per_s):
    clock = FakeClock()
    budget = RetryBudget(clock, share, per_s, keep_s=10)
    log = []  # (when, deposits, withdrawals)
    for gap_s, deposits, attempts in moments:
        clock.advance(gap_s)
        for _ in range(deposits):
            budget.deposit()
        log.append((clock.monotonic_s(), deposits, withdrawn(budget, attempts)))
    for first in range(len(log)):
        for last in range(first, len(log)):
            from_s, to_s = log[first][0], log[last][0]
            deposits = sum(entry[1] for entry in log if from_s - 11 <= entry[0] <= to_s)
            maximum = share * deposits + per_s * (to_s - from_s + 10)
            assert sum(entry[2] for entry in log[first : last + 1]) <= maximum + 1e-6


@given(MOMENTS, st.sampled_from([0.05, 0.2, 1]), st.sampled_from([0, 0.1, 3]))
@settings(max_examples=100)
def test_the_budget_is_that_of_a_complete_log(moments, share, per_s):
    """Steps take a second; the last ten and the current one count."""
    clock = FakeClock(monotonic_s=0)
    budget = RetryBudget(clock, share, per_s, keep_s=10)
    log = []  # (step, change of the budget)
    for gap_s, deposits, attempts in moments:
        clock.advance(gap_s)
        step = int(clock.monotonic_s())
        for _ in range(deposits):
            budget.deposit()
            log.append((step, share))
        for _ in range(attempts):
            available_withdrawals = per_s * 10 + sum(change for at, change in log if at >= step - 10)
            assert budget.available_withdrawals == pytest.approx(available_withdrawals)
            is_granted = budget.withdraw()
            assert is_granted == (available_withdrawals >= 1 - 1e-6)
            log += [(step, -1)] * is_granted
