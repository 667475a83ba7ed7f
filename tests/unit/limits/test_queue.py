"""Whose turn it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from tidegate.limits.queue import BY_URGENCY, SHARES, FairQueue

CALLERS = st.sampled_from("abcd")
PRIORITIES = st.sampled_from(BY_URGENCY)
TOKENS = st.integers(0, 5000)


def filled(*waiting, size=1000):
    """A queue with `(caller, priority, tokens)`; the items are their numbers."""
    queue = FairQueue(size)
    for number, (caller, priority, tokens) in enumerate(waiting):
        assert queue.push(caller, priority, tokens, number)
    return queue


def emptied(queue):
    return [queue.pop() for _ in range(len(queue))]


def test_one_callers_items_leave_as_they_came():
    assert emptied(filled(*[("a", "default", 100)] * 4)) == [0, 1, 2, 3]


def test_callers_take_turns():
    waiting = [("a", "default", 100)] * 4 + [("b", "default", 100)] * 2
    assert emptied(filled(*waiting)) == [0, 4, 1, 5, 2, 3]


def test_turns_are_measured_in_tokens():
    waiting = [("a", "default", 300)] * 2 + [("b", "default", 100)] * 4
    assert emptied(filled(*waiting)) == [0, 2, 3, 4, 1, 5]


def test_who_comes_back_has_saved_nothing_up():
    queue = filled(*[("a", "default", 100)] * 6, ("b", "default", 100))
    assert [queue.pop() for _ in range(4)] == [0, 6, 1, 2]
    for number in (7, 8, 9):
        queue.push("b", "default", 100, number)
    assert emptied(queue) == [7, 3, 8, 4, 9, 5]


def test_nor_is_forgotten_what_was_had_by_one_who_never_has_two_waiting():
    """Else who always comes back at once is always level, and first."""
    queue = filled(*[("a", "default", 100)] * 4, ("b", "default", 100))
    served = []
    for number in range(5, 9):
        served.append(queue.pop())
        if served[-1] > 3:
            queue.push("b", "default", 100, number)
    assert [item <= 3 for item in served] == [True, False, True, False]


def test_a_full_queue_takes_no_more():
    queue = filled(("a", "default", 1), ("a", "default", 1), size=2)
    assert (queue.push("b", "default", 1, 2), len(queue)) == (False, 2)


def test_who_left_is_not_served_and_leaves_once():
    queue = filled(*[("a", "default", 100)] * 3)
    assert (queue.remove(1), queue.remove(1), emptied(queue), queue.pop()) == (True, False, [0, 2], None)


def test_only_classes_that_are_asked_for():
    queue = filled(("a", "interactive", 1), ("a", "batch", 1))
    assert (queue.waiting(), queue.pop(["batch"]), queue.pop(["batch"])) == (["interactive", "batch"], 1, None)


def test_what_a_class_does_not_use_is_the_others():
    assert emptied(filled(*[("a", "batch", 100)] * 3)) == [0, 1, 2]


def test_the_oldest_of_a_class():
    queue = filled(("a", "default", 1), ("b", "default", 1), ("c", "batch", 1))
    queue.remove(0)
    assert [queue.oldest(priority) for priority in BY_URGENCY] == [None, 1, 2]


@given(st.lists(st.integers(1, 3000), min_size=2, max_size=20), st.integers(1, 3000))
@settings(max_examples=50)
def test_two_busy_callers_get_the_same_though_one_asks_a_hundred_times_as_often(light, heavy):
    """To within one request of each."""
    waiting = [("heavy", "default", heavy)] * (100 * len(light)) + [("light", "default", tokens) for tokens in light]
    queue, had = filled(*waiting, size=10_000), {"heavy": 0, "light": 0}
    left = len(light)
    while left and had["heavy"] < 100 * len(light) * heavy:
        caller, _, tokens = waiting[queue.pop()]
        had[caller] += tokens
        left -= caller == "light"
        assert abs(had["heavy"] - had["light"]) <= heavy + max(light)


@given(st.lists(st.tuples(PRIORITIES, st.integers(1, 1000)), min_size=50, max_size=200))
@settings(max_examples=50)
def test_busy_classes_get_their_shares(requests):
    """By tokens, to within one request of each."""
    waiting = [("a", priority, 1000) for priority in BY_URGENCY for _ in range(50)]
    waiting += [("b", priority, tokens) for priority, tokens in requests]
    queue, had = filled(*waiting), dict.fromkeys(BY_URGENCY, 0)
    while len(queue.waiting()) == 3:
        _, priority, tokens = waiting[queue.pop()]
        had[priority] += tokens
        by_share = [had[name] / SHARES[name] for name in BY_URGENCY]
        assert max(by_share) - min(by_share) <= 1000 / SHARES["batch"]


@given(st.lists(st.tuples(CALLERS, PRIORITIES, st.integers(1, 1000)), max_size=100), PRIORITIES)
@settings(max_examples=50)
def test_nobody_starves(newcomers, priority):
    """However many come after it, each of at most 1,000 tokens: its turn comes after a bounded number of tokens."""
    queue = filled(*[("a", name, 1000) for name in BY_URGENCY] * 2)
    queue.push("z", priority, 1000, "patient")
    pops = 0
    while (item := queue.pop()) != "patient":
        assert item is not None
        if pops < len(newcomers):
            queue.push(*newcomers[pops], 1000 + pops)
            queue.push("a", "interactive", 1000, 2000 + pops)
        pops += 1
    assert pops <= 3000


@pytest.mark.parametrize(
    ("waiting", "newcomer", "displaced"),
    [
        ([("a", "default", 1)] * 3, ("b", "default"), 2),  # the newest of whoever has most
        ([("a", "default", 1)] * 3, ("a", "default"), None),
        ([("a", "default", 1)], ("b", "default"), None),
        ([("a", "default", 1), ("a", "default", 1), ("b", "default", 1)], ("b", "default"), None),
        ([("a", "batch", 1), ("b", "interactive", 1)], ("c", "default"), 0),  # the least urgent
        ([("a", "batch", 1), ("a", "interactive", 1)], ("a", "interactive"), 0),  # one's own, too
        ([("a", "interactive", 1)] * 3, ("b", "default"), None),
        ([], ("a", "default"), None),
    ],
)
def test_who_has_to_make_room(waiting, newcomer, displaced):
    queue = filled(*waiting)
    queue.size = len(queue)
    assert queue.displace(*newcomer) == displaced
    assert len(queue) == len(waiting) - (displaced is not None)


def test_nobody_has_to_where_that_makes_no_room():
    queue = filled(*[("a", "default", 1)] * 3)
    queue.size = 2
    assert queue.displace("b", "default") is None


class Naive:
    """The rule, word for word: everything is looked through, and nothing forgotten while anybody of the class waits."""

    def __init__(self):
        self.waiting = []  # (caller, priority, tokens, item)
        self.order = 0
        self.had = dict.fromkeys(BY_URGENCY, 0.0)
        self.level = 0.0
        self.tags = {priority: {} for priority in BY_URGENCY}  # caller: (tokens had, order)
        self.levels = dict.fromkeys(BY_URGENCY, (0.0, -1))

    def of(self, priority, caller=None):
        return [one for one in self.waiting if one[1] == priority and caller in {None, one[0]}]

    def push(self, caller, priority, tokens, item):
        if not self.of(priority):
            self.had[priority] = max(self.had[priority], self.level)
        tags, level = self.tags[priority], self.levels[priority]
        if tags.get(caller, (-1.0, -1)) <= level:
            tags[caller] = (level[0], self.next())
        self.waiting.append((caller, priority, max(1, tokens), item))

    def pop(self, among):
        busy = [priority for priority in BY_URGENCY if priority in among and self.of(priority)]
        if not busy:
            return None
        priority = min(busy, key=lambda name: self.had[name])
        tags = self.tags[priority]
        caller = min({one[0] for one in self.of(priority)}, key=tags.__getitem__)
        one = self.of(priority, caller)[0]
        self.levels[priority] = tags[caller]
        tags[caller] = (tags[caller][0] + one[2], self.next())
        self.level = max(self.level, self.had[priority])
        self.had[priority] += one[2] / SHARES[priority]
        self.remove(one[3])
        return one[3]

    def remove(self, item):
        (priority,) = [one[1] for one in self.waiting if one[3] == item]
        self.waiting = [one for one in self.waiting if one[3] != item]
        if not self.of(priority):
            self.tags[priority], self.levels[priority] = {}, (0.0, -1)
        if not self.waiting:
            self.had, self.level = dict.fromkeys(BY_URGENCY, 0.0), 0.0

    def next(self):
        self.order += 1
        return self.order


class QueueMachine(RuleBasedStateMachine):
    """Any course of things: the queue does as the naive one does."""

    items = Bundle("items")

    def __init__(self):
        super().__init__()
        self.queue, self.naive, self.number = FairQueue(12), Naive(), 0

    @rule(target=items, caller=CALLERS, priority=PRIORITIES, tokens=TOKENS)
    def push(self, caller, priority, tokens):
        self.number += 1
        is_in = self.queue.push(caller, priority, tokens, self.number)
        assert is_in == (len(self.naive.waiting) < 12)
        if not is_in:
            return multiple()
        self.naive.push(caller, priority, tokens, self.number)
        return self.number

    @rule(among=st.just(BY_URGENCY) | st.lists(PRIORITIES, unique=True))
    def pop(self, among):
        assert self.naive.pop(among) == self.queue.pop(among)

    @rule(item=consumes(items))
    def remove(self, item):
        is_waiting = any(one[3] == item for one in self.naive.waiting)
        if is_waiting:
            self.naive.remove(item)
        assert is_waiting == self.queue.remove(item)

    @invariant()
    def the_same_wait(self):
        assert len(self.naive.waiting) == len(self.queue)
        for priority in BY_URGENCY:
            waiting = [one[3] for one in self.naive.of(priority)]
            assert (waiting[0] if waiting else None) == self.queue.oldest(priority)

    @invariant()
    def no_more_is_remembered_than_is_needed(self):
        for lane in self.queue._lanes.values():
            assert len(lane._turns) == len(lane._stats) <= 4
            assert set(lane.callers) <= lane._stats


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
