"""`Watch`: checks a running engine, and asks one that seems to hang, or is idle, for a token."""

import asyncio
import contextlib
from collections.abc import Callable

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.engines.base import Control, ObservedLoad
from tidegate.engines.supervision.due_check import DueCheck
from tidegate.engines.supervision.hang_detector import STILL_S, HangDetector
from tidegate.errors import ProxyError, UpstreamUnreachable

SECOND_LOOK_S = 80.0  # from suspicion to death: two minutes without a step, as for the first one
_PAUSE_S = 1.0


class EngineFault(Struct, frozen=True):
    """What is wrong with an engine.

    Attributes:
        is_dead: its health route reports it, or it refuses connections: no second look is needed.
    """

    reason: str
    is_dead: bool = False


class Watch:
    """What we see of one engine from its start on; owner of what was seen last.

    Args:
        control: how it is asked.
        clock: for how long it has stood still.
        pause_s: between two looks at one that is suspected.

    Attributes:
        is_healthy: whether health and metrics were good at the last look; vLLM has metrics also without its core.
    """

    def __init__(self, control: Control, clock: Clock, *, pause_s: float = _PAUSE_S) -> None:
        self.observed_load = ObservedLoad()
        self._control = control
        self._clock = clock
        self._pause_s = pause_s
        self._hang_detector = HangDetector(clock)
        self._canary: asyncio.Task[None] | None = None
        self._canary_s = float("-inf")
        self.is_healthy = False

    async def look(self, in_flight: int) -> EngineFault | None:
        """Ask for its health and its metrics; returns what is wrong, or None. A running canary counts as work."""
        in_flight += self._is_trying
        self._hang_detector.in_flight = in_flight
        engine_fault, is_answered = await asyncio.gather(self.check(), self._measure(in_flight))
        self.is_healthy = engine_fault is None and is_answered
        complaint = self._hang_detector.complaint() or self._canary_complaint()
        return engine_fault or (None if complaint is None else EngineFault(complaint))

    async def check(self) -> EngineFault | None:
        """Ask for its health only; returns what is wrong with it, or None."""
        fault = await self._control.fault()
        self.is_healthy = False
        return None if fault is None else EngineFault(fault, is_dead=True)

    async def examine(self, in_flight: int, doubt: DueCheck, fail: Callable[[str], None]) -> EngineFault | None:
        """`check` if a request has failed, else `look`. Closes the doubt after the check.

        Args:
            in_flight: as for `look`.
            doubt: whether a request has failed.
            fail: called with the reason if the engine is dead, before the doubt is closed.
        """
        is_doubted = doubt.is_open
        try:
            engine_fault = await (self.check() if is_doubted else self.look(in_flight))
            if engine_fault is not None and engine_fault.is_dead:
                fail(engine_fault.reason)
        finally:
            if is_doubted:  # a request that failed during the check needs another check
                doubt.close()
        return engine_fault

    def try_idle(self, every_s: float) -> None:
        """Ask an idle engine for one token (a canary), unless that was done in the last `every_s` seconds.

        Returns at once. `look` sees the outcome: an engine that hangs has work, and makes no step.
        """
        now_s = self._clock.monotonic_s()
        if not self._is_trying and now_s - self._canary_s >= every_s:
            self._canary_s = now_s
            self._canary = asyncio.create_task(self._try_once())

    def rest(self) -> None:
        """End the canary that runs, if any; returns at once."""
        if self._canary is not None:
            self._canary.cancel()
            self._canary = None

    def _canary_complaint(self) -> str | None:
        """The complaint about a canary that takes too long, of engines without a count of steps (else see `HangDetector`)."""
        taken_s = self._clock.monotonic_s() - self._canary_s
        if not self._is_trying or self.observed_load.load.steps is not None or taken_s < STILL_S:
            return None
        return f"it was idle, and has made no token for {taken_s:.0f} s"

    @property
    def _is_trying(self) -> bool:
        return self._canary is not None and not self._canary.done()

    async def generates(self, is_wanted: Callable[[], bool] = lambda: True) -> bool | None:
        """The second look: whether one more token comes, or at least a step of the work that it has.

        Returns None as soon as `is_wanted`, which is asked at each look, says that the outcome does not matter.

        It takes its time, since an engine that is only slow must not be restarted; new requests are kept out meanwhile.
        """
        self.rest()
        before, until_s = self.observed_load.load.steps, self._clock.monotonic_s() + SECOND_LOOK_S
        canary = asyncio.create_task(self._try())
        try:
            while self._clock.monotonic_s() < until_s:
                if not is_wanted():
                    return None
                await asyncio.wait((canary,), timeout=self._pause_s)
                if canary.done():
                    break
                with contextlib.suppress(ProxyError):
                    await self._look(self._hang_detector.in_flight)
                steps = self.observed_load.load.steps
                if before is None:
                    before = steps
                elif steps != before:
                    self._hang_detector.was_slow()
                    return True
            is_good = canary.done() and canary.result()
            if is_good:
                self._hang_detector.reset()
            return is_good
        finally:
            canary.cancel()
            await asyncio.gather(canary, return_exceptions=True)

    async def _measure(self, in_flight: int) -> bool:
        """Ask for its metrics; whether they came."""
        try:
            await self._look(in_flight)
        except ProxyError as error:
            self._hang_detector.missed(error)
            return False
        self._hang_detector.saw(self.observed_load.load)
        return True

    async def _try_once(self) -> None:
        """An error counts as well as a token: the engine answers."""
        with contextlib.suppress(ProxyError):
            await self._control.generate()

    async def _look(self, in_flight: int) -> None:
        self.observed_load = ObservedLoad(await self._control.load(), self._clock.monotonic_s(), in_flight)

    async def _try(self) -> bool:
        """Whether it gives a token; other answers say nothing, and it is asked again."""
        while True:
            try:
                await self._control.generate()
            except UpstreamUnreachable:
                return False
            except ProxyError:
                await asyncio.sleep(self._pause_s)
            else:
                return True
