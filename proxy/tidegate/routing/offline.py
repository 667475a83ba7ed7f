"""`Offline`: whether any hosted upstream can be reached.

Tidegate is offline when the config says so (`routing.offline`), or when the last few connections to each of the
upstreams have failed. Then only engines serve requests, and the upstreams are only probed, ever less often. One answer
ends the state, also an error.
"""

from collections.abc import Sequence

from tidegate.clock import Clock

_FAILURES = 3  # in a row, at each upstream
_FIRST_PROBE_S = 1.0
_MAX_PROBE_S = 30.0


class Offline:
    """The state of the connection to all hosted upstreams.

    Args:
        forced: the config sets Tidegate offline; this never ends.
        names: the hosted upstreams; reports about other names do not count.
    """

    def __init__(self, clock: Clock, *, forced: bool, names: Sequence[str]) -> None:
        self._clock = clock
        self._failures = dict.fromkeys(names, 0)  # in a row
        self._probe_s = _FIRST_PROBE_S  # seconds from the last probe to the next
        self._next_probe_s = 0.0
        self._began_s = clock.monotonic_s()
        self.is_forced = forced
        self.is_offline = forced

    @property
    def since_s(self) -> float:
        """For how many seconds Tidegate has been offline; 0 if it is not."""
        return self._clock.monotonic_s() - self._began_s if self.is_offline else 0.0

    def report_unreachable(self, name: str) -> bool:
        """No connection: refused, unknown host name, timeout. Returns whether this begins the offline state."""
        if name not in self._failures:
            return False
        self._failures[name] += 1
        if self.is_offline or min(self._failures.values()) < _FAILURES:
            return False
        self.is_offline = True
        self._began_s = self._clock.monotonic_s()
        self._probe_s = _FIRST_PROBE_S
        self._next_probe_s = self._began_s + self._probe_s
        return True

    def report_reached(self, name: str) -> bool:
        """There was an answer, also an error. Returns whether this ends the offline state."""
        if not self._failures.get(name):  # the usual case: it is not hosted, or has not failed since its last answer
            return False
        self._failures[name] = 0
        if self.is_forced or not self.is_offline:
            return False
        self.is_offline = False
        return True

    def due_probes(self) -> Sequence[str]:
        """The upstreams to probe now; returned once per due time. The wait for the next doubles, up to 30 s."""
        now_s = self._clock.monotonic_s()
        if self.is_forced or not self.is_offline or now_s < self._next_probe_s:
            return ()
        self._probe_s = min(_MAX_PROBE_S, 2 * self._probe_s)
        self._next_probe_s = now_s + self._probe_s
        return tuple(self._failures)
