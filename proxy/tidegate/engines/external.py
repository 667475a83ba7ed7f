"""`ExternalEngine`: an engine that Tidegate watches but does not start (production-stack, llm-d, Ray Serve, …)."""

import asyncio
import contextlib
from collections.abc import Callable

from tidegate.clock import Clock
from tidegate.engines.base import Availability, Control, EngineError, EngineStatus, Goal, ReleaseSlot, ScrapedLoad
from tidegate.engines.requests import EngineRequests
from tidegate.engines.supervision.health_recheck import REFUSED, is_refusal, may_be_dead
from tidegate.engines.supervision.status import StatusOwner
from tidegate.engines.supervision.watch import Watch
from tidegate.errors import EngineUnavailable, ProxyError
from tidegate.telemetry.logs import Log

_CHECK_INTERVAL_S = 1.0
_RETRY_S = 5.0


class ExternalEngine:
    """Implements `base.Engine`; owns the status of the engine and the count of Tidegate's requests in it.

    Args:
        name: the name of the engine.
        clock: for the health of the engine.
        log: for the times when the engine becomes ready or fails.
        on_change: called with every new status.
        check_interval_s: seconds between two health checks.

    Attributes:
        lines: always empty, as Tidegate does not have the output of the engine.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        log: Log,
        on_change: Callable[[EngineStatus], None] | None = None,
        check_interval_s: float = _CHECK_INTERVAL_S,
    ) -> None:
        self.name = name
        self._status = StatusOwner(name, "it has not been checked yet", clock=clock, log=log, on_change=on_change)
        self.scraped_load = ScrapedLoad()
        self.lines: list[str] = []
        self.requests = EngineRequests(clock)
        self._check_requested = asyncio.Event()
        self._clock = clock
        self._log = log
        self._check_interval_s = check_interval_s
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """What the engine does now, as far as its routes show it."""
        return self._status.now

    async def acquire_slot(self, *, can_wait: bool) -> ReleaseSlot:  # noqa: ARG002 - Tidegate cannot start it
        """Take a slot in the engine; the returned function gives it back and is called once.

        Raises:
            EngineUnavailable: the engine does not answer; the message says why.
        """
        if self._status.recheck.is_due:
            await self._status.recheck.wait_closed()
        if not self._status.is_ready:
            message = f"The engine '{self.name}' is not ready ({self.status.state}): {self._status.caller_reason}"
            raise EngineUnavailable(message, retry_after_s=_RETRY_S)
        self.requests.take()
        return self.requests.release

    def report_failure(self, error: ProxyError) -> None:
        """Note that a request failed with `error`; if the engine may be dead, its health is checked at once."""
        if not self._status.is_ready or not may_be_dead(error):
            return
        if is_refusal(error):
            self._fail(REFUSED)
        else:
            self._status.recheck.request()
        self._check_requested.set()

    @property
    def availability(self) -> Availability:
        """Return ready or unavailable: Tidegate cannot see whether the engine is being loaded."""
        return "ready" if self._status.is_ready else "unavailable"

    def load(self) -> None:
        """Do nothing, as the operator of the engine loads it."""

    def set_goal(self, goal: Goal) -> None:
        """Raise, as Tidegate cannot start or stop the engine.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            f"the engine {self.name} was not started by Tidegate, so it cannot be made to {goal} from here"
        )

    def open(self, control: Control) -> None:
        """Begin to watch the engine; returns at once."""
        self._task = asyncio.create_task(self._watch(control), name=f"engine {self.name}")

    async def drain(self) -> None:
        """Leave the routing for good; returns when all running answers have ended, without a time limit."""
        await self.close()
        await self.requests.wait_until_empty()

    async def close(self) -> None:
        """Stop watching the engine; never raises, and may be called again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._status.move("stop", "it is no longer watched")

    async def _watch(self, control: Control) -> None:
        restarts = 0
        self._status.move("start", "it does not answer")
        while True:
            has_answered = False
            try:
                await self._until_it_answers(control)
                has_answered = True
                reason = EngineError(await self._until_fault(control))
            except Exception as error:  # noqa: BLE001 - watching must go on
                self._log.exception("engine watch failed", engine=self.name)
                reason = EngineError("it could not be watched", [f"{type(error).__name__}: {error}"])
                await asyncio.sleep(self._check_interval_s)
            restarts += has_answered
            self._log.error("engine down", engine=self.name, reason=str(reason))
            self._status.move("crash", reason, restarts)  # the state stays "failed" until the engine answers again

    async def _until_it_answers(self, control: Control) -> None:
        while not await control.answers():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(self._check_interval_s)
        self._status.move("answers", "")
        self._log.info("engine ready", engine=self.name)

    async def _until_fault(self, control: Control) -> str:
        watch = Watch(control, self._clock, pause_s=self._check_interval_s)
        while True:
            await self._wait_for_next_check()
            engine_fault = await watch.check_or_poll(self.requests.taken, self._status.recheck, self._fail)
            self.scraped_load = watch.scraped_load
            if self.status.state == "failed":  # set by this check, or by a request whose connection was refused
                return self.status.reason
            if engine_fault is None:
                continue
            self._status.move("drain", engine_fault.reason)
            self.requests.interrupt_waits(engine_fault.reason)
            if not await watch.makes_progress():
                return f"{engine_fault.reason}, and it generates nothing"
            self._status.move("readmit", "")

    async def _wait_for_next_check(self) -> None:
        """Wait until the next health check is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._check_interval_s):
                await self._check_requested.wait()
        self._check_requested.clear()

    def _fail(self, reason: str) -> None:
        """Take a dead engine out of routing at once, if it is ready."""
        if not self._status.is_ready:
            return
        self._status.move("crash", reason)
        self.requests.interrupt_waits(reason)
