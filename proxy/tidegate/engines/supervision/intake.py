"""`EngineIntake`: gives requests a slot in one engine, lets them wait for it, or refuses them with the reason."""

import asyncio

from tidegate.clock import Clock
from tidegate.engines.base import Availability, ReleaseSlot
from tidegate.engines.requests import EngineRequests
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.health_recheck import REFUSED, is_refusal, may_be_dead
from tidegate.engines.supervision.settings import CurrentSettings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.errors import EngineUnavailable, ProxyError
from tidegate.telemetry.logs import Log

_RETRY_S = 5.0


class EngineIntake:
    """Owns the counts of requests in one engine, and whether the engine is closed to new requests.

    An engine is closed while it is to be unloaded so that another engine can be loaded. New requests wait meanwhile.

    Args:
        status: the engine's state.
        goal_owner: its goal is set to "run" by a request that needs the engine.
        current: its settings limit how long a request waits.
        clock: measures how long the engine is idle.
        log: receives closings and failures.

    Attributes:
        requests: the requests in the engine, and those that wait for it.
        paused_for: the name of the other engine that is to be loaded; None: the engine is not closed.
    """

    def __init__(
        self, status: StatusOwner, goal_owner: GoalOwner, current: CurrentSettings, *, clock: Clock, log: Log
    ) -> None:
        self.requests = EngineRequests(clock)
        self.paused_for: str | None = None
        self._status = status
        self._goal_owner = goal_owner
        self._current = current
        self._log = log

    @property
    def is_open(self) -> bool:
        """Whether the engine accepts requests."""
        return self._status.is_ready and self.paused_for is None

    @property
    def availability(self) -> Availability:
        """Whether a request can be answered, now or after a wait; see `base.Engine`."""
        if self._status.is_ready:
            return "ready"
        if self._will_be_ready:
            return "loading"
        is_down = self._status.now.state in {"stopped", "sleeping"}
        return "unloaded" if is_down and not self._goal_owner.is_held else "unavailable"

    async def acquire_slot(self, *, can_wait: bool) -> ReleaseSlot:
        """Take a slot; see `Supervisor.acquire_slot`."""
        self.requests.note_request()
        if self._status.recheck.is_due:
            await self._status.recheck.wait_closed()
        if not self.is_open:
            self.request_load()
            if not (can_wait and self._will_be_ready):
                raise self._unavailable()
            with self.requests.count_waiting():
                await self._wait_open()
        self.requests.take()
        return self.requests.release

    def request_load(self) -> None:
        """Set the goal "run" for a request, unless the engine is held or closed; a closed engine is unloaded first."""
        if self._goal_owner.goal != "run" and not self._goal_owner.is_held and self.paused_for is None:
            self._goal_owner.set("run")

    def pause_for(self, other: str) -> None:
        """Let new requests wait until the engine was unloaded so that `other` can be loaded, or until `reopen`."""
        if self.paused_for is None:
            self._log.info("engine closed for another engine", engine=self._status.name, wanted=other)
        self.paused_for = other

    def reopen(self) -> None:
        """Accept requests again: no other engine needs this one to be unloaded any more."""
        self.paused_for = None
        if self.requests.waiting or self._status.is_ready:
            self.request_load()
        self._status.release_waiting()

    def gpus_released(self) -> None:
        """The engine has released its GPUs; it is to run again if requests wait for it."""
        self.paused_for = None
        if self.requests.waiting:
            self.request_load()

    def report_failure(self, error: ProxyError) -> None:
        """Make a health check due after a failed request; see `Supervisor.report_failure`."""
        if not self._status.is_ready or not may_be_dead(error):
            return
        if is_refusal(error):
            self.fail(REFUSED)
        else:
            self._status.recheck.request()
        self._goal_owner.changed.set()

    def fail(self, reason: str) -> None:
        """Mark a ready engine as failed, so that it gets no requests; its process may still run."""
        if not self._status.is_ready:
            return
        self._log.warning("engine failed", engine=self._status.name, reason=reason)
        self._status.move("crash", reason)
        self.requests.interrupt_waits(reason)

    @property
    def _will_be_ready(self) -> bool:
        """Whether to wait for the engine: also after a crash or one failed start, but not after two failed starts."""
        is_looping = self._status.now.state == "failed" and self._status.failed_starts > 1
        should_run = self._goal_owner.goal == "run" or self.paused_for is not None
        return should_run and not self._goal_owner.is_held and not is_looping

    async def _wait_open(self) -> None:
        try:
            async with asyncio.timeout(self._current.settings.queue_timeout_s):
                while True:
                    await self._status.until_changed()
                    if self.is_open:
                        return
                    if not self._will_be_ready:
                        raise self._unavailable()
        except TimeoutError:
            raise self._unavailable() from None

    def _unavailable(self) -> EngineUnavailable:
        if self._status.is_ready and self.paused_for is not None:
            message = f"The engine '{self._status.name}' is being unloaded so that another engine can be loaded."
            return EngineUnavailable(message, retry_after_s=_RETRY_S)
        status = self._status.now
        message = f"The engine '{self._status.name}' is not ready ({status.state}): {self._status.caller_reason}"
        if status.progress is not None:
            percent = "" if status.progress.done is None else f" {status.progress.done:.0%}"
            message += f", {status.progress.phase}{percent}"
        return EngineUnavailable(message, retry_after_s=self._status.retry_after_s)
