"""`Places`: who is in an engine, and since when nobody is."""

import asyncio
from collections.abc import Callable

from proxy.clock import Clock


class Places:
    """Counts the requests that we have in one engine; owner of the count.

    Attributes:
        movable: requests that wait for their first content and have another target left, each as the function that ends
            its wait and is told why. Each request adds and discards its own.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._emptied = asyncio.Event()
        self.taken = 0
        self.movable: set[Callable[[str], None]] = set()
        self.last_used_s = clock.monotonic_s()

    def take(self) -> None:
        """Somebody comes."""
        self.taken += 1
        self._emptied.clear()
        self.last_used_s = self._clock.monotonic_s()

    def leave(self) -> None:
        """Somebody goes; called once for each who came."""
        self.taken -= 1
        self.last_used_s = self._clock.monotonic_s()
        if not self.taken:
            self._emptied.set()

    def move(self, reason: str) -> None:
        """End the wait of every request that can go elsewhere."""
        for move in list(self.movable):
            move(reason)

    def open(self) -> None:
        """There are places from now on: nobody could have used them before."""
        self.last_used_s = self._clock.monotonic_s()

    @property
    def idle_s(self) -> float:
        """How long there were places and nobody has been there; 0 while somebody is."""
        return 0.0 if self.taken else self._clock.monotonic_s() - self.last_used_s

    async def until_empty(self) -> None:
        """Wait until nobody is there; others must be kept out meanwhile."""
        if self.taken:
            await self._emptied.wait()
