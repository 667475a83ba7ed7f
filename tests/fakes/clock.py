"""A clock that moves only when a test advances it."""

import asyncio


class FakeClock:
    """A `tidegate.clock.Clock`; both readings move together."""

    def __init__(self, *, now_s: float = 1_700_000_000.0, monotonic_s: float = 1000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = monotonic_s

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, seconds: float) -> None:
        """Advance the clock instead of waiting."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
        self._monotonic_s += seconds
