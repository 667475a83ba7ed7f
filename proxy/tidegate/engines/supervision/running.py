"""`Running`: one engine from the start of its process until it is to stop: becoming ready, watched, asleep."""

import asyncio

from tidegate.clock import Clock
from tidegate.engines.base import Control, EngineError, GpuClaims, ObservedLoad
from tidegate.engines.supervision.access import EngineAccess
from tidegate.engines.supervision.child import Child
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.settings import CurrentSettings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.engines.supervision.watch import Watch
from tidegate.telemetry.logs import Log

_END_WAIT_S = 1.0


class Running:
    """Takes a process that was started through the states from starting to draining; owns its last metrics.

    Each method is awaited by the supervisor's one task, and raises `EngineError` where the engine cannot go on.

    Args:
        child: its process.
        status: which this class moves.
        orders: what is wanted of it.
        entrance: the requests in it, and whether it takes others.
        treatment: its kind and its settings.
        room: which it gives back when it sleeps.
        clock: for time limits.
        log: for suspicion and sleep.

    Attributes:
        looked: its last metrics.
    """

    def __init__(
        self,
        *,
        child: Child,
        status: StatusOwner,
        orders: GoalOwner,
        access: EngineAccess,
        current: CurrentSettings,
        allocator: GpuClaims,
        clock: Clock,
        log: Log,
    ) -> None:
        self.observed_load = ObservedLoad()
        self._child = child
        self._status = status
        self._goal_owner = orders
        self._access = access
        self._slots = access.slots
        self._current = current
        self._allocator = allocator
        self._clock = clock
        self._log = log

    async def until_ready(self, control: Control, *, is_new: bool = True) -> None:
        """Ask its health route until it answers, ends, or takes too long; one that slept still has its adapters.

        Raises:
            EngineError: it ended, or took too long.
        """
        limit_s = self._current.kind.start_timeout_s
        until_s = self._clock.monotonic_s() + limit_s
        lines = self._child.lines
        asked_at = lines.number
        while not await control.answers():
            asked_at = lines.number
            if self._child.has_ended:
                raise await self._child.ended()
            if self._clock.monotonic_s() > until_s:
                fault = await control.fault()  # it may listen elsewhere, or have another health route
                raise self._child.error(f"no answer in {limit_s:g} s" + (f", as {fault}" if fault else ""))
            if self._goal_owner.goal == "stop":
                return
            self._status.count_down()
            await asyncio.sleep(self._current.settings.poll_s)
        lines.saw_healthy(asked_at)
        if is_new:
            await control.restore()
        self._slots.open()
        self._status.move("answers", "")
        took_s = self._status.end_start()
        self._log.info("engine ready", engine=self._status.name, pid=self._child.pid, took_s=round(took_s, 1))

    async def live(self, control: Control) -> None:
        """From ready on, until it is to stop.

        Raises:
            EngineError: it ended, or stands still.
        """
        watch = Watch(control, self._clock, pause_s=self._current.settings.scrape_s)
        try:
            while self._goal_owner.goal != "stop":
                if self._status.now.state == "failed":
                    await self._await_end(control)
                elif self._goal_owner.goal == "sleep":
                    watch.rest()
                    await self._sleep(control)
                else:
                    await self._run_until_next_look(watch)
        finally:
            watch.rest()
        if self._status.is_ready:
            await self._drain("it is stopping")

    def make_room(self, *, may_sleep: bool = True) -> None:
        """Have it sleep or stop; returns at once."""
        can_sleep = may_sleep and self._current.kind.sleep_level is not None
        self._goal_owner.set("sleep" if can_sleep else "stop")

    def give_room(self, *, is_asleep: bool = False) -> None:
        """Release its GPUs; it claims them again if requests wait for it."""
        self._allocator.release(self._status.name, is_asleep=is_asleep)
        self._access.gave_room()

    # --- awake ------------------------------------------------------------------------------------------------------

    async def _run_until_next_look(self, watch: Watch) -> None:
        """Wait for the next look, make it, and unload or ask for a token if the engine is idle."""
        if not self._status.doubt.is_open:
            await self._wait_change(self._current.settings.scrape_s)
        if self._status.doubt.is_open or not self._goal_owner.changed.is_set():
            await self._look(watch)
        idle_s, settings = self._slots.idle_s, self._current.settings
        if settings.idle_unload_s is not None and idle_s >= settings.idle_unload_s:
            self.make_room()
        every_s = settings.idle_canary_s
        if every_s and idle_s >= every_s and self._access.is_open and self._goal_owner.goal == "run":
            watch.try_idle(every_s)

    async def _look(self, watch: Watch) -> None:
        """Check health and metrics; an engine that seems to hang leaves routing until it makes a token (half-open)."""
        asked_at = self._child.lines.number
        engine_fault = await watch.examine(self._slots.taken, self._status.doubt, self._access.fail)
        self.observed_load = watch.observed_load
        if engine_fault is None and watch.is_healthy:
            self._child.lines.saw_healthy(asked_at)
        if engine_fault is None or not self._status.is_ready:  # a request may have found it dead meanwhile
            return
        self._log.warning("engine suspected", engine=self._status.name, reason=engine_fault.reason)
        self._status.move("drain", engine_fault.reason)
        self._slots.move(engine_fault.reason)
        if await watch.generates(lambda: self._goal_owner.goal != "stop") is False:
            # it may be ending just now, and the end of its output would say more
            await self._child.unless_it_ends(asyncio.sleep(_END_WAIT_S), None)
            raise EngineError(f"{engine_fault.reason}, and it generates nothing")
        self._status.move("readmit", "")

    async def _await_end(self, control: Control) -> None:
        """Wait for the end of a process whose engine is dead, as the end of its output says why.

        Raises:
            EngineError: it has ended, or it has not and does not answer again either.
        """
        reason = self._status.told
        await self._wait_change(self._current.settings.ending_s)
        if self._goal_owner.goal == "stop":
            return
        if not await control.answers():
            raise self._child.error(f"{reason}, and its process did not end by itself")
        self._status.move("answers", "")

    # --- on its way out ---------------------------------------------------------------------------------------------

    async def _sleep(self, control: Control) -> None:
        """Let it sleep until it is wanted; it stays awake if requests came meanwhile."""
        level = self._current.kind.sleep_level
        if not self._status.is_ready or level is None:
            self._goal_owner.set("stop")
            return
        await self._drain("it is going to sleep")
        if self._goal_owner.goal == "stop":  # ordered meanwhile; running requests have had their time
            return
        if self._slots.taken or self._goal_owner.goal == "run":  # requests are still running, or came meanwhile
            self._goal_owner.goal = "run"
            self._status.move("readmit", "")
            return
        await control.sleep(level)
        self._status.move("sleep", "it sleeps until it is needed")
        self.give_room(is_asleep=True)
        self._log.info("engine asleep", engine=self._status.name, level=level)
        while self._goal_owner.goal == "sleep":
            await self._wait_change(None)
        if self._goal_owner.goal == "stop":
            return
        if not await self._allocator.claim(self._status.name) or self._goal_owner.goal == "stop":
            return
        self._status.begin_start(is_wake=True)
        self._status.move("wake", "it is being woken")
        await control.wake(level)
        await self.until_ready(control, is_new=False)

    async def _drain(self, reason: str) -> None:
        """Take it out of routing at once, and let running answers end within their time.

        Raises:
            EngineError: it ended.
        """
        self._status.move("drain", reason)
        timeout_s = self._current.settings.drain_timeout_s
        await self._child.unless_it_ends(self._slots.until_empty(), timeout_s)

    async def _wait_change(self, timeout_s: float | None) -> None:
        """Wait until another goal is set, or the time is over.

        Raises:
            EngineError: the process ended meanwhile.
        """
        self._goal_owner.changed.clear()
        await self._child.unless_it_ends(self._goal_owner.changed.wait(), timeout_s)
