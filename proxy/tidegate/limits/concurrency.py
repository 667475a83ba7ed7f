"""`ConcurrencyLimit`: how many requests a target has in flight, and which requests wait for a slot.

A request gets a slot at once, after a wait, or is refused with `TargetBusy`:

    limit = ConcurrencyLimit("gpu/deepseek", config, clock)
    slot = await limit.acquire(caller="alice", priority="default", tokens=900)
    try:
        ...
        slot.record_first_token(ttft_s, prompt_tokens=700)
    finally:
        slot.release()

A slot is never free while a waiting request may have it: the call that frees a slot also assigns it. So a new request
that finds a free slot takes it, and overtakes no waiting request. An instance belongs to one event loop. The number of
waiting requests does not make any call slower, except `acquire` with a full queue (linear in the callers in it).
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
from tidegate.limits.shedding import Shedder, SlotReleaseRate
from tidegate.limits.slots import SlotPool
from tidegate.protocol.routing import PRIORITIES, Priority

_INITIAL, _MIN, _MAX = 20, 4, 1000  # slots of an adaptive limit
_TARGET_SHARE = 0.2  # of `queue_timeout_s`: a wait up to this is quick, see `Shedder`
_INTERVAL_SHARE = 0.5  # of `queue_timeout_s`: shedding begins after so long without a quick wait


class Timer(Protocol):
    """A timer that has been started."""

    def cancel(self) -> None:
        """Cancel it: the callback is not called."""


class CallLater(Protocol):
    """The signature of `loop.call_later`, as far as it is used."""

    def __call__(self, delay_s: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback` after `delay_s` seconds."""


def call_later(delay_s: float, callback: Callable[[], None], /) -> Timer:
    """Call `callback` after `delay_s` seconds, with the running loop's `call_later`."""
    return asyncio.get_running_loop().call_later(delay_s, callback)


class Slot:
    """One request's slot at the target. Its owner calls `release` on every exit."""

    __slots__ = ("_concurrency_limit", "_is_released", "_priority")

    def __init__(self, concurrency_limit: "ConcurrencyLimit", priority: Priority) -> None:
        self._concurrency_limit = concurrency_limit
        self._priority: Priority = priority
        self._is_released = False

    def record_first_token(self, ttft_s: float, prompt_tokens: int = 1) -> None:
        """Record the first token, `ttft_s` seconds after the request was sent; at most once, before `release`."""
        self._concurrency_limit._record_first_token(ttft_s, prompt_tokens)  # noqa: SLF001 - a slot is a part of its limit

    def release(self) -> None:
        """Release the slot; a second call does nothing."""
        if not self._is_released:
            self._is_released = True
            self._concurrency_limit._release(self._priority)  # noqa: SLF001 - a slot is a part of its limit


class _Waiter:
    """A waiting request. Its future becomes the slot or the error; the future is cancelled if the request's task is."""

    __slots__ = ("future", "priority", "since_s", "timer")

    def __init__(self, priority: Priority, since_s: float) -> None:
        self.future: asyncio.Future[Slot | TargetBusy] = asyncio.get_running_loop().create_future()
        self.priority: Priority = priority
        self.since_s = since_s
        self.timer: Timer | None = None

    def finish(self, outcome: Slot | TargetBusy) -> None:
        """End the wait with this outcome; the future must not be done."""
        if self.timer is not None:
            self.timer.cancel()
        self.future.set_result(outcome)


class ConcurrencyLimit:
    """The concurrency limit of one target; owns its slots and its queue.

    Args:
        name: the target's name, for error messages.
        call_later: starts the timer that ends a wait; by default the running loop's.
    """

    def __init__(self, name: str, config: ConcurrencyConfig, clock: Clock, call_later: CallLater = call_later) -> None:
        self.name = name
        self._clock = clock
        self._call_later = call_later
        self._slots = SlotPool()
        self._slot_rate = SlotReleaseRate()
        self._queue: FairQueue[_Waiter] = FairQueue(config.queue)
        self._gradient: Gradient2 | None = None
        self._is_closed = False
        self.resize(config)

    @property
    def in_flight(self) -> int:
        """The number of slots that are taken."""
        return self._slots.taken

    @property
    def waiting(self) -> int:
        """The number of requests in the queue."""
        return len(self._queue)

    @property
    def limit(self) -> int | None:
        """The number of slots; None: no limit."""
        return None if self._limit == inf else int(self._limit)

    def has_free_slot(self, priority: Priority) -> bool:
        """Whether a request of this class would get a slot at once."""
        return self._limit == inf or self._slots.has_free_slot(priority, self._limit)

    def resize(self, config: ConcurrencyConfig) -> None:
        """Apply a new config.

        Requests that have a slot keep it, also over the new limit. Waiting requests keep their place in the queue and
        their time limits.
        """
        self._config = config
        self._queue.size = config.queue
        self._shedder = Shedder(config.queue_timeout_s * _TARGET_SHARE, config.queue_timeout_s * _INTERVAL_SHARE)
        self._limit: float = inf
        if config.limit == "adaptive":
            self._gradient = self._gradient or Gradient2(_INITIAL, _MIN, _MAX)
            self._limit = self._gradient.limit
        else:
            self._gradient = None
            self._limit = inf if config.limit is None else config.limit
        self._assign_free_slots()

    def close(self) -> None:
        """The target is removed: refuse the waiting requests, and let no later one wait. Taken slots stay valid."""
        self._is_closed = True
        while (waiter := self._queue.pop()) is not None:
            self._refuse(waiter, "is being removed")

    async def acquire(
        self,
        *,
        caller: str = "",
        priority: Priority = "default",
        tokens: int = 1,
        can_wait: bool = True,
        deadline_s: float | None = None,
    ) -> Slot:
        """Take a slot. A task that is cancelled while it waits takes none, and leaves the queue.

        Args:
            caller: the caller's name, for fairness between callers.
            priority: the request's class.
            tokens: about how many tokens the request and its answer have; the measure of fairness.
            can_wait: False: raise at once if there is no free slot.
            deadline_s: the request's deadline, in seconds of the clock's monotonic reading.

        Raises:
            TargetBusy: no slot is free and the request may not wait, the queue is full, the wait took too long, or the
                request was displaced or dropped.
        """
        if self.has_free_slot(priority):
            return self._take(priority)
        now_s = self._clock.monotonic_s()
        wait_s = self._config.queue_timeout_s
        if deadline_s is not None:
            wait_s = min(wait_s, deadline_s - now_s)
        if not can_wait or self._is_closed or wait_s <= 0:
            raise self._busy("has no free slot")
        waiter = _Waiter(priority, now_s)
        self._enqueue(waiter, caller, tokens)
        waiter.timer = self._call_later(wait_s, lambda: self._refuse(waiter, "had no free slot in time"))
        return await self._wait(waiter)

    def _enqueue(self, waiter: _Waiter, caller: str, tokens: int) -> None:
        if not self._queue:
            self._shedder.reset()
        if self._queue.push(caller, waiter.priority, tokens, waiter):
            return
        displaced = self._queue.displace(caller, waiter.priority)
        if displaced is None:
            raise self._busy("has no free slot, and its queue is full")
        self._refuse(displaced, "has no free slot, and its queue is full")
        self._queue.push(caller, waiter.priority, tokens, waiter)

    async def _wait(self, waiter: _Waiter) -> Slot:
        try:
            outcome = await waiter.future
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        if isinstance(outcome, TargetBusy):
            raise outcome
        return outcome

    def _abandon(self, waiter: _Waiter) -> None:
        """The request's task was cancelled: leave the queue, and release a slot that was assigned just before that."""
        self._queue.remove(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not waiter.future.cancelled():
            outcome = waiter.future.result()
            if isinstance(outcome, Slot):
                outcome.release()

    def _take(self, priority: Priority) -> Slot:
        self._slots.take(priority)
        if self._slots.taken >= self._limit:
            self._slot_rate.became_full(self._clock.monotonic_s())
        return Slot(self, priority)

    def _release(self, priority: Priority) -> None:
        was_full = self._slots.taken >= self._limit
        self._slots.release(priority)
        if was_full:
            self._slot_rate.slot_freed(self._clock.monotonic_s())
        if self._limit != inf:  # without a limit no request waits
            self._assign_free_slots()

    def _record_first_token(self, ttft_s: float, prompt_tokens: int) -> None:
        if self._gradient is not None:
            self._gradient.sample(ttft_s, self._slots.taken, prompt_tokens)
            self._limit = self._gradient.limit
            self._assign_free_slots()

    def _assign_free_slots(self) -> None:
        """Assign every free slot to the waiting request that is next."""
        while self._queue and (classes := self._slots.next_classes(self._queue.waiting(), self._limit)):
            waiter = self._queue.pop(classes)
            if waiter is None or waiter.future.done():  # its task was cancelled, but has not run `_abandon` yet
                continue
            waiter.finish(self._take(waiter.priority))
            now_s = self._clock.monotonic_s()
            if self._shedder.is_due(now_s - waiter.since_s, now_s):
                self._shed(now_s)

    def _shed(self, now_s: float) -> None:
        """Drop the oldest request of the least urgent class in which a request has waited too long."""
        for priority in PRIORITIES:
            waiter = self._queue.oldest(priority)
            if waiter is not None and now_s - waiter.since_s >= self._shedder.quick_wait_s:
                self._refuse(waiter, "is overloaded")
                return

    def _refuse(self, waiter: _Waiter, why: str) -> None:
        self._queue.remove(waiter)
        if not waiter.future.done():
            waiter.finish(self._busy(why))

    def _busy(self, why: str) -> TargetBusy:
        message = f"{self.name} {why} (in flight: {self.in_flight}, waiting: {self.waiting}). Try again later."
        return TargetBusy(message, retry_after_s=self._slot_rate.retry_after_s(self.waiting))
