"""`Health`: whether a target is ejected (left out of plans), and how it comes back.

    ok ── failed so often in a row ──> ejected ── its time is over (and a probe worked) ──> trial
    ^                                    ^  ^                                             │     │
    └── slow start over ── ramping ──────┘  └────────────────── failed ───────────────────┘     │
                              ^───────────────────────── worked ────────────────────────────────┘

Each ejection lasts longer than the one before; a long time without one undoes them, one after the other. Only an answer
re-admits a target: a caller's request that worked, begun after the ejection, and, where probes are on, before it a
probe that generated something. A host's own health report counts for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.config.routing import HealthConfig

State = Literal["ok", "ejected", "trial", "ramping"]
Event = Literal["failed", "failed_again", "probe_failed", "probe_worked", "waited", "worked"]

_LEAST_SHARE = 0.1  # of its usual requests: while it is ejected, and at the beginning of the slow start
_NEXT: Mapping[tuple[State, Event], State] = {
    ("ok", "failed_again"): "ejected",
    ("ejected", "waited"): "trial",  # where probes are off
    ("ejected", "probe_worked"): "trial",
    ("ejected", "probe_failed"): "ejected",  # the ejection is extended
    ("ejected", "worked"): "ramping",  # a request that was sent despite the ejection (in a panic) worked
    ("trial", "worked"): "ramping",
    ("trial", "failed"): "ejected",
    ("trial", "failed_again"): "ejected",
    ("ramping", "waited"): "ok",
    ("ramping", "failed_again"): "ejected",
}


class Health:
    """The health of one target; owns its state.

    Each request to the target calls `enter` first, and reports exactly once after it. `enter` returns a number, which
    is passed to `failed`, `succeeded` or `ended_without_outcome`. By the number, reports of requests that began before
    the target was last ejected are recognised; they change nothing.
    """

    def __init__(self, clock: Clock, config: HealthConfig) -> None:
        self._clock = clock
        self._config = config
        self._state: State = "ok"  # as of the last report; `state` adds the transitions by time since then
        self._until_s = math.inf  # when the state changes by time alone
        self._ok_since_s = clock.monotonic_s()
        self._failures = 0  # in a row
        self._ejections = 0  # ejections, less those undone by a long time without one
        self._last_number = 0  # the number of the last request that entered while the target was out
        self._first_valid_number = 0  # a request with a lower number began before the last ejection
        self._trial = 0  # the number of the request that is the trial; 0: none

    @property
    def state(self) -> State:
        """The state now."""
        if self._state == "ok" or self._clock.monotonic_s() < self._until_s:
            return self._state
        if self._state == "ejected" and self._config.probe:
            return self._state
        return _NEXT[self._state, "waited"]

    @property
    def is_out(self) -> bool:
        """Whether no request has worked since the target was ejected."""
        return self._state != "ok" and self.state in {"ejected", "trial"}

    @property
    def out_for_s(self) -> float:
        """Seconds until the target may be tried or probed again; 0 if it may be now."""
        return max(0.0, self._until_s - self._clock.monotonic_s()) if self.state == "ejected" else 0.0

    @property
    def share(self) -> float:
        """The share of its usual requests that the target may take: 1, or less while it comes back."""
        if self._state == "ok" or (state := self.state) == "ok":
            return 1.0
        if state != "ramping":
            # a trial is one request, and must be able to come first
            return 1.0 if state == "trial" else _LEAST_SHARE
        left_s = max(0.0, self._until_s - self._clock.monotonic_s())
        return 1 - (1 - _LEAST_SHARE) * left_s / self._config.slow_start_s

    def may_take(self) -> bool:
        """Whether the target may be tried now; changes nothing."""
        if self._state == "ok" or (state := self.state) in {"ok", "ramping"}:
            return True
        return state == "trial" and not self._trial

    def needs_probe(self) -> bool:
        """Whether it is time for a probe: one generated token, for no caller. Report its outcome with `probed`."""
        return self.state == "ejected" and self._config.probe and self._clock.monotonic_s() >= self._until_s

    def enter(self, *, in_panic: bool = False) -> int | None:
        """Begin a request to the target.

        Args:
            in_panic: send it even if the target is ejected, because too many of the model's targets are (a panic), or
                because no other target is left.

        Returns:
            The number to report with; None if the target may not be tried.
        """
        if self._state == "ok":
            return self._last_number
        self._apply_elapsed_time()
        if self._state in {"ok", "ramping"}:
            return self._last_number
        if not in_panic and not self.may_take():
            return None
        self._last_number += 1
        if self._state == "trial" and not self._trial:
            self._trial = self._last_number
        return self._last_number

    def failed(self, number: int) -> bool:
        """The target failed a request: no connection, a 5xx, a timeout. Returns whether this ejects the target."""
        if number < self._first_valid_number:
            return False
        self._apply_elapsed_time()
        self._failures += 1
        return self._apply("failed_again" if self._failures >= self._config.failures else "failed")

    def generated(self, number: int) -> None:
        """The first content came, which is all that a trial is for.

        So other requests need not wait until a slow reader has received the whole answer.
        """
        if self._state != "ok" and number >= self._first_valid_number:
            self._apply("worked")

    def succeeded(self, number: int) -> bool:
        """The request ended well, with generated content. Returns whether this re-admits the target."""
        if number < self._first_valid_number:
            return False
        self._failures = 0
        return self._state != "ok" and self._apply("worked")

    def ended_without_outcome(self, number: int) -> None:
        """The request says nothing about the target: the caller left or was at fault, or a limit was reached."""
        if number == self._trial:
            self._trial = 0

    def probed(self, *, ok: bool) -> bool:
        """Report the outcome of a probe; returns whether it changed the state. No effect if no probe was needed."""
        return self.needs_probe() and self._apply("probe_worked" if ok else "probe_failed")

    def readmit(self) -> None:
        """Forget everything, because the engine was restarted. Reports of earlier requests have no effect."""
        self._last_number += 1
        self._first_valid_number = self._last_number
        self._until_s = self._clock.monotonic_s()
        self._failures = self._ejections = 0
        self._enter_state("ok")

    def _apply(self, event: Event) -> bool:
        self._apply_elapsed_time()
        state = _NEXT.get((self._state, event))
        if state is not None:
            self._enter_state(state)
        return state is not None

    def _apply_elapsed_time(self) -> None:
        """Store the state that the target has reached by time alone."""
        if (state := self.state) != self._state:
            self._enter_state(state)

    def _enter_state(self, state: State) -> None:
        now_s = self._clock.monotonic_s()
        if state == "ejected":
            self._until_s = now_s + self._next_ejection_s(now_s)
            self._last_number += 1
            self._first_valid_number = self._last_number
            self._failures = 0
        elif state == "ramping":
            self._until_s = now_s + self._config.slow_start_s
        else:
            # `_until_s` was the time of this change; in a trial `_ok_since_s` is not read
            self._ok_since_s, self._until_s = self._until_s, math.inf
        self._trial = 0
        self._state = state

    def _next_ejection_s(self, now_s: float) -> float:
        """Count one more ejection; returns how long it lasts, in seconds."""
        base_s, max_s = self._config.ejection_s, self._config.max_ejection_s
        if self._state == "ok":
            self._ejections = max(0, self._ejections - int((now_s - self._ok_since_s) / max_s))
        # at the maximum a further count would only take longer to undo
        if self._ejections * base_s < max_s:
            self._ejections += 1
        return min(max_s, base_s * self._ejections)


class Available(Struct, frozen=True):
    """Which of a model's targets may be tried, one item per target; in a panic (too many are ejected) all may."""

    may_take: Sequence[bool]
    is_panic: bool = False


def available(healths: Sequence[Health], max_ejected: float) -> Available:
    """Leave out the targets that are out, unless they are more than the share `max_ejected` of all.

    So a model's only target is never left out, unless `max_ejected` is 1.
    """
    if sum(health.is_out for health in healths) > max_ejected * len(healths):
        return Available([True] * len(healths), is_panic=True)
    return Available([health.may_take() for health in healths])
