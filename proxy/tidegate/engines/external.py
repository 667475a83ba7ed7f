"""`ExternalEngine`: one that somebody else runs (production-stack, llm-d, Ray Serve, …): watched, never touched."""

import asyncio
import contextlib
from collections.abc import Callable

from tidegate.clock import Clock
from tidegate.engines.base import Availability, Control, EngineError, EngineStatus, Goal, Leave, ObservedLoad
from tidegate.engines.slots import Slots
from tidegate.engines.supervision.due_check import REFUSED, is_refusal, may_be_dead
from tidegate.engines.supervision.status import StatusOwner
from tidegate.engines.supervision.watch import Watch
from tidegate.errors import EngineUnavailable, ProxyError
from tidegate.telemetry.logs import Log

_LOOK_S = 1.0
_RETRY_S = 5.0


class ExternalEngine:
    """Owns its status and the count of our requests in it; `open` is called once.

    Args:
        name: the engine's.
        clock: for its health.
        log: for its comings and goings.
        on_change: told of every new status.
        look_s: between two looks.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        log: Log,
        on_change: Callable[[EngineStatus], None] | None = None,
        look_s: float = _LOOK_S,
    ) -> None:
        self.name = name
        self._status = StatusOwner(name, "nobody has looked yet", clock=clock, log=log, on_change=on_change)
        self.observed_load = ObservedLoad()
        self.lines: list[str] = []
        self.slots = Slots(clock)
        self._doubted = asyncio.Event()
        self._clock = clock
        self._log = log
        self._look_s = look_s
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """What it does now, as far as is known here."""
        return self._status.now

    async def enter(self, *, can_wait: bool) -> Leave:  # noqa: ARG002 - nobody here can start it
        """Take a place in the engine; what is returned gives it back, once.

        Raises:
            EngineUnavailable: it does not answer; the message says why.
        """
        if self._status.doubt.is_open:
            await self._status.doubt.settled()
        if not self._status.is_ready:
            told = f"The engine '{self.name}' is not ready ({self.status.state}): {self._status.told}"
            raise EngineUnavailable(told, retry_after_s=_RETRY_S)
        self.slots.take()
        return self.slots.leave

    def doubt(self, error: ProxyError) -> None:
        """See `base.Engine`; also `Supervisor.doubt`."""
        if not self._status.is_ready or not may_be_dead(error):
            return
        if is_refusal(error):
            self._fail(REFUSED)
        else:
            self._status.doubt.open()
        self._doubted.set()

    @property
    def availability(self) -> Availability:
        """Ready or unavailable: whether it is being loaded is not known here."""
        return "ready" if self._status.is_ready else "unavailable"

    def load(self) -> None:
        """Do nothing: its operator loads it."""

    def want(self, goal: Goal) -> None:
        """Refuse: somebody else runs it.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"the engine {self.name} is run by somebody else; it cannot be told to {goal} from here")

    def open(self, control: Control) -> None:
        """Begin to watch; returns at once."""
        self._task = asyncio.create_task(self._watch(control), name=f"engine {self.name}")

    async def drained(self) -> None:
        """Go out of routing, for good; returns when our answers there have ended, however long they take."""
        await self.close()
        await self.slots.until_empty()

    async def close(self) -> None:
        """Watch no more; never raises, and may be called again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._status.move("stop", "it is looked at no more")

    async def _watch(self, control: Control) -> None:
        restarts = 0
        self._status.move("start", "it does not answer")
        while True:
            has_answered = False
            try:
                await self._until_it_answers(control)
                has_answered = True
                why = EngineError(await self._until_still(control))
            except Exception as error:  # noqa: BLE001 - watching must go on
                self._log.exception("engine watch failed", engine=self.name)
                why = EngineError("it could not be watched", [f"{type(error).__name__}: {error}"])
                await asyncio.sleep(self._look_s)
            restarts += has_answered
            self._log.error("engine down", engine=self.name, reason=str(why))
            self._status.move("crash", why, restarts)  # it is failed until it answers again

    async def _until_it_answers(self, control: Control) -> None:
        while not await control.answers():  # noqa: ASYNC110 - the engine is not ours, so nothing notifies us
            await asyncio.sleep(self._look_s)
        self._status.move("answers", "")
        self._log.info("engine ready", engine=self.name)

    async def _until_still(self, control: Control) -> str:
        watch = Watch(control, self._clock, pause_s=self._look_s)
        while True:
            await self._pause()
            engine_fault = await watch.examine(self.slots.taken, self._status.doubt, self._fail)
            self.observed_load = watch.observed_load
            if self.status.state == "failed":  # by this check, or by a refused connection
                return self.status.reason
            if engine_fault is None:
                continue
            self._status.move("drain", engine_fault.reason)
            self.slots.move(engine_fault.reason)
            if not await watch.generates():
                return f"{engine_fault.reason}, and it generates nothing"
            self._status.move("readmit", "")

    async def _pause(self) -> None:
        """Wait until the next look is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._look_s):
                await self._doubted.wait()
        self._doubted.clear()

    def _fail(self, reason: str) -> None:
        """Take a dead engine out of routing at once, if it is ready."""
        if not self._status.is_ready:
            return
        self._status.move("crash", reason)
        self.slots.move(reason)
