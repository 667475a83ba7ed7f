"""Time as an argument: code that reads the time or waits is given a `Clock`."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Two readings and a wait, all in seconds."""

    def now_s(self) -> float:
        """Seconds since the epoch, for what is shown to people (`created`, logs)."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never steps back, for durations and deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` on the monotonic clock."""


class SystemClock:
    """The machine's clocks."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.perf_counter)
    sleep = staticmethod(asyncio.sleep)
