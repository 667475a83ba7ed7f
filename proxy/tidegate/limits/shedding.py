"""When a queue is too long for good, as CoDel sees it (RFC 8289), and how soon it is worth while to come again.

A burst makes a queue that goes away. One that stays helps nobody: every answer is late, and there are no more of them.
The sign is that nobody gets through quickly any more: whoever leaves the queue has waited longer than a target, for a
whole interval. Then one of those that wait is dropped, and further ones at ever shorter distances, until somebody gets
through quickly. The fair queue lets a light caller through quickly however long another's own queue is; that one is
nobody else's trouble, and is bounded by the time that each may wait.
"""

from math import sqrt


class Shedder:
    """CoDel's control law. Times are on one monotonic clock, in seconds."""

    def __init__(self, target_s: float, interval_s: float) -> None:
        self.target_s = target_s
        self._interval_s = interval_s
        self.reset()

    def reset(self) -> None:
        """Nobody waits."""
        self._dropped = 0
        self._due_s: float | None = None

    def is_due(self, waited_s: float, now_s: float) -> bool:
        """Whether somebody is to be dropped, now that one who waited so long got through."""
        if waited_s < self.target_s:
            self.reset()
            return False
        if self._due_s is None:
            self._due_s = now_s + self._interval_s
        if now_s < self._due_s:
            return False
        self._dropped += 1
        self._due_s = now_s + self._interval_s / sqrt(self._dropped)
        return True


class SlotRate:
    """How fast places come free while all are taken."""

    _NEWEST = 0.2  # its weight in the average

    def __init__(self) -> None:
        self._gap_s = 0.0
        self._since_s: float | None = None

    def full(self, now_s: float) -> None:
        """The last place was taken."""
        self._since_s = now_s

    def freed(self, now_s: float) -> None:
        """One came free."""
        if self._since_s is None:
            return
        gap_s, self._since_s = now_s - self._since_s, None
        self._gap_s += (gap_s - self._gap_s) * (self._NEWEST if self._gap_s else 1.0)

    def retry_after_s(self, ahead: int) -> float:
        """Until so many and one more have come free, at least 1 s."""
        return max(1.0, self._gap_s * (ahead + 1))
