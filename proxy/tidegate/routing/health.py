"""`Health`: whether a target is left out, and how it comes back.

    ok ── failed so often in a row ──> ejected ── its time is over (and a probe worked) ──> trial
    ^                                    ^  ^                                             │     │
    └── slow start over ── ramping ──────┘  └────────────────── failed ───────────────────┘     │
                              ^───────────────────────── worked ────────────────────────────────┘

Each time out is longer than the one before; a good long run makes up for it, one time after the other. Only an answer
re-admits: a caller's request that worked, begun after the ejection, and, where probes are on, before it a probe that
generated something. That a host says it is well counts for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.routing import HealthConfig

State = Literal["ok", "ejected", "trial", "ramping"]
Event = Literal["failed", "failed_again", "probe_failed", "probe_worked", "waited", "worked"]

_LEAST_SHARE = 0.1
_NEXT: Mapping[tuple[State, Event], State] = {
    ("ok", "failed_again"): "ejected",
    ("ejected", "waited"): "trial",  # without probes
    ("ejected", "probe_worked"): "trial",
    ("ejected", "probe_failed"): "ejected",  # for longer
    ("ejected", "worked"): "ramping",  # tried all the same, in a panic
    ("trial", "worked"): "ramping",
    ("trial", "failed"): "ejected",
    ("trial", "failed_again"): "ejected",
    ("ramping", "waited"): "ok",
    ("ramping", "failed_again"): "ejected",
}


class Health:
    """One target's; owner of its state. Whoever sends a request there enters first, and reports exactly once after.

    `enter` gives a number, which goes back with `failed`, `succeeded` or `gave_up`: by it a request that began before
    the target was ejected is known, and whatever became of that changes nothing any more.
    """

    def __init__(self, clock: Clock, config: HealthConfig) -> None:
        self._clock = clock
        self._config = config
        self._state: State = "ok"  # as of the last report; `state` adds what time has done since
        self._until_s = math.inf  # when time alone moves it on
        self._ok_since_s = clock.monotonic_s()
        self._failures = 0  # in a row
        self._times = 0  # ejected, less what was made up for
        self._turn = 0  # the number of the last who entered while it was out
        self._first_turn = 0  # who has a lower number began before the last ejection
        self._trial = 0  # the number of who tries it now; 0: nobody

    @property
    def state(self) -> State:
        """At this moment."""
        if self._state == "ok" or self._clock.monotonic_s() < self._until_s:
            return self._state
        if self._state == "ejected" and self._config.probe:
            return self._state
        return _NEXT[self._state, "waited"]

    @property
    def is_out(self) -> bool:
        """It has not worked since it was ejected."""
        return self._state != "ok" and self.state in {"ejected", "trial"}

    @property
    def out_for_s(self) -> float:
        """Until it may be tried or probed again, in seconds; 0 where that is now."""
        return max(0.0, self._until_s - self._clock.monotonic_s()) if self.state == "ejected" else 0.0

    @property
    def share(self) -> float:
        """How much of its part it may take: 1, or less while it comes back."""
        if self._state == "ok" or (state := self.state) == "ok":
            return 1.0
        if state != "ramping":
            return 1.0 if state == "trial" else _LEAST_SHARE  # one request tries it, and that one is to come
        left_s = max(0.0, self._until_s - self._clock.monotonic_s())
        return 1 - (1 - _LEAST_SHARE) * left_s / self._config.slow_start_s

    def may_take(self) -> bool:
        """Whether it may be tried now; changes nothing."""
        if self._state == "ok" or (state := self.state) in {"ok", "ramping"}:
            return True
        return state == "trial" and not self._trial

    def needs_probe(self) -> bool:
        """Whether it is time for one token, made for nobody; say with `probed` what came of it."""
        return self.state == "ejected" and self._config.probe and self._clock.monotonic_s() >= self._until_s

    def enter(self, *, in_panic: bool = False) -> int | None:
        """Begin a request there.

        Args:
            in_panic: though it is out, since too many are.

        Returns:
            The number to report with; None where it may not be tried.
        """
        if self._state == "ok":
            return self._turn
        self._settle()
        if self._state in {"ok", "ramping"}:
            return self._turn
        if not in_panic and not self.may_take():
            return None
        self._turn += 1
        if self._state == "trial" and not self._trial:
            self._trial = self._turn
        return self._turn

    def failed(self, turn: int) -> bool:
        """The target is at fault: no connection, a 5xx, nothing in time. True where this ejects it."""
        if turn < self._first_turn:
            return False
        self._settle()
        self._failures += 1
        return self._happened("failed_again" if self._failures >= self._config.failures else "failed")

    def generated(self, turn: int) -> None:
        """Its first content came. That is what a trial is for: nobody waits until a slow reader has it all."""
        if self._state != "ok" and turn >= self._first_turn:
            self._happened("worked")

    def succeeded(self, turn: int) -> bool:
        """It has generated something. True where this brings it back."""
        if turn < self._first_turn:
            return False
        self._failures = 0
        return self._state != "ok" and self._happened("worked")

    def gave_up(self, turn: int) -> None:
        """Nothing was learnt of the target: the caller left or was at fault, or a limit was reached."""
        if turn == self._trial:
            self._trial = 0

    def probed(self, *, ok: bool) -> bool:
        """What came of a probe; True where this changed something. Without effect where none was needed."""
        return self.needs_probe() and self._happened("probe_worked" if ok else "probe_failed")

    def readmit(self) -> None:
        """Forget everything: an engine of ours that has started anew. Reports of before have no effect."""
        self._turn += 1
        self._first_turn = self._turn
        self._until_s = self._clock.monotonic_s()
        self._failures = self._times = 0
        self._arrive("ok")

    def _happened(self, event: Event) -> bool:
        self._settle()
        state = _NEXT.get((self._state, event))
        if state is not None:
            self._arrive(state)
        return state is not None

    def _settle(self) -> None:
        """Make what time has done to the state its state."""
        if (state := self.state) != self._state:
            self._arrive(state)

    def _arrive(self, state: State) -> None:
        now_s = self._clock.monotonic_s()
        if state == "ejected":
            self._until_s = now_s + self._next_ejection_s(now_s)
            self._turn += 1
            self._first_turn = self._turn
            self._failures = 0
        elif state == "ramping":
            self._until_s = now_s + self._config.slow_start_s
        else:
            self._ok_since_s, self._until_s = self._until_s, math.inf  # a trial's is never looked at
        self._trial = 0
        self._state = state

    def _next_ejection_s(self, now_s: float) -> float:
        """Count one more ejection; how long it is to last."""
        base_s, max_s = self._config.ejection_s, self._config.max_ejection_s
        if self._state == "ok":
            self._times = max(0, self._times - int((now_s - self._ok_since_s) / max_s))
        if self._times * base_s < max_s:  # else it has long been at its most, and more would only take longer to undo
            self._times += 1
        return min(max_s, base_s * self._times)


class Available(Struct, frozen=True):
    """Which of a model's targets may be tried, in their order; in a panic all may, whatever is known of them."""

    may_take: Sequence[bool]
    is_panic: bool = False


def available(healths: Sequence[Health], max_ejected: float) -> Available:
    """Leave out who is out, unless those are more than `max_ejected` of all, as a share.

    A model's only target is thus never left out, but where `max_ejected` is 1.
    """
    if sum(health.is_out for health in healths) > max_ejected * len(healths):
        return Available([True] * len(healths), is_panic=True)
    return Available([health.may_take() for health in healths])
