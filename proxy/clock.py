"""Time as an argument: whoever needs to know what time it is, is given a `Clock`."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings, both in seconds."""

    def now_s(self) -> float:
        """Seconds since the epoch, for what is shown to people (`created`, logs)."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never steps back, for durations and deadlines."""


class SystemClock:
    """The machine's clocks."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.perf_counter)
