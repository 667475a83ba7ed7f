"""When a queue stays too long, by CoDel's rule (RFC 8289), and how soon a refused request should be sent again.

A burst makes a queue that drains. A queue that stays is useless: every answer is late, and no more requests are served.
The sign is that no request gets a slot quickly any more: for a whole interval, each request that leaves the queue has
waited longer than a target time. Then one of the waiting requests is dropped, and further ones at ever shorter
intervals, until a request gets a slot quickly. The fair queue serves a caller with few requests quickly, however long
the queue of another caller is. Such a queue delays only its own caller, and the longest wait of a request bounds it.
"""

from math import sqrt


class Shedder:
    """CoDel's control law. Times are seconds of one monotonic clock."""

    def __init__(self, target_s: float, interval_s: float) -> None:
        self.quick_wait_s = target_s
        self._interval_s = interval_s
        self.reset()

    def reset(self) -> None:
        """Begin anew: the queue was empty, or a request got a slot quickly."""
        self._dropped = 0
        self._due_s: float | None = None

    def is_due(self, waited_s: float, now_s: float) -> bool:
        """Whether a waiting request is to be dropped, now that one that waited for `waited_s` got a slot."""
        if waited_s < self.quick_wait_s:
            self.reset()
            return False
        if self._due_s is None:
            self._due_s = now_s + self._interval_s
        if now_s < self._due_s:
            return False
        self._dropped += 1
        self._due_s = now_s + self._interval_s / sqrt(self._dropped)
        return True


class SlotReleaseRate:
    """How fast slots come free while all are taken."""

    _NEWEST = 0.2  # the weight of the newest gap in the average

    def __init__(self) -> None:
        self._gap_s = 0.0
        self._since_s: float | None = None

    def became_full(self, now_s: float) -> None:
        """Record that the last free slot was taken."""
        self._since_s = now_s

    def slot_freed(self, now_s: float) -> None:
        """Record that a slot came free while all were taken."""
        if self._since_s is None:
            return
        gap_s, self._since_s = now_s - self._since_s, None
        self._gap_s += (gap_s - self._gap_s) * (self._NEWEST if self._gap_s else 1.0)

    def retry_after_s(self, ahead: int) -> float:
        """Seconds until `ahead + 1` slots have come free, at least 1."""
        return max(1.0, self._gap_s * (ahead + 1))
