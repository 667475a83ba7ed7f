"""Which class a free slot is for."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.limits.queue import BY_URGENCY
from tidegate.limits.slots import SlotPool


def taken(interactive=0, default=0, batch=0):
    slots = SlotPool()
    for priority, number in zip(BY_URGENCY, (interactive, default, batch), strict=True):
        for _ in range(number):
            slots.take(priority)
    return slots


@pytest.mark.parametrize(
    ("slots", "priority", "limit", "has_room"),
    [
        (taken(), "batch", 1, True),
        (taken(interactive=9), "interactive", 10, True),
        (taken(default=9), "default", 10, True),
        (taken(default=10), "interactive", 10, False),
        (taken(batch=8), "batch", 10, True),
        (taken(batch=9), "batch", 10, False),  # batch leaves a tenth free
        (taken(batch=9), "default", 10, True),
        (taken(default=9), "batch", 10, True),  # the taken slots are not batch's
        (taken(batch=3), "batch", 4, True),
        (taken(batch=10_000), "batch", inf, True),
    ],
)
def test_unused_parts_are_lent_but_batch_leaves_a_tenth_free(slots, priority, limit, has_room):
    assert slots.has_free_slot(priority, limit) == has_room


@pytest.mark.parametrize(
    ("slots", "waiting", "classes"),
    [
        (taken(batch=9), ["interactive", "default", "batch"], ["interactive", "default"]),
        (taken(interactive=7, default=1, batch=1), ["interactive", "default", "batch"], ["default"]),
        (taken(interactive=7, default=2), ["interactive", "default", "batch"], ["batch"]),
        (taken(interactive=7, default=2), ["interactive", "default"], ["interactive", "default"]),
        (taken(interactive=9), ["interactive"], ["interactive"]),
        (taken(batch=9), ["batch"], []),
        (taken(interactive=10), ["batch"], []),
    ],
)
def test_a_class_with_less_than_its_part_comes_before_one_that_would_borrow(slots, waiting, classes):
    assert slots.next_classes(waiting, 10) == classes


@given(st.lists(st.sampled_from(BY_URGENCY), max_size=30), st.integers(1, 20))
@settings(max_examples=50)
def test_a_free_slot_is_for_some_class_whichever_slots_are_taken(arrivals, limit):
    slots = SlotPool()
    for priority in arrivals:
        if slots.has_free_slot(priority, limit):
            slots.take(priority)
    assert slots.taken <= limit
    assert bool(slots.next_classes(["interactive", "default", "batch"], limit)) == (slots.taken < limit)


def test_a_released_slot_is_free():
    slots = taken(default=2)
    slots.release("default")
    assert (slots.taken, slots.by_class["default"]) == (1, 1)
