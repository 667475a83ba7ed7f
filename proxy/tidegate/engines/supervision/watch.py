"""`Watch`: checks a running engine, and requests one token from an engine that seems to hang or is idle."""

import asyncio
import contextlib
from collections.abc import Callable

from msgspec import Struct

from tidegate.clock import Clock
from tidegate.engines.base import Control, ScrapedLoad
from tidegate.engines.supervision.hang_detector import STALL_S, HangDetector
from tidegate.engines.supervision.health_recheck import HealthRecheck
from tidegate.errors import ProxyError, UpstreamUnreachable

CONFIRM_S = 80.0  # from suspicion to failure; after `STALL_S` this makes two minutes without a step (`FIRST_STEP_S`)
_PAUSE_S = 1.0


class EngineFault(Struct, frozen=True):
    """What is wrong with an engine.

    Attributes:
        reason: why the engine is suspected or dead, in words.
        is_dead: its health route reports a failure, or it refuses connections: `makes_progress` need not confirm it.
    """

    reason: str
    is_dead: bool = False


class Watch:
    """Polls one engine from its start on; owns its last metrics and the canary, a request for one token.

    Args:
        control: the engine's own HTTP routes.
        clock: measures how long the engine has made no step.
        pause_s: seconds between two polls of a suspected engine.

    Attributes:
        scraped_load: the last metrics, with the time when they came.
        is_healthy: whether the last poll found a good health route and metrics. Metrics alone are not enough: vLLM
            answers with metrics also when its engine core has ended.
    """

    def __init__(self, control: Control, clock: Clock, *, pause_s: float = _PAUSE_S) -> None:
        self.scraped_load = ScrapedLoad()
        self._control = control
        self._clock = clock
        self._pause_s = pause_s
        self._hang_detector = HangDetector(clock)
        self._canary: asyncio.Task[None] | None = None
        self._canary_started_s = float("-inf")
        self.is_healthy = False

    async def poll(self, in_flight: int) -> EngineFault | None:
        """Get health and metrics; returns what is wrong, or None. A running canary counts as one more request."""
        in_flight += self._is_canary_running
        self._hang_detector.in_flight = in_flight
        engine_fault, is_answered = await asyncio.gather(self.check(), self._poll_load(in_flight))
        self.is_healthy = engine_fault is None and is_answered
        fault_reason = self._hang_detector.fault_reason() or self._canary_fault_reason()
        return engine_fault or (None if fault_reason is None else EngineFault(fault_reason))

    async def check(self) -> EngineFault | None:
        """Get the health route only; returns what is wrong, or None."""
        fault = await self._control.fault()
        self.is_healthy = False
        return None if fault is None else EngineFault(fault, is_dead=True)

    async def check_or_poll(
        self, in_flight: int, recheck: HealthRecheck, fail: Callable[[str], None]
    ) -> EngineFault | None:
        """Call `check` if a request has failed, else `poll`; returns what is wrong, or None.

        Args:
            in_flight: how many requests Tidegate has in the engine.
            recheck: open if a request has failed; closed after the check.
            fail: called with the reason if the engine is dead, before `recheck` is closed.
        """
        is_due = recheck.is_due
        try:
            engine_fault = await (self.check() if is_due else self.poll(in_flight))
            if engine_fault is not None and engine_fault.is_dead:
                fail(engine_fault.reason)
        finally:
            if is_due:  # a request that failed during the check needs another check
                recheck.finish()
        return engine_fault

    def start_canary(self, every_s: float) -> None:
        """Request one token (a canary) from an idle engine, unless that was done in the last `every_s` seconds.

        Returns at once. `poll` finds the outcome: an engine that hangs has work, and makes no step.
        """
        now_s = self._clock.monotonic_s()
        if not self._is_canary_running and now_s - self._canary_started_s >= every_s:
            self._canary_started_s = now_s
            self._canary = asyncio.create_task(self._run_canary())

    def stop_canary(self) -> None:
        """Cancel the running canary, if any; returns at once."""
        if self._canary is not None:
            self._canary.cancel()
            self._canary = None

    def _canary_fault_reason(self) -> str | None:
        """The reason to suspect an engine without a step counter: its canary takes too long; None: no reason.

        For an engine with a step counter see `HangDetector`.
        """
        taken_s = self._clock.monotonic_s() - self._canary_started_s
        if not self._is_canary_running or self.scraped_load.load.steps is not None or taken_s < STALL_S:
            return None
        return f"it was idle, and has made no token for {taken_s:.0f} s"

    @property
    def _is_canary_running(self) -> bool:
        return self._canary is not None and not self._canary.done()

    async def makes_progress(self, should_continue: Callable[[], bool] = lambda: True) -> bool | None:
        """Whether a suspected engine still works: it gives one token, or makes a step of the work that it has.

        This takes up to `CONFIRM_S` seconds, since an engine that is only slow must not be restarted. New requests
        must be kept out meanwhile.

        Args:
            should_continue: called at each poll; when it returns False the outcome does not matter any more.

        Returns:
            None where `should_continue` has returned False.
        """
        self.stop_canary()
        before, until_s = self.scraped_load.load.steps, self._clock.monotonic_s() + CONFIRM_S
        canary = asyncio.create_task(self._generate_token())
        try:
            while self._clock.monotonic_s() < until_s:
                if not should_continue():
                    return None
                await asyncio.wait((canary,), timeout=self._pause_s)
                if canary.done():
                    break
                with contextlib.suppress(ProxyError):
                    await self._read_load(self._hang_detector.in_flight)
                steps = self.scraped_load.load.steps
                if before is None:
                    before = steps
                elif steps != before:
                    self._hang_detector.record_late_step()
                    return True
            is_good = canary.done() and canary.result()
            if is_good:
                self._hang_detector.reset()
            return is_good
        finally:
            canary.cancel()
            await asyncio.gather(canary, return_exceptions=True)

    async def _poll_load(self, in_flight: int) -> bool:
        """Get the metrics and pass them to the hang detector; returns whether they came."""
        try:
            await self._read_load(in_flight)
        except ProxyError as error:
            self._hang_detector.record_failure(error)
            return False
        self._hang_detector.record_load(self.scraped_load.load)
        return True

    async def _run_canary(self) -> None:
        """Request one token; an error answer is as good as a token, since the engine answers."""
        with contextlib.suppress(ProxyError):
            await self._control.generate()

    async def _read_load(self, in_flight: int) -> None:
        self.scraped_load = ScrapedLoad(await self._control.load(), self._clock.monotonic_s(), in_flight)

    async def _generate_token(self) -> bool:
        """Request tokens until one comes (True) or the connection fails (False); other errors prove nothing."""
        while True:
            try:
                await self._control.generate()
            except UpstreamUnreachable:
                return False
            except ProxyError:
                await asyncio.sleep(self._pause_s)
            else:
                return True
