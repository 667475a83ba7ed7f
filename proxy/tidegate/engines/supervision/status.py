"""`StatusOwner`: the status of one engine, the progress of its start, and waits for a change of status."""

import asyncio
from collections.abc import Callable

from msgspec import structs

from tidegate.clock import Clock
from tidegate.engines.base import EngineError, EngineStatus, Progress
from tidegate.engines.states import Event, next_state
from tidegate.engines.supervision.estimate import Estimate
from tidegate.engines.supervision.health_recheck import HealthRecheck
from tidegate.telemetry.logs import Log

_MAX_REASON = 1000  # characters
_MIN_CHANGE_S = 1.0
_RETRY_S = 5.0


class StatusOwner:
    """Owns the status of one engine, which changes by the table of `engines.states`, and the estimate of its start.

    Args:
        name: the engine's name.
        reason: why the engine is stopped at the beginning.
        clock: measures how long a start takes.
        log: receives the phases of a start.
        on_change: called with every new status; its exceptions are logged.

    Attributes:
        name: the engine's name.
        now: the current status.
        caller_reason: the reason of the status in the form that callers may see, without output (see
            `base.EngineError`).
        recheck: open while a health check is due, as a request has failed; closed when the engine is no longer ready.
        crashes: how often the engine has crashed without a steady time in between.
        failed_starts: how many starts in a row have failed; 0 once the engine has been ready.
    """

    def __init__(
        self,
        name: str,
        reason: str,
        *,
        clock: Clock,
        log: Log,
        on_change: Callable[[EngineStatus], None] | None = None,
    ) -> None:
        self.name = name
        self.now = EngineStatus("stopped", reason)
        self.caller_reason = reason
        self.recheck = HealthRecheck()
        self.crashes = self.failed_starts = 0
        self._attempts = 0
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._estimate = Estimate()
        self._started_s = 0.0
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the engine is in the state ready."""
        return self.now.state == "ready"

    def move(self, event: Event, why: str | EngineError, restarts: int | None = None) -> None:
        """Change to the state that follows the current one after `event`.

        Args:
            event: what has happened.
            why: the reason of the new state; empty for the state ready.
            restarts: the new count of restarts; None: the count does not change.

        Raises:
            InvalidTransition: the table has no row for this state and event.
        """
        state = next_state(self.now.state, event)
        count = self.now.restarts if restarts is None else restarts
        self.caller_reason = (why.message if isinstance(why, EngineError) else why)[:_MAX_REASON]
        self._set(EngineStatus(state, str(why)[:_MAX_REASON], count, attempts=self._attempts))

    def attempt(self, why: str, restarts: int) -> None:
        """Count a new attempt to start the engine, and change to starting; arguments as for `move`."""
        self._attempts += 1
        self.move("start", why, restarts)

    # --- a start ------------------------------------------------------------------------------------------------------

    def begin_start(self, *, is_wake: bool = False) -> None:
        """Record that a start begins now, or a wake from sleep."""
        self._started_s = self._clock.monotonic_s()
        self._estimate.begin(self._started_s, is_wake=is_wake)

    def end_start(self) -> float:
        """Record that the start has succeeded; returns the seconds that it took."""
        now_s = self._clock.monotonic_s()
        self._estimate.end(now_s)
        return now_s - self._started_s

    def show(self, progress: Progress) -> None:
        """Put the progress of the start into the status; each phase is logged once."""
        now_s = self._clock.monotonic_s()
        if self.now.progress is None or progress.phase != self.now.progress.phase:
            self._log.info("engine loading", engine=self.name, phase=progress.phase)
        self._estimate.record(progress, now_s)
        self._set(structs.replace(self.now, progress=progress, left_s=self._estimate.left_s(now_s)))

    def count_down(self) -> None:
        """Update the time left when it has changed by a second, as an engine does not write lines in every phase."""
        shown_s, left_s = self.now.left_s, self._estimate.left_s(self._clock.monotonic_s())
        if left_s is not None and (shown_s is None or abs(shown_s - left_s) >= _MIN_CHANGE_S):
            self._set(structs.replace(self.now, left_s=left_s))

    @property
    def retry_after_s(self) -> float:
        """Seconds after which a request that was refused, as the engine is not ready, may be sent again."""
        minimum_s = self._estimate.phase_left_s(self._clock.monotonic_s()) or 0.0
        return max(1.0, self.now.left_s or max(minimum_s, _RETRY_S))

    # --- waiting for a change -----------------------------------------------------------------------------------------

    async def until_changed(self) -> None:
        """Wait for the next status, or for `release_waiting`."""
        self._changed.clear()
        await self._changed.wait()

    def release_waiting(self) -> None:
        """End every `until_changed` without a new status."""
        self._changed.set()

    def _set(self, status: EngineStatus) -> None:
        self.now = status
        self._changed.set()
        if status.state != "ready":
            self.recheck.finish()
        if self._on_change is not None:
            try:
                self._on_change(status)
            except Exception:  # noqa: BLE001 - a failing callback must end neither the supervision nor the engine
                self._log.exception("engine status callback failed", engine=self.name)
