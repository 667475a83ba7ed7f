"""`Watch`: looks at a running engine, and tries one that seems to stand still."""

import asyncio
import contextlib

from proxy.clock import Clock
from proxy.engines.base import Control, Looked
from proxy.engines.vitals import Vitals
from proxy.errors import ProxyError, UpstreamUnreachable

SECOND_LOOK_S = 80.0  # from suspicion to death: two minutes without a step, as for the first one
_PAUSE_S = 1.0


class Watch:
    """What we see of one engine from its start on; owner of what was seen last.

    Args:
        control: how it is asked.
        clock: for how long it has stood still.
        pause_s: between two looks at one that is suspected.
    """

    def __init__(self, control: Control, clock: Clock, *, pause_s: float = _PAUSE_S) -> None:
        self.looked = Looked()
        self._control = control
        self._clock = clock
        self._pause_s = pause_s
        self._vitals = Vitals(clock)
        self._was_answered = False

    async def look(self, in_flight: int) -> str | None:
        """Ask for its metrics; what is wrong with it, or None."""
        self._vitals.in_flight = in_flight
        try:
            await self._look(in_flight)
        except ProxyError as error:
            self._was_answered = False
            self._vitals.missed(error)
        else:
            self._was_answered = True
            self._vitals.saw(self.looked.load)
        return self._vitals.complaint()

    async def is_well(self) -> bool:
        """Whether the last look was answered, and its health route is fine: a vLLM tells metrics without its core."""
        return self._was_answered and await self._control.answers()

    async def generates(self) -> bool:
        """The second look: whether one more token comes, or at least a step of the work that it has.

        It takes its time, since an engine that is only slow must not be restarted; new requests are kept out meanwhile.
        """
        before, until_s = self.looked.load.steps, self._clock.monotonic_s() + SECOND_LOOK_S
        canary = asyncio.create_task(self._try())
        try:
            while self._clock.monotonic_s() < until_s:
                await asyncio.wait((canary,), timeout=self._pause_s)
                if canary.done():
                    break
                with contextlib.suppress(ProxyError):
                    await self._look(self._vitals.in_flight)
                steps = self.looked.load.steps
                if before is None:
                    before = steps
                elif steps != before:
                    self._vitals.was_slow()
                    return True
            is_good = canary.done() and canary.result()
            if is_good:
                self._vitals.reset()
            return is_good
        finally:
            canary.cancel()
            await asyncio.gather(canary, return_exceptions=True)

    async def _look(self, in_flight: int) -> None:
        self.looked = Looked(await self._control.load(), self._clock.monotonic_s(), in_flight)

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
