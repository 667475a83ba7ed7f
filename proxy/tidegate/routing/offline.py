"""`Offline`: whether anything elsewhere can be reached at all.

It is not, when the operator says so, or when the last few connections to each of the upstreams have failed: then
engines serve alone, and the upstreams are only asked, ever less often, whether they are there. One answer, be it an
error, ends it.
"""

from collections.abc import Sequence

from tidegate.clock import Clock

_FAILURES = 3  # in a row, at each
_FIRST_PROBE_S = 1.0
_MAX_PROBE_S = 30.0


class Offline:
    """Owner of what is known of the line to the world.

    Args:
        forced: the operator wants it so; it never ends.
        names: the upstreams that are elsewhere; whatever else is reported does not count.
    """

    def __init__(self, clock: Clock, *, forced: bool, names: Sequence[str]) -> None:
        self._clock = clock
        self._failures = dict.fromkeys(names, 0)  # in a row
        self._probe_s = _FIRST_PROBE_S  # between the last probe and the next
        self._probe_at_s = 0.0
        self._began_s = clock.monotonic_s()
        self.is_forced = forced
        self.is_offline = forced

    @property
    def since_s(self) -> float:
        """For how many seconds; 0 where it is not."""
        return self._clock.monotonic_s() - self._began_s if self.is_offline else 0.0

    def unreachable(self, name: str) -> bool:
        """No connection: refused, no such name, nobody there in time. True where this begins it."""
        if name not in self._failures:
            return False
        self._failures[name] += 1
        if self.is_offline or min(self._failures.values()) < _FAILURES:
            return False
        self.is_offline = True
        self._began_s = self._clock.monotonic_s()
        self._probe_s = _FIRST_PROBE_S
        self._probe_at_s = self._began_s + self._probe_s
        return True

    def reached(self, name: str) -> bool:
        """Any answer, also an error. True where this ends it."""
        if not self._failures.get(name):  # known, and has failed: seldom so
            return False
        self._failures[name] = 0
        if self.is_forced or not self.is_offline:
            return False
        self.is_offline = False
        return True

    def probe_due(self) -> Sequence[str]:
        """Whom to ask now whether they are there; says each time only once, then after twice as long."""
        now_s = self._clock.monotonic_s()
        if self.is_forced or not self.is_offline or now_s < self._probe_at_s:
            return ()
        self._probe_s = min(_MAX_PROBE_S, 2 * self._probe_s)
        self._probe_at_s = now_s + self._probe_s
        return tuple(self._failures)
