"""When a queue is too long for good, and when to come again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.limits.shedding import Shedder, SlotRate


def test_a_burst_is_waited_out():
    shedder = Shedder(target_s=2.0, interval_s=5.0)
    assert [shedder.is_due(3.0, now_s) for now_s in (0.0, 2.0, 4.9)] == [False, False, False]
    assert not shedder.is_due(1.0, 4.95)
    assert not shedder.is_due(3.0, 5.1)


def test_after_an_interval_without_a_quick_one_somebody_is_dropped_at_ever_shorter_distances():
    shedder = Shedder(target_s=2.0, interval_s=5.0)
    due_s = [step / 10 for step in range(250) if shedder.is_due(3.0, step / 10)]
    assert due_s == [5.0, 10.0, 13.6, 16.5, 19.0, 21.3, 23.4]


def test_one_quick_one_ends_it():
    shedder = Shedder(target_s=2.0, interval_s=5.0)
    assert [shedder.is_due(3.0, 0.0), shedder.is_due(3.0, 5.0), shedder.is_due(0.5, 6.0)] == [False, True, False]
    assert not shedder.is_due(3.0, 11.0)


@given(st.lists(st.tuples(st.floats(0, 1.99), st.floats(0, 100)), max_size=50))
@settings(max_examples=50)
def test_nobody_is_dropped_while_all_get_through_quickly(course):
    shedder, now_s = Shedder(target_s=2.0, interval_s=5.0), 0.0
    for waited_s, later_s in course:
        now_s += later_s
        assert not shedder.is_due(waited_s, now_s)


def paced(*gaps_s):
    pace, now_s = SlotRate(), 0.0
    for gap_s in gaps_s:
        pace.full(now_s)
        now_s += gap_s
        pace.freed(now_s)
        now_s += 1000.0  # not all are taken: that says nothing
    return pace


@pytest.mark.parametrize(
    ("pace", "ahead", "retry_after_s"),
    [
        (paced(), 50, 1.0),
        (paced(0.1), 0, 1.0),
        (paced(2.0), 0, 2.0),
        (paced(2.0, 2.0), 4, 10.0),
        (paced(1.0, 2.0), 0, 1.2),
    ],
)
def test_come_again_when_those_ahead_have_had_their_places(pace, ahead, retry_after_s):
    assert pace.retry_after_s(ahead) == pytest.approx(retry_after_s)


def test_who_leaves_while_not_all_places_were_taken_says_nothing():
    pace = SlotRate()
    pace.freed(10.0)
    assert pace.retry_after_s(100) == 1.0
