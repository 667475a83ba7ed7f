"""`EngineRequests`: counts the requests in an engine and those that wait for it, and since when it has had none."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tidegate.clock import Clock


class EngineRequests:
    """Counts Tidegate's requests in one engine, and those that wait for it; owner of both counts.

    All times are in seconds of the monotonic clock.

    Attributes:
        taken: how many requests are in the engine.
        waiting: how many requests wait until the engine takes requests.
        interruptible_waits: for each request that waits for its first content and has another target left, the function
            that ends its wait; it is called with the reason. Each request adds its own function and discards it.
        last_used_s: when a slot was last taken or given back, or when the engine last became ready.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._emptied = asyncio.Event()
        self._waiting_since_s = 0.0
        self._ready_since_s = self._last_request_s = clock.monotonic_s()
        self.taken = 0
        self.waiting = 0
        self.interruptible_waits: set[Callable[[str], None]] = set()
        self.last_used_s = clock.monotonic_s()

    def note_request(self) -> None:
        """Note that a request has come, whether it gets a slot or not."""
        self._last_request_s = self._clock.monotonic_s()

    @contextmanager
    def count_waiting(self) -> Iterator[None]:
        """Count one more waiting request while the block runs."""
        if not self.waiting:
            self._waiting_since_s = self._clock.monotonic_s()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def take(self) -> None:
        """Count one more request in the engine."""
        self.taken += 1
        self._emptied.clear()
        self.last_used_s = self._clock.monotonic_s()

    def release(self) -> None:
        """Count one request less in the engine; called once for each `take`."""
        self.taken -= 1
        self.last_used_s = self._clock.monotonic_s()
        if not self.taken:
            self._emptied.set()

    def interrupt_waits(self, reason: str) -> None:
        """Move every request in `interruptible_waits` to another target."""
        for move in list(self.interruptible_waits):
            move(reason)

    def mark_ready(self) -> None:
        """Note that the engine has become ready: its idle time counts from now on."""
        self.last_used_s = self._ready_since_s = self._clock.monotonic_s()

    @property
    def waited_s(self) -> float | None:
        """For how many seconds at least one request has been waiting; None while none waits.

        This is not the age of the oldest request: callers that give up and send their request again do not reset it.
        """
        return self._clock.monotonic_s() - self._waiting_since_s if self.waiting else None

    @property
    def ready_s(self) -> float:
        """Seconds since the engine last became ready."""
        return self._clock.monotonic_s() - self._ready_since_s

    @property
    def has_new_requests(self) -> bool:
        """Whether requests have come since the engine last became ready, beside those that were waiting then."""
        return self._last_request_s > self._ready_since_s

    @property
    def idle_s(self) -> float:
        """For how many seconds the engine has been ready without a request in it; 0 while a request is in it."""
        return 0.0 if self.taken else self._clock.monotonic_s() - self.last_used_s

    async def wait_until_empty(self) -> None:
        """Wait until no request is in the engine; the caller has to keep new requests out meanwhile."""
        if self.taken:
            await self._emptied.wait()
