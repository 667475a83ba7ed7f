"""`FairQueue`: which item is next."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tidegate.limits.queue import BY_URGENCY, SHARES, FairQueue

CALLERS = st.sampled_from("abcd")
PRIORITIES = st.sampled_from(BY_URGENCY)
TOKENS = st.integers(0, 5000)


def filled(*waiting, size=1000):
    """A queue of these `(caller, priority, tokens)`; the items are their numbers."""
    queue = FairQueue(size)
    for number, (caller, priority, tokens) in enumerate(waiting):
        assert queue.push(caller, priority, tokens, number)
    return queue


def emptied(queue):
    return [queue.pop() for _ in range(len(queue))]


def test_items_of_one_caller_leave_in_order_of_arrival():
    assert emptied(filled(*[("a", "default", 100)] * 4)) == [0, 1, 2, 3]


def test_callers_take_turns():
    waiting = [("a", "default", 100)] * 4 + [("b", "default", 100)] * 2
    assert emptied(filled(*waiting)) == [0, 4, 1, 5, 2, 3]


def test_turns_are_measured_in_tokens():
    waiting = [("a", "default", 300)] * 2 + [("b", "default", 100)] * 4
    assert emptied(filled(*waiting)) == [0, 2, 3, 4, 1, 5]


def test_a_caller_that_comes_back_has_saved_nothing_up():
    queue = filled(*[("a", "default", 100)] * 6, ("b", "default", 100))
    assert [queue.pop() for _ in range(4)] == [0, 6, 1, 2]
    for number in (7, 8, 9):
        queue.push("b", "default", 100, number)
    assert emptied(queue) == [7, 3, 8, 4, 9, 5]


def test_tokens_served_are_remembered_for_a_caller_that_never_has_two_items_waiting():
    """Otherwise a caller that comes back at once after each item would always be level, and first."""
    queue = filled(*[("a", "default", 100)] * 4, ("b", "default", 100))
    served = []
    for number in range(5, 9):
        served.append(queue.pop())
        if served[-1] > 3:
            queue.push("b", "default", 100, number)
    assert [item <= 3 for item in served] == [True, False, True, False]


def test_a_full_queue_takes_no_further_item():
    queue = filled(("a", "default", 1), ("a", "default", 1), size=2)
    assert (queue.push("b", "default", 1, 2), len(queue)) == (False, 2)


def test_a_removed_item_is_not_served_and_is_removed_once():
    queue = filled(*[("a", "default", 100)] * 3)
    assert (queue.remove(1), queue.remove(1), emptied(queue), queue.pop()) == (True, False, [0, 2], None)


def test_pop_returns_items_of_the_given_classes_only():
    queue = filled(("a", "interactive", 1), ("a", "batch", 1))
    assert (queue.waiting(), queue.pop(["batch"]), queue.pop(["batch"])) == (["interactive", "batch"], 1, None)


def test_other_classes_get_the_part_that_a_class_does_not_use():
    assert emptied(filled(*[("a", "batch", 100)] * 3)) == [0, 1, 2]


def test_the_oldest_of_a_class():
    queue = filled(("a", "default", 1), ("b", "default", 1), ("c", "batch", 1))
    queue.remove(0)
    assert [queue.oldest(priority) for priority in BY_URGENCY] == [None, 1, 2]


@given(st.lists(st.integers(1, 3000), min_size=2, max_size=20), st.integers(1, 3000))
@settings(max_examples=50)
def test_two_busy_callers_get_equal_parts_though_one_sends_a_hundred_times_as_many(light, heavy):
    """The tokens are equal to within one request of each."""
    waiting = [("heavy", "default", heavy)] * (100 * len(light)) + [("light", "default", tokens) for tokens in light]
    queue, served = filled(*waiting, size=10_000), {"heavy": 0, "light": 0}
    remaining = len(light)
    while remaining and served["heavy"] < 100 * len(light) * heavy:
        caller, _, tokens = waiting[queue.pop()]
        served[caller] += tokens
        remaining -= caller == "light"
        assert abs(served["heavy"] - served["light"]) <= heavy + max(light)


@given(st.lists(st.tuples(PRIORITIES, st.integers(1, 1000)), min_size=50, max_size=200))
@settings(max_examples=50)
def test_busy_classes_get_their_shares(requests):
    """The tokens match the shares to within one request of each."""
    waiting = [("a", priority, 1000) for priority in BY_URGENCY for _ in range(50)]
    waiting += [("b", priority, tokens) for priority, tokens in requests]
    queue, served = filled(*waiting), dict.fromkeys(BY_URGENCY, 0)
    while len(queue.waiting()) == 3:
        _, priority, tokens = waiting[queue.pop()]
        served[priority] += tokens
        by_share = [served[name] / SHARES[name] for name in BY_URGENCY]
        assert max(by_share) - min(by_share) <= 1000 / SHARES["batch"]


@given(st.lists(st.tuples(CALLERS, PRIORITIES, st.integers(1, 1000)), max_size=100), PRIORITIES)
@settings(max_examples=50)
def test_no_item_starves(later_pushes, priority):
    """However many items of at most 1,000 tokens are pushed after it, it is next after a bounded number of tokens."""
    queue = filled(*[("a", name, 1000) for name in BY_URGENCY] * 2)
    queue.push("z", priority, 1000, "patient")
    pops = 0
    while (item := queue.pop()) != "patient":
        assert item is not None
        if pops < len(later_pushes):
            queue.push(*later_pushes[pops], 1000 + pops)
            queue.push("a", "interactive", 1000, 2000 + pops)
        pops += 1
    assert pops <= 3000


@pytest.mark.parametrize(
    ("waiting", "newcomer", "displaced"),
    [
        ([("a", "default", 1)] * 3, ("b", "default"), 2),  # the newest item of the caller with the most
        ([("a", "default", 1)] * 3, ("a", "default"), None),
        ([("a", "default", 1)], ("b", "default"), None),
        ([("a", "default", 1), ("a", "default", 1), ("b", "default", 1)], ("b", "default"), None),
        ([("a", "batch", 1), ("b", "interactive", 1)], ("c", "default"), 0),  # an item of the least urgent class
        ([("a", "batch", 1), ("a", "interactive", 1)], ("a", "interactive"), 0),  # also an item of the same caller
        ([("a", "interactive", 1)] * 3, ("b", "default"), None),
        ([], ("a", "default"), None),
    ],
)
def test_which_item_is_displaced(waiting, newcomer, displaced):
    queue = filled(*waiting)
    queue.size = len(queue)
    assert queue.displace(*newcomer) == displaced
    assert len(queue) == len(waiting) - (displaced is not None)


def test_no_item_is_displaced_where_that_makes_no_room():
    queue = filled(*[("a", "default", 1)] * 3)
    queue.size = 2
    assert queue.displace("b", "default") is None


class SlowQueue:
    """The rule without optimisation: it scans all items, and remembers each caller while its class has items."""

    def __init__(self):
        self.waiting = []  # (caller, priority, tokens, item)
        self.order = 0
        self.served = dict.fromkeys(BY_URGENCY, 0.0)
        self.virtual_time = 0.0
        self.tags = {priority: {} for priority in BY_URGENCY}  # caller: (tokens served, order)
        self.virtual_times = dict.fromkeys(BY_URGENCY, (0.0, -1))

    def of(self, priority, caller=None):
        return [one for one in self.waiting if one[1] == priority and caller in {None, one[0]}]

    def push(self, caller, priority, tokens, item):
        if not self.of(priority):
            self.served[priority] = max(self.served[priority], self.virtual_time)
        tags, virtual_time = self.tags[priority], self.virtual_times[priority]
        if tags.get(caller, (-1.0, -1)) <= virtual_time:
            tags[caller] = (virtual_time[0], self.next())
        self.waiting.append((caller, priority, max(1, tokens), item))

    def pop(self, classes):
        busy = [priority for priority in BY_URGENCY if priority in classes and self.of(priority)]
        if not busy:
            return None
        priority = min(busy, key=lambda name: self.served[name])
        tags = self.tags[priority]
        caller = min({one[0] for one in self.of(priority)}, key=tags.__getitem__)
        one = self.of(priority, caller)[0]
        self.virtual_times[priority] = tags[caller]
        tags[caller] = (tags[caller][0] + one[2], self.next())
        self.virtual_time = max(self.virtual_time, self.served[priority])
        self.served[priority] += one[2] / SHARES[priority]
        self.remove(one[3])
        return one[3]

    def remove(self, item):
        (priority,) = [one[1] for one in self.waiting if one[3] == item]
        self.waiting = [one for one in self.waiting if one[3] != item]
        if not self.of(priority):
            self.tags[priority], self.virtual_times[priority] = {}, (0.0, -1)
        if not self.waiting:
            self.served, self.virtual_time = dict.fromkeys(BY_URGENCY, 0.0), 0.0

    def next(self):
        self.order += 1
        return self.order


class QueueMachine(RuleBasedStateMachine):
    """In any order of operations `FairQueue` does the same as `SlowQueue`."""

    items = Bundle("items")

    def __init__(self):
        super().__init__()
        self.queue, self.slow, self.number = FairQueue(12), SlowQueue(), 0

    @rule(target=items, caller=CALLERS, priority=PRIORITIES, tokens=TOKENS)
    def push(self, caller, priority, tokens):
        self.number += 1
        was_added = self.queue.push(caller, priority, tokens, self.number)
        assert was_added == (len(self.slow.waiting) < 12)
        if not was_added:
            return multiple()
        self.slow.push(caller, priority, tokens, self.number)
        return self.number

    @rule(classes=st.just(BY_URGENCY) | st.lists(PRIORITIES, unique=True))
    def pop(self, classes):
        assert self.slow.pop(classes) == self.queue.pop(classes)

    @rule(item=consumes(items))
    def remove(self, item):
        is_waiting = any(one[3] == item for one in self.slow.waiting)
        if is_waiting:
            self.slow.remove(item)
        assert is_waiting == self.queue.remove(item)

    @invariant()
    def both_hold_the_same_items(self):
        assert len(self.slow.waiting) == len(self.queue)
        for priority in BY_URGENCY:
            waiting = [one[3] for one in self.slow.of(priority)]
            assert (waiting[0] if waiting else None) == self.queue.oldest(priority)

    @invariant()
    def no_more_callers_are_remembered_than_needed(self):
        for class_queue in self.queue._class_queues.values():
            assert len(class_queue._turns) == len(class_queue._in_turns) <= 4
            assert set(class_queue.callers) <= class_queue._in_turns


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
