"""`EngineAccess`: lets requests into one engine, has them wait for it, or says why they get no place."""

import asyncio

from tidegate.clock import Clock
from tidegate.engines.base import Availability, Leave
from tidegate.engines.slots import Slots
from tidegate.engines.supervision.due_check import REFUSED, is_refusal, may_be_dead
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.settings import CurrentSettings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.errors import EngineUnavailable, ProxyError
from tidegate.telemetry.logs import Log

_RETRY_S = 5.0


class EngineAccess:
    """Owns the count of requests in one engine, and whether it is closed as it is to make room for another.

    Args:
        status: what the engine does.
        orders: where requests that need the engine say so.
        treatment: its settings say how long a request waits.
        clock: for idleness.
        log: for closings and failures.

    Attributes:
        closed_for: the engine that it is to make room for: new requests wait; None: it is open.
    """

    def __init__(
        self, status: StatusOwner, orders: GoalOwner, current: CurrentSettings, *, clock: Clock, log: Log
    ) -> None:
        self.slots = Slots(clock)
        self.closed_for: str | None = None
        self._status = status
        self._goal_owner = orders
        self._current = current
        self._log = log

    @property
    def is_open(self) -> bool:
        """Whether the engine takes requests."""
        return self._status.is_ready and self.closed_for is None

    @property
    def availability(self) -> Availability:
        """What may be expected of the engine, see `base.Engine`."""
        if self._status.is_ready:
            return "ready"
        if self._will_be_ready:
            return "loading"
        is_down = self._status.now.state in {"stopped", "sleeping"}
        return "unloaded" if is_down and not self._goal_owner.is_held else "unavailable"

    async def enter(self, *, can_wait: bool) -> Leave:
        """Take a place, see `Supervisor.enter`."""
        self.slots.request_came()
        if self._status.doubt.is_open:
            await self._status.doubt.settled()
        if not self.is_open:
            self.ask()
            if not (can_wait and self._will_be_ready):
                raise self._unavailable()
            with self.slots.one_waits():
                await self._wait_open()
        self.slots.take()
        return self.slots.leave

    def ask(self) -> None:
        """A request needs the engine: it is to run, unless it is making room, which it then does first."""
        if self._goal_owner.goal != "run" and not self._goal_owner.is_held and self.closed_for is None:
            self._goal_owner.set("run")

    def close_for(self, wanted: str) -> None:
        """Let new requests wait until it has made room for the engine `wanted`, or `reopen`."""
        if self.closed_for is None:
            self._log.info("engine closed to make room", engine=self._status.name, wanted=wanted)
        self.closed_for = wanted

    def reopen(self) -> None:
        """Take requests again: no other engine needs the room any more."""
        self.closed_for = None
        if self.slots.waiting or self._status.is_ready:
            self.ask()
        self._status.release_waiting()

    def gave_room(self) -> None:
        """The engine has made room; it is to run again if requests wait for it."""
        self.closed_for = None
        if self.slots.waiting:
            self.ask()

    def doubt(self, error: ProxyError) -> None:
        """A request failed in the engine, see `Supervisor.doubt`."""
        if not self._status.is_ready or not may_be_dead(error):
            return
        if is_refusal(error):
            self.fail(REFUSED)
        else:
            self._status.doubt.open()
        self._goal_owner.changed.set()

    def fail(self, reason: str) -> None:
        """Take a dead engine out of routing at once, if it is ready; its process may still run."""
        if not self._status.is_ready:
            return
        self._log.warning("engine failed", engine=self._status.name, reason=reason)
        self._status.move("crash", reason)
        self.slots.move(reason)

    @property
    def _will_be_ready(self) -> bool:
        """Also after a crash and one failed start; an engine whose starts fail again is not waited for."""
        is_looping = self._status.now.state == "failed" and self._status.failed_starts > 1
        is_wanted = self._goal_owner.goal == "run" or self.closed_for is not None
        return is_wanted and not self._goal_owner.is_held and not is_looping

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
        if self._status.is_ready and self.closed_for is not None:
            told = f"The engine '{self._status.name}' is being unloaded to make room for another engine."
            return EngineUnavailable(told, retry_after_s=_RETRY_S)
        status = self._status.now
        told = f"The engine '{self._status.name}' is not ready ({status.state}): {self._status.told}"
        if status.progress is not None:
            share = "" if status.progress.done is None else f" {status.progress.done:.0%}"
            told += f", {status.progress.phase}{share}"
        return EngineUnavailable(told, retry_after_s=self._status.retry_after_s)
