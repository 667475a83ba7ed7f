"""`HangDetector`: decides whether an engine hangs; no I/O.

A health route shows that a web server runs, not that the engine behind it makes progress: hung engines have answered
200 for hours, and busy ones were restarted for being slow (reference `peers.md`, item 36). So progress is what counts:
while there is work, the engine's counter of steps has to change. Missing data is no evidence: a scrape that fails says
nothing, and an engine without a step counter is never suspected of making no step. An engine that answers a scrape too
slowly counts as busy, for a while.

A hung engine and one whose step takes a minute look the same until the step is made. Therefore:

- A suspected engine is not stopped, but gets no new requests. It is suspected within a minute of its last step, even
  with the slowest scrapes.
- After a wrong suspicion the limit for that engine is raised.
- Only `Watch.makes_progress`, a second and longer check, declares the engine dead.
"""

from tidegate.clock import Clock
from tidegate.engines.base import Load
from tidegate.errors import ProxyError, UpstreamTimeout, UpstreamUnreachable

# without a step while there is work; the suspicion comes within a minute of the last step even if scrapes take 5 s
STALL_S = 40.0
FIRST_STEP_S = 120.0  # the limit until the first step, which may compile kernels; also the highest limit
MIN_POLLS = 3  # polls in a row that have to show the same


class HangDetector:
    """Evaluates the polls of one engine since its start or the last `reset`.

    Attributes:
        in_flight: requests that Tidegate has in the engine; the engine's own metrics may not show them yet.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.in_flight = 0
        self._limit_s = STALL_S
        self._steps: float | None = None
        self.reset()

    def reset(self) -> None:
        """Start measuring anew: the engine has made progress, or has nothing to do."""
        self._last_step_s = self._clock.monotonic_s()
        self._stalled_s = 0.0
        self._stalled_polls = self._refusals = 0

    def record_late_step(self) -> None:
        """Record that a suspected engine made a step after all: raise its limit, so that it is not suspected again."""
        if self._steps:
            self._limit_s = min(2 * self._limit_s, FIRST_STEP_S)
        self.reset()

    def record_load(self, load: Load) -> None:
        """Record the metrics of a poll."""
        self._refusals = 0
        has_not_moved = load.steps is not None and load.steps == self._steps
        self._steps = load.steps
        if has_not_moved and (self.in_flight or load.running or load.waiting):
            self._record_stall()
        else:
            self.reset()

    def record_failure(self, error: ProxyError) -> None:
        """Record a poll that got no metrics."""
        if isinstance(error, UpstreamUnreachable):
            self._refusals += 1
        elif not self.in_flight:
            self._last_step_s = self._clock.monotonic_s()
        elif isinstance(error, UpstreamTimeout):
            self._record_stall()

    def fault_reason(self) -> str | None:
        """Why the engine is suspected, in words; None: it is not."""
        if self._refusals >= MIN_POLLS:
            return f"it refused the connection {self._refusals} times"
        if self._stalled_polls >= MIN_POLLS and self._stalled_s >= (self._limit_s if self._steps else FIRST_STEP_S):
            return f"it has work, but has not made a step for {self._stalled_s:.0f} s"
        return None

    def _record_stall(self) -> None:
        self._stalled_polls += 1
        self._stalled_s = self._clock.monotonic_s() - self._last_step_s
