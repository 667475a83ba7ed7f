"""Who is at a target, by class, and which class a free place is for.

Each class has a part of the places by its share of the queue (`SHARES`). Three rules:

- A place that nobody else waits for may be had by any class: idle parts are lent.
- Of classes that wait, one with less than its part comes before one that would borrow. So a part that was lent comes
  back as answers end; nothing is taken from who is there.
- Batch leaves a tenth of the places free (none where there are fewer than ten), so that an urgent request need not wait
  for a long answer to end.

No class starves: one with nobody there has less than its part, and between such classes the queue is fair.
"""

from collections.abc import Iterable

from tidegate.limits.queue import BY_URGENCY, SHARES
from tidegate.protocol.routing import Priority

_BATCH_AT_MOST = 0.9


class SlotPool:
    """How many are there. Owned by one gate; limits are numbers of places, infinity where all may come."""

    def __init__(self) -> None:
        self.taken = 0
        self.by_class: dict[Priority, int] = dict.fromkeys(BY_URGENCY, 0)

    def take(self, priority: Priority) -> None:
        """One more."""
        self.taken += 1
        self.by_class[priority] += 1

    def give_back(self, priority: Priority) -> None:
        """One fewer."""
        self.taken -= 1
        self.by_class[priority] -= 1

    def has_room(self, priority: Priority, limit: float) -> bool:
        """Whether there is a place for such a one, if nobody else wants it."""
        return self.taken < limit and (priority != "batch" or self.by_class[priority] < limit * _BATCH_AT_MOST)

    def first(self, waiting: Iterable[Priority], limit: float) -> list[Priority]:
        """The classes that the next place is for, of those that wait; none: there is no place for any."""
        able = [priority for priority in waiting if self.has_room(priority, limit)]
        owed = [priority for priority in able if self.by_class[priority] < limit * SHARES[priority]]
        return owed or able
