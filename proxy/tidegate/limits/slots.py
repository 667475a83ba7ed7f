"""`SlotPool`: how many slots of a target each class has taken, and which class a free slot is for.

Each class has a part of the slots by its share of the queue (`SHARES`). There are three rules:

- Any class may take a slot that no other class waits for: unused parts are lent.
- Of the classes that wait, one with less than its part comes before one that would borrow. So a lent slot is given back
  when its request ends; no running request loses its slot.
- Batch leaves a tenth of the slots free (none where there are fewer than ten), so that an urgent request need not wait
  for a long answer to end.

No class starves: a class without slots has less than its part, and between such classes the queue is fair.
"""

from collections.abc import Iterable

from tidegate.limits.queue import BY_URGENCY, SHARES
from tidegate.protocol.routing import Priority

_MAX_BATCH_SHARE = 0.9


class SlotPool:
    """The counts of slots taken, owned by one `ConcurrencyLimit`. A limit is a number of slots, or infinity."""

    def __init__(self) -> None:
        self.taken = 0
        self.by_class: dict[Priority, int] = dict.fromkeys(BY_URGENCY, 0)

    def take(self, priority: Priority) -> None:
        """Count one more slot for the class."""
        self.taken += 1
        self.by_class[priority] += 1

    def release(self, priority: Priority) -> None:
        """Count one slot fewer for the class."""
        self.taken -= 1
        self.by_class[priority] -= 1

    def has_free_slot(self, priority: Priority, limit: float) -> bool:
        """Whether there is a free slot for the class, if no other class waits for it."""
        return self.taken < limit and (priority != "batch" or self.by_class[priority] < limit * _MAX_BATCH_SHARE)

    def next_classes(self, waiting: Iterable[Priority], limit: float) -> list[Priority]:
        """The classes, of those that wait, that may have the next slot; empty: there is no slot for any of them."""
        eligible = [priority for priority in waiting if self.has_free_slot(priority, limit)]
        below_share = [priority for priority in eligible if self.by_class[priority] < limit * SHARES[priority]]
        return below_share or eligible
