"""Who waits for a place, and whose turn it is.

Two levels, one rule: of those who wait, the one that has had the least so far is next. Between classes what counts is
tokens by the class's share (`SHARES`); within a class, tokens by caller. Nobody saves up while not waiting: who comes
back starts level with whoever was served last, and what a class that does not wait leaves is the others'.

This is start-time fair queueing, not deficit round robin: equally fair, but there is no quantum to choose, one prompt
of 100,000 tokens costs no rounds, and a caller with one request is next but one, not at the end of a round.

A full queue turns away whoever takes the most room, not whoever comes last (`displace`): else one caller fills it, and
being fair to those in it would help nobody else.
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
    """At most `size` items, each in it once. Owned by one gate."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lanes: dict[Priority, _Lane[ItemT]] = {priority: _Lane() for priority in BY_URGENCY}
        self._priorities: dict[ItemT, Priority] = {}
        self._had = dict.fromkeys(BY_URGENCY, 0.0)  # tokens by share
        self._level = 0.0  # what the class served last had had before

    def __len__(self) -> int:
        return len(self._priorities)

    def push(self, caller: str, priority: Priority, tokens: int, item: ItemT) -> bool:
        """False: it is full, and the item not in it."""
        if len(self) >= self.size:
            return False
        if not self._lanes[priority].callers:
            self._had[priority] = max(self._had[priority], self._level)
        self._lanes[priority].push(caller, max(1, tokens), item)
        self._priorities[item] = priority
        return True

    def pop(self, among: Collection[Priority] = BY_URGENCY) -> ItemT | None:
        """The next of these classes; the more urgent one where two have had the same."""
        waiting = [priority for priority in BY_URGENCY if priority in among and self._lanes[priority].callers]
        if not waiting:
            return None
        priority = min(waiting, key=self._had.__getitem__)
        item, tokens = self._lanes[priority].pop()
        self._level = max(self._level, self._had[priority])
        self._had[priority] += tokens / SHARES[priority]
        self._forget(item)
        return item

    def remove(self, item: ItemT) -> bool:
        """It waits no longer; False: it did not."""
        priority = self._priorities.get(item)
        if priority is None:
            return False
        self._lanes[priority].remove(item)
        self._forget(item)
        return True

    def displace(self, caller: str, priority: Priority) -> ItemT | None:
        """Takes out whoever has to make room for one more of this caller's; None: nobody has.

        That is the newest item of the caller with the most items, in the least urgent class in which anybody waits; in
        the newcomer's own class only where that caller would still have as many as the newcomer.
        """
        waiting = self.waiting()
        if not waiting or len(self) > self.size:  # it was made smaller: one out is not one in
            return None
        lowest = waiting[-1]
        callers = self._lanes[lowest].callers
        greediest = max(callers, key=lambda name: len(callers[name]))
        if BY_URGENCY.index(lowest) < BY_URGENCY.index(priority):
            return None
        if lowest == priority and len(callers[greediest]) <= len(callers.get(caller, ())) + 1:
            return None
        item = next(reversed(callers[greediest]))
        self.remove(item)
        return item

    def oldest(self, priority: Priority) -> ItemT | None:
        """Who has waited longest in the class."""
        return next(iter(self._lanes[priority].items), None)

    def waiting(self) -> list[Priority]:
        """The classes in which somebody waits."""
        return [priority for priority in BY_URGENCY if self._lanes[priority].callers]

    def _forget(self, item: ItemT) -> None:
        del self._priorities[item]
        if not self._priorities:  # nobody is ahead of anybody
            self._had = dict.fromkeys(BY_URGENCY, 0.0)
            self._level = 0.0


class _Lane(Generic[ItemT]):
    """One class: whoever of its callers has had the least is next.

    A caller stands in `_turns` once, also after its last item until its turn comes: that is how it is remembered what
    it had. Then nobody waiting has had less, so that there is nothing left to remember.
    """

    def __init__(self) -> None:
        self.items: dict[ItemT, str] = {}  # in order of arrival; their callers
        self.callers: dict[str, dict[ItemT, int]] = {}  # who waits; items in order, their tokens
        self._turns: list[tuple[float, int, str]] = []  # a heap: tokens had, who came first, caller
        self._stats: set[str] = set()  # those in it
        self._level = 0.0
        self._order = count()

    def push(self, caller: str, tokens: int, item: ItemT) -> None:
        if caller not in self._stats:
            self._stats.add(caller)
            heappush(self._turns, (self._level, next(self._order), caller))
        self.callers.setdefault(caller, {})[item] = tokens
        self.items[item] = caller

    def pop(self) -> tuple[ItemT, int]:
        """The next item and its tokens; somebody must wait."""
        while True:
            had, _, caller = heappop(self._turns)
            if caller in self.callers:
                break
            self._stats.discard(caller)
        item, tokens = next(iter(self.callers[caller].items()))
        self._level = had
        heappush(self._turns, (had + tokens, next(self._order), caller))
        self.remove(item)
        return item, tokens

    def remove(self, item: ItemT) -> None:
        caller = self.items.pop(item)
        del self.callers[caller][item]
        if not self.callers[caller]:
            del self.callers[caller]
        if not self.items:
            self._turns.clear()
            self._stats.clear()
            self._level = 0.0
