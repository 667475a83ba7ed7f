"""A target's door: in at once, after a wait, or `TargetBusy`.

    gate = Gate("gpu/deepseek", config, clock)
    place = await gate.enter(caller="alice", priority="default", tokens=900)
    try:
        ...
        place.began(ttft_s, prompt_tokens=700)
    finally:
        place.leave()

A free place never stands beside somebody who might have it: whoever makes it free gives it away, in the same call. So
who comes and sees one takes it, and jumps no queue. Belongs to one event loop. Nothing here takes longer for the number
of those who wait, but for coming to a queue that is full (the number of callers in it).
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol

from tidegate.clock import Clock
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.errors import TargetBusy
from tidegate.limits.gradient import Gradient2
from tidegate.limits.queue import FairQueue
from tidegate.limits.shedding import Shedder, SlotRate
from tidegate.limits.slots import SlotPool
from tidegate.protocol.routing import PRIORITIES, Priority

_INITIAL, _LEAST, _MOST = 20, 4, 1000  # adaptive
_TARGET = 0.2  # of `queue_timeout_s`: a wait longer than this is no quick one
_INTERVAL = 0.5  # of it: for so long nobody got through quickly


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """It will not."""


class CallLater(Protocol):
    """`loop.call_later`, as far as it is used."""

    def __call__(self, delay_s: float, callback: Callable[[], None], /) -> Timer:
        """Call it in so many seconds."""


def call_later(delay_s: float, callback: Callable[[], None], /) -> Timer:
    """The running loop's."""
    return asyncio.get_running_loop().call_later(delay_s, callback)


class Slot:
    """One request's place at the target. Whoever has it gives it back, on every exit."""

    __slots__ = ("_has_left", "_owner", "_priority")

    def __init__(self, owner: "ConcurrencyLimit", priority: Priority) -> None:
        self._owner = owner
        self._priority: Priority = priority
        self._has_left = False

    def began(self, ttft_s: float, prompt_tokens: int = 1) -> None:
        """The first token has come, so long after the request was sent; to be said once, before leaving."""
        self._owner._began(ttft_s, prompt_tokens)  # noqa: SLF001 - a place is a part of its gate

    def leave(self) -> None:
        """Give it back; a second time does nothing."""
        if not self._has_left:
            self._has_left = True
            self._owner._left(self._priority)  # noqa: SLF001 - the same


class _Waiter:
    """Somebody in the queue. Its future becomes a place or the reason why not; cancelled: it has gone away."""

    __slots__ = ("future", "priority", "since_s", "timer")

    def __init__(self, priority: Priority, since_s: float) -> None:
        self.future: asyncio.Future[Slot | TargetBusy] = asyncio.get_running_loop().create_future()
        self.priority: Priority = priority
        self.since_s = since_s
        self.timer: Timer | None = None

    def tell(self, outcome: Slot | TargetBusy) -> None:
        """The wait is over; its future must not be done."""
        if self.timer is not None:
            self.timer.cancel()
        self.future.set_result(outcome)


class ConcurrencyLimit:
    """How many are at one target, and who waits.

    Args:
        name: the target's, for messages to callers.
        call_later: what ends a wait; the running loop's.
    """

    def __init__(self, name: str, config: ConcurrencyConfig, clock: Clock, call_later: CallLater = call_later) -> None:
        self.name = name
        self._clock = clock
        self._call_later = call_later
        self._slots = SlotPool()
        self._pace = SlotRate()
        self._queue: FairQueue[_Waiter] = FairQueue(config.queue)
        self._gradient: Gradient2 | None = None
        self._is_closed = False
        self.resize(config)

    @property
    def in_flight(self) -> int:
        """Places taken."""
        return self._slots.taken

    @property
    def waiting(self) -> int:
        """Those in the queue."""
        return len(self._queue)

    @property
    def limit(self) -> int | None:
        """Places there are; None: as many as are wanted."""
        return None if self._limit == inf else int(self._limit)

    def has_room(self, priority: Priority) -> bool:
        """Whether a request of that class would be let in at once."""
        return self._limit == inf or self._slots.has_room(priority, self._limit)

    def resize(self, config: ConcurrencyConfig) -> None:
        """A new config. Those inside stay, also over the limit, and so do those who wait, until their time is over."""
        self._config = config
        self._queue.size = config.queue
        self._shedder = Shedder(config.queue_timeout_s * _TARGET, config.queue_timeout_s * _INTERVAL)
        self._limit: float = inf
        if config.limit == "adaptive":
            self._gradient = self._gradient or Gradient2(_INITIAL, _LEAST, _MOST)
            self._limit = self._gradient.limit
        else:
            self._gradient = None
            self._limit = inf if config.limit is None else config.limit
        self._give_away()

    def close(self) -> None:
        """The target is removed: refuse the requests that wait, and let no later one wait. Those inside stay."""
        self._is_closed = True
        while (waiter := self._queue.pop()) is not None:
            self._refuse(waiter, "is being removed")

    async def enter(
        self,
        *,
        caller: str = "",
        priority: Priority = "default",
        tokens: int = 1,
        can_wait: bool = True,
        deadline_s: float | None = None,
    ) -> Slot:
        """Take a place. Who is cancelled while waiting has none, and is out of the queue.

        Args:
            caller: whom to be fair to.
            priority: the class.
            tokens: about how many the request and its answer have; what callers and classes are compared by.
            can_wait: else it is now or not at all.
            deadline_s: of the caller, on the clock's monotonic reading.

        Raises:
            TargetBusy: no place and no wait, the queue is full, it took too long, or others were served instead.
        """
        if self.has_room(priority):
            return self._take(priority)
        now_s = self._clock.monotonic_s()
        wait_s = self._config.queue_timeout_s
        if deadline_s is not None:
            wait_s = min(wait_s, deadline_s - now_s)
        if not can_wait or self._is_closed or wait_s <= 0:
            raise self._busy("has no place free")
        waiter = _Waiter(priority, now_s)
        self._join(waiter, caller, tokens)
        waiter.timer = self._call_later(wait_s, lambda: self._refuse(waiter, "had no place free in time"))
        return await self._wait(waiter)

    def _join(self, waiter: _Waiter, caller: str, tokens: int) -> None:
        if not self._queue:
            self._shedder.reset()
        if self._queue.push(caller, waiter.priority, tokens, waiter):
            return
        displaced = self._queue.displace(caller, waiter.priority)
        if displaced is None:
            raise self._busy("has no place free, and its queue is full")
        self._refuse(displaced, "has no place free, and its queue is full")
        self._queue.push(caller, waiter.priority, tokens, waiter)

    async def _wait(self, waiter: _Waiter) -> Slot:
        try:
            outcome = await waiter.future
        except asyncio.CancelledError:
            self._go_away(waiter)
            raise
        if isinstance(outcome, TargetBusy):
            raise outcome
        return outcome

    def _go_away(self, waiter: _Waiter) -> None:
        """Its task was cancelled; a place may have been given to it just before that: it is somebody else's."""
        self._queue.remove(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not waiter.future.cancelled():
            outcome = waiter.future.result()
            if isinstance(outcome, Slot):
                outcome.leave()

    def _take(self, priority: Priority) -> Slot:
        self._slots.take(priority)
        if self._slots.taken >= self._limit:
            self._pace.full(self._clock.monotonic_s())
        return Slot(self, priority)

    def _left(self, priority: Priority) -> None:
        was_full = self._slots.taken >= self._limit
        self._slots.give_back(priority)
        if was_full:
            self._pace.freed(self._clock.monotonic_s())
        if self._limit != inf:  # else nobody waits
            self._give_away()

    def _began(self, ttft_s: float, prompt_tokens: int) -> None:
        if self._gradient is not None:
            self._gradient.sample(ttft_s, self._slots.taken, prompt_tokens)
            self._limit = self._gradient.limit
            self._give_away()

    def _give_away(self) -> None:
        """Every free place to whose turn it is."""
        while self._queue and (among := self._slots.first(self._queue.waiting(), self._limit)):
            waiter = self._queue.pop(among)
            if waiter is None or waiter.future.done():  # it has gone away and could not say so yet
                continue
            waiter.tell(self._take(waiter.priority))
            now_s = self._clock.monotonic_s()
            if self._shedder.is_due(now_s - waiter.since_s, now_s):
                self._shed(now_s)

    def _shed(self, now_s: float) -> None:
        """Drop who has waited longest, in the least urgent class in which anybody has waited for long."""
        for priority in PRIORITIES:
            waiter = self._queue.oldest(priority)
            if waiter is not None and now_s - waiter.since_s >= self._shedder.target_s:
                self._refuse(waiter, "has more to do than it can")
                return

    def _refuse(self, waiter: _Waiter, why: str) -> None:
        self._queue.remove(waiter)
        if not waiter.future.done():
            waiter.tell(self._busy(why))

    def _busy(self, why: str) -> TargetBusy:
        told = f"{self.name} {why} (in flight: {self.in_flight}, waiting: {self.waiting}). Try again later."
        return TargetBusy(told, retry_after_s=self._pace.retry_after_s(self.waiting))
