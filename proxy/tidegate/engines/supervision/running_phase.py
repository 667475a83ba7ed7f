"""`RunningPhase`: one engine from the start of its process until it is to stop: loading, ready, asleep."""

import asyncio

from tidegate.clock import Clock
from tidegate.engines.base import Control, EngineError, GpuClaims, ScrapedLoad
from tidegate.engines.supervision.child import EngineChild
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.intake import EngineIntake
from tidegate.engines.supervision.settings import CurrentSettings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.engines.supervision.watch import Watch
from tidegate.telemetry.logs import Log

_WAIT_FOR_END_S = 1.0


class RunningPhase:
    """Moves a started engine through the states from starting to draining; owns its last metrics.

    The supervisor's one task awaits the coroutine methods. They raise `EngineError` where the engine cannot continue.

    Args:
        child: the engine's process.
        status: the engine's status, which this class changes.
        goal_owner: whether the engine is to run, to sleep or to stop.
        intake: the requests in the engine, and whether it accepts more.
        current: the engine's kind and settings.
        allocator: gets the GPUs back when the engine sleeps or has ended.
        clock: for time limits.
        log: receives when the engine becomes ready, is suspected to hang, or sleeps.

    Attributes:
        scraped_load: the engine's last metrics.
    """

    def __init__(
        self,
        *,
        child: EngineChild,
        status: StatusOwner,
        goal_owner: GoalOwner,
        intake: EngineIntake,
        current: CurrentSettings,
        allocator: GpuClaims,
        clock: Clock,
        log: Log,
    ) -> None:
        self.scraped_load = ScrapedLoad()
        self._child = child
        self._status = status
        self._goal_owner = goal_owner
        self._intake = intake
        self._requests = intake.requests
        self._current = current
        self._allocator = allocator
        self._clock = clock
        self._log = log

    async def until_ready(self, control: Control, *, is_new: bool = True) -> None:
        """Poll the health route until it answers; returns early if the goal is "stop".

        Args:
            control: the engine's own HTTP routes.
            is_new: False after a sleep: the engine still has its adapters, so `restore` is not called.

        Raises:
            EngineError: the process ended, or the start took too long.
        """
        limit_s = self._current.kind.start_timeout_s
        until_s = self._clock.monotonic_s() + limit_s
        lines = self._child.lines
        line_number = lines.number
        while not await control.answers():
            line_number = lines.number
            if self._child.has_ended:
                raise await self._child.end_reason()
            if self._clock.monotonic_s() > until_s:
                fault = await control.fault()  # the engine may listen elsewhere, or have another health route
                raise self._child.error(f"no answer in {limit_s:g} s" + (f", as {fault}" if fault else ""))
            if self._goal_owner.goal == "stop":
                return
            self._status.count_down()
            await asyncio.sleep(self._current.settings.poll_s)
        lines.mark_healthy(line_number)
        if is_new:
            await control.restore()
        self._requests.mark_ready()
        self._status.move("answers", "")
        took_s = self._status.end_start()
        self._log.info("engine ready", engine=self._status.name, pid=self._child.pid, took_s=round(took_s, 1))

    async def run(self, control: Control) -> None:
        """Run the engine from ready on until the goal is "stop", and drain it then.

        Raises:
            EngineError: the process ended, or the engine hangs.
        """
        watch = Watch(control, self._clock, pause_s=self._current.settings.scrape_s)
        try:
            while self._goal_owner.goal != "stop":
                if self._status.now.state == "failed":
                    await self._await_end(control)
                elif self._goal_owner.goal == "sleep":
                    watch.stop_canary()
                    await self._sleep(control)
                else:
                    await self._wait_and_poll(watch)
        finally:
            watch.stop_canary()
        if self._status.is_ready:
            await self._drain("it is stopping")

    def unload(self, *, may_sleep: bool = True) -> None:
        """Set the goal "sleep", or "stop" if the engine cannot or may not sleep; returns at once."""
        can_sleep = may_sleep and self._current.kind.sleep_level is not None
        self._goal_owner.set("sleep" if can_sleep else "stop")

    def release_gpus(self, *, is_asleep: bool = False) -> None:
        """Release the engine's GPUs; the engine claims them again if requests wait for it."""
        self._allocator.release(self._status.name, is_asleep=is_asleep)
        self._intake.gpus_released()

    # --- awake --------------------------------------------------------------------------------------------------------

    async def _wait_and_poll(self, watch: Watch) -> None:
        """Wait until a poll is due, poll, and unload the engine or request a token if it is idle."""
        if not self._status.recheck.is_due:
            await self._wait_goal_change(self._current.settings.scrape_s)
        if self._status.recheck.is_due or not self._goal_owner.changed.is_set():
            await self._poll(watch)
        idle_s, settings = self._requests.idle_s, self._current.settings
        if settings.idle_unload_s is not None and idle_s >= settings.idle_unload_s:
            self.unload()
        every_s = settings.idle_canary_s
        if every_s and idle_s >= every_s and self._intake.is_open and self._goal_owner.goal == "run":
            watch.start_canary(every_s)

    async def _poll(self, watch: Watch) -> None:
        """Check health and metrics; an engine suspected to hang gets no requests until it makes progress."""
        line_number = self._child.lines.number
        engine_fault = await watch.check_or_poll(self._requests.taken, self._status.recheck, self._intake.fail)
        self.scraped_load = watch.scraped_load
        if engine_fault is None and watch.is_healthy:
            self._child.lines.mark_healthy(line_number)
        if engine_fault is None or not self._status.is_ready:  # a request may have found the engine dead meanwhile
            return
        self._log.warning("engine suspected", engine=self._status.name, reason=engine_fault.reason)
        self._status.move("drain", engine_fault.reason)
        self._requests.interrupt_waits(engine_fault.reason)
        if await watch.makes_progress(lambda: self._goal_owner.goal != "stop") is False:
            # the process may be ending just now, and the end of its output would say more
            await self._child.wait_while_running(asyncio.sleep(_WAIT_FOR_END_S), None)
            raise EngineError(f"{engine_fault.reason}, and it generates nothing")
        self._status.move("readmit", "")

    async def _await_end(self, control: Control) -> None:
        """Wait for the process of a dead engine to end, since the end of its output says why it failed.

        Raises:
            EngineError: the process has ended; or it has not ended in time, and its health route does not answer.
        """
        reason = self._status.caller_reason
        await self._wait_goal_change(self._current.settings.ending_s)
        if self._goal_owner.goal == "stop":
            return
        if not await control.answers():
            raise self._child.error(f"{reason}, and its process did not end by itself")
        self._status.move("answers", "")

    # --- sleeping and draining ----------------------------------------------------------------------------------------

    async def _sleep(self, control: Control) -> None:
        """Put the engine to sleep until the goal changes, and wake it; it stays awake if requests came meanwhile."""
        level = self._current.kind.sleep_level
        if not self._status.is_ready or level is None:
            self._goal_owner.set("stop")
            return
        await self._drain("it is going to sleep")
        if self._goal_owner.goal == "stop":  # the goal was set meanwhile; running requests have had their time
            return
        if self._requests.taken or self._goal_owner.goal == "run":  # requests are still running, or came meanwhile
            self._goal_owner.goal = "run"
            self._status.move("readmit", "")
            return
        await control.sleep(level)
        self._status.move("sleep", "it sleeps until it is needed")
        self.release_gpus(is_asleep=True)
        self._log.info("engine asleep", engine=self._status.name, level=level)
        while self._goal_owner.goal == "sleep":
            await self._wait_goal_change(None)
        if self._goal_owner.goal == "stop":
            return
        if not await self._allocator.claim(self._status.name) or self._goal_owner.goal == "stop":
            return
        self._status.begin_start(is_wake=True)
        self._status.move("wake", "it is being woken")
        await control.wake(level)
        await self.until_ready(control, is_new=False)

    async def _drain(self, reason: str) -> None:
        """Accept no more requests, and wait until running answers have ended, at most `drain_timeout_s` seconds.

        Raises:
            EngineError: the process ended.
        """
        self._status.move("drain", reason)
        timeout_s = self._current.settings.drain_timeout_s
        await self._child.wait_while_running(self._requests.wait_until_empty(), timeout_s)

    async def _wait_goal_change(self, timeout_s: float | None) -> None:
        """Wait until a goal is set or a request has failed, at most `timeout_s` seconds (None: no limit).

        Raises:
            EngineError: the process ended meanwhile.
        """
        self._goal_owner.changed.clear()
        await self._child.wait_while_running(self._goal_owner.changed.wait(), timeout_s)
