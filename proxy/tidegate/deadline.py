"""Waits with a time limit: a task is cancelled when what it waits for takes too long.

`asyncio.timeout` makes and cancels a timer for every wait, and a stream waits for each chunk. Here one timer checks all
waits, ten times a second; a wait costs two operations on a set.
"""

import asyncio

_PERIOD_S = 0.1


class Deadlines:
    """The waits that share one timer; one instance per owner and event loop. The timer runs only while there are waits.

    Attributes:
        is_closed: whether `close` was called.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._waiting: set[Deadline] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, read at the first use and stored, as `get_running_loop` costs a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def add(self, deadline: "Deadline") -> None:
        """Begin to watch a wait."""
        self._waiting.add(deadline)
        if self._handle is None:
            period_s = 0.0 if self.is_closed else min(_PERIOD_S, deadline.limit_s)
            self._handle = self.loop.call_later(period_s, self._check)

    def close(self) -> None:
        """End every wait before its time limit: those that have begun now, later ones as soon as they begin."""
        self.is_closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._check()

    def discard(self, deadline: "Deadline") -> None:
        """Stop watching a wait, as it has ended."""
        self._waiting.discard(deadline)

    def _check(self) -> None:
        self._handle = None
        now_s = self.loop.time()
        for deadline in [each for each in self._waiting if self.is_closed or each.due_s <= now_s]:
            self._waiting.discard(deadline)
            deadline.expire()
        if self._waiting:
            shortest_s = min(deadline.limit_s for deadline in self._waiting)
            self._handle = self.loop.call_later(min(_PERIOD_S, shortest_s), self._check)


class Deadline:
    """A time limit for one thing that a task waits for, such as the body of a request or the next chunk of an answer.

    All waits for it together take at most `limit_s` seconds (and up to 0.1 s more).

    Only the time between `start` and `stop` counts, so that a caller who reads slowly does not use up the upstream's
    time. `reset` is called when it has come and the task will wait for the next one.

    Attributes:
        limit_s: the time limit in seconds.
        due_s: when the current wait reaches the limit, by the loop's clock.
        loop: the event loop.
    """

    __slots__ = ("_deadlines", "_is_expired", "_task", "_waited_s", "due_s", "limit_s", "loop")

    def __init__(self, deadlines: Deadlines, limit_s: float) -> None:
        self.limit_s = limit_s
        self.due_s = 0.0
        self._deadlines = deadlines
        self.loop = deadlines.loop
        self._task: asyncio.Task[object] | None = None
        self._is_expired = False
        self._waited_s = 0.0

    def start(self) -> None:
        """Begin a wait, in the current task, which need not be the one that created the deadline."""
        self._task = asyncio.current_task(self.loop)
        self.due_s = self.loop.time() + self.limit_s - self._waited_s
        self._deadlines.add(self)

    def stop(self) -> None:
        """End the wait; call it after an error too."""
        self._waited_s = self.limit_s - (self.due_s - self.loop.time())
        self._deadlines.discard(self)

    def reset(self, limit_s: float) -> None:
        """What the task waited for has come; the next thing may take `limit_s`."""
        self.limit_s = limit_s
        self._waited_s = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether all waits were ended by `Deadlines.close`."""
        return self._deadlines.is_closed

    def has_expired(self) -> bool:
        """Whether this deadline caused the cancellation just caught; call it once, in the cancelled task."""
        if not self._is_expired or self._task is None:
            return False
        self._is_expired = False
        return self._task.uncancel() == 0

    def expire(self) -> None:
        """Cancel the waiting task: its time limit is over, or `Deadlines.close` was called."""
        if self._task is not None:
            self._is_expired = True
            self._task.cancel()
