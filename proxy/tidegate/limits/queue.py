"""`FairQueue`: the requests that wait for a slot, and which one is next.

There are two levels with one rule: of those that wait, the one that was served least so far is next. Between classes,
"served" is the tokens divided by the class's share (`SHARES`); within a class, it is the tokens of the caller. A class
or caller without waiting requests gets no credit for that time: when it comes back it begins level with the one served
last. The part of such a class goes to the other classes.

This is start-time fair queueing, not deficit round robin. Both are equally fair, but here there is no quantum to
choose, one prompt of 100,000 tokens costs no rounds, and a caller with one request is next but one, not at the end of a
round.

When the queue is full, the caller with the most requests in it loses one, not the request that came last (`displace`).
Otherwise one caller could fill the queue, and fairness between the requests in it would not help other callers.
"""

from collections.abc import Collection, Hashable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from tidegate.protocol.routing import PRIORITIES, Priority

SHARES: Mapping[Priority, float] = {"interactive": 0.7, "default": 0.2, "batch": 0.1}
BY_URGENCY: tuple[Priority, ...] = tuple(reversed(PRIORITIES))

ItemT = TypeVar("ItemT", bound=Hashable)


class FairQueue(Generic[ItemT]):
    """A queue of at most `size` items, each in it once. Owned by one `ConcurrencyLimit`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._class_queues: dict[Priority, _ClassQueue[ItemT]] = {priority: _ClassQueue() for priority in BY_URGENCY}
        self._priorities: dict[ItemT, Priority] = {}
        self._served = dict.fromkeys(BY_URGENCY, 0.0)  # tokens served, divided by the class's share
        self._virtual_time = 0.0  # `_served` of the class served last, before it was served

    def __len__(self) -> int:
        return len(self._priorities)

    def push(self, caller: str, priority: Priority, tokens: int, item: ItemT) -> bool:
        """Add an item; returns False, without adding it, if the queue is full."""
        if len(self) >= self.size:
            return False
        if not self._class_queues[priority].callers:
            self._served[priority] = max(self._served[priority], self._virtual_time)
        self._class_queues[priority].push(caller, max(1, tokens), item)
        self._priorities[item] = priority
        return True

    def pop(self, classes: Collection[Priority] = BY_URGENCY) -> ItemT | None:
        """Remove and return the next item of these classes; where two were served equally, the more urgent one's."""
        waiting = [priority for priority in BY_URGENCY if priority in classes and self._class_queues[priority].callers]
        if not waiting:
            return None
        priority = min(waiting, key=self._served.__getitem__)
        item, tokens = self._class_queues[priority].pop()
        self._virtual_time = max(self._virtual_time, self._served[priority])
        self._served[priority] += tokens / SHARES[priority]
        self._forget(item)
        return item

    def remove(self, item: ItemT) -> bool:
        """Remove an item; returns False if it was not in the queue."""
        priority = self._priorities.get(item)
        if priority is None:
            return False
        self._class_queues[priority].remove(item)
        self._forget(item)
        return True

    def displace(self, caller: str, priority: Priority) -> ItemT | None:
        """Remove and return the item that makes room for one more of this caller; None if there is none.

        It is the newest item of the caller with the most items, in the least urgent class that has items. That class is
        never more urgent than `priority`. If it is `priority` itself, an item is removed only if its caller would still
        have as many items as `caller` has with the new one.
        """
        waiting = self.waiting()
        if not waiting or len(self) > self.size:  # `size` was reduced: removing one item does not make room for one
            return None
        least_urgent = waiting[-1]
        callers = self._class_queues[least_urgent].callers
        largest = max(callers, key=lambda name: len(callers[name]))
        if BY_URGENCY.index(least_urgent) < BY_URGENCY.index(priority):
            return None
        if least_urgent == priority and len(callers[largest]) <= len(callers.get(caller, ())) + 1:
            return None
        item = next(reversed(callers[largest]))
        self.remove(item)
        return item

    def oldest(self, priority: Priority) -> ItemT | None:
        """The item that has waited longest in the class; None if the class has none."""
        return next(iter(self._class_queues[priority].items), None)

    def waiting(self) -> list[Priority]:
        """The classes that have items, the most urgent first."""
        return [priority for priority in BY_URGENCY if self._class_queues[priority].callers]

    def _forget(self, item: ItemT) -> None:
        del self._priorities[item]
        if not self._priorities:  # the queue is empty, so all classes begin level
            self._served = dict.fromkeys(BY_URGENCY, 0.0)
            self._virtual_time = 0.0


class _ClassQueue(Generic[ItemT]):
    """The queue of one class: the next item is one of the caller that was served least.

    A caller has one entry in `_turns`. The entry stays after the caller's last item until it is the least one in the
    heap, so that the tokens served are remembered. By then every waiting caller was served at least as much, so that
    there is nothing left to remember.
    """

    def __init__(self) -> None:
        self.items: dict[ItemT, str] = {}  # item to caller, in order of arrival
        self.callers: dict[str, dict[ItemT, int]] = {}  # callers with items; their items in order, with their tokens
        self._turns: list[tuple[float, int, str]] = []  # a heap: tokens served, order of arrival, caller
        self._in_turns: set[str] = set()  # the callers in `_turns`
        self._virtual_time = 0.0
        self._order = count()

    def push(self, caller: str, tokens: int, item: ItemT) -> None:
        if caller not in self._in_turns:
            self._in_turns.add(caller)
            heappush(self._turns, (self._virtual_time, next(self._order), caller))
        self.callers.setdefault(caller, {})[item] = tokens
        self.items[item] = caller

    def pop(self) -> tuple[ItemT, int]:
        """Remove and return the next item and its tokens; the queue must not be empty."""
        while True:
            served, _, caller = heappop(self._turns)
            if caller in self.callers:
                break
            self._in_turns.discard(caller)
        item, tokens = next(iter(self.callers[caller].items()))
        self._virtual_time = served
        heappush(self._turns, (served + tokens, next(self._order), caller))
        self.remove(item)
        return item, tokens

    def remove(self, item: ItemT) -> None:
        caller = self.items.pop(item)
        del self.callers[caller][item]
        if not self.callers[caller]:
            del self.callers[caller]
        if not self.items:
            self._turns.clear()
            self._in_turns.clear()
            self._virtual_time = 0.0
