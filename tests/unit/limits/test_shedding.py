"""When a queue is too long for good, and how soon to send a refused request again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.limits.shedding import Shedder, SlotReleaseRate


def test_no_request_of_a_burst_is_dropped():
    shedder = Shedder(target_s=2.0, interval_s=5.0)
    assert [shedder.is_due(3.0, now_s) for now_s in (0.0, 2.0, 4.9)] == [False, False, False]
    assert not shedder.is_due(1.0, 4.95)
    assert not shedder.is_due(3.0, 5.1)


def test_after_an_interval_without_a_quick_wait_requests_are_dropped_at_ever_shorter_intervals():
    shedder = Shedder(target_s=2.0, interval_s=5.0)
    due_s = [step / 10 for step in range(250) if shedder.is_due(3.0, step / 10)]
    assert due_s == [5.0, 10.0, 13.6, 16.5, 19.0, 21.3, 23.4]


def test_one_quick_wait_ends_the_dropping():
    shedder = Shedder(target_s=2.0, interval_s=5.0)
    assert [shedder.is_due(3.0, 0.0), shedder.is_due(3.0, 5.0), shedder.is_due(0.5, 6.0)] == [False, True, False]
    assert not shedder.is_due(3.0, 11.0)


@given(st.lists(st.tuples(st.floats(0, 1.99), st.floats(0, 100)), max_size=50))
@settings(max_examples=50)
def test_no_request_is_dropped_while_all_waits_are_quick(waits):
    shedder, now_s = Shedder(target_s=2.0, interval_s=5.0), 0.0
    for waited_s, later_s in waits:
        now_s += later_s
        assert not shedder.is_due(waited_s, now_s)


def rate_of(*gaps_s):
    slot_rate, now_s = SlotReleaseRate(), 0.0
    for gap_s in gaps_s:
        slot_rate.became_full(now_s)
        now_s += gap_s
        slot_rate.slot_freed(now_s)
        now_s += 1000.0  # not all slots are taken, so this time is no sample
    return slot_rate


@pytest.mark.parametrize(
    ("slot_rate", "ahead", "retry_after_s"),
    [
        (rate_of(), 50, 1.0),
        (rate_of(0.1), 0, 1.0),
        (rate_of(2.0), 0, 2.0),
        (rate_of(2.0, 2.0), 4, 10.0),
        (rate_of(1.0, 2.0), 0, 1.2),
    ],
)
def test_retry_after_is_the_time_until_the_requests_ahead_have_had_slots(slot_rate, ahead, retry_after_s):
    assert slot_rate.retry_after_s(ahead) == pytest.approx(retry_after_s)


def test_a_slot_freed_while_others_were_free_is_no_sample():
    slot_rate = SlotReleaseRate()
    slot_rate.slot_freed(10.0)
    assert slot_rate.retry_after_s(100) == 1.0
