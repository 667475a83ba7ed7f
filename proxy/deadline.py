"""Waits that end: tasks are cancelled when what they wait for takes too long.

`asyncio.timeout` makes and cancels a timer for every wait, and a stream waits for each chunk. Here one timer looks at
all waits, ten times a second; a wait costs two operations on a set.
"""

import asyncio

_PERIOD_S = 0.1


class Deadlines:
    """The waits that share a timer; one per owner and event loop. The timer runs only while there are waits."""

    def __init__(self) -> None:
        self._waiting: set[Deadline] = set()
        self._handle: asyncio.TimerHandle | None = None

    def add(self, deadline: "Deadline", loop: asyncio.AbstractEventLoop) -> None:
        """A wait begins."""
        self._waiting.add(deadline)
        if self._handle is None:
            self._handle = loop.call_later(min(_PERIOD_S, deadline.limit_s), self._look, loop)

    def discard(self, deadline: "Deadline") -> None:
        """It has ended."""
        self._waiting.discard(deadline)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = None
        now_s = loop.time()
        for deadline in [deadline for deadline in self._waiting if deadline.due_s <= now_s]:
            self._waiting.discard(deadline)
            deadline.expire()
        if self._waiting:
            shortest_s = min(deadline.limit_s for deadline in self._waiting)
            self._handle = loop.call_later(min(_PERIOD_S, shortest_s), self._look, loop)


class Deadline:
    """The waits of one task for one thing, `limit_s` seconds at most together (and up to 0.1 s more).

    Only the time between `start` and `stop` counts, so that a caller who reads slowly is not the upstream's fault;
    `reset` says that the thing has come and the next one is waited for.
    """

    __slots__ = ("_deadlines", "_is_expired", "_loop", "_task", "_waited_s", "due_s", "limit_s")

    def __init__(self, deadlines: Deadlines, limit_s: float) -> None:
        self.limit_s = limit_s
        self.due_s = 0.0
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._is_expired = False
        self._waited_s = 0.0

    def start(self) -> None:
        """A wait begins, in this task, which need not be the one that made the deadline."""
        self._task = asyncio.current_task()
        self.due_s = self._loop.time() + self.limit_s - self._waited_s
        self._deadlines.add(self, self._loop)

    def stop(self) -> None:
        """The wait is over; also after an error."""
        self._waited_s = self.limit_s - (self.due_s - self._loop.time())
        self._deadlines.discard(self)

    def reset(self, limit_s: float) -> None:
        """It has come; the next one may take `limit_s`."""
        self.limit_s = limit_s
        self._waited_s = 0.0

    def has_expired(self) -> bool:
        """Whether the cancellation just caught is this deadline's own; asked once, in the cancelled task."""
        if not self._is_expired or self._task is None:
            return False
        self._is_expired = False
        return self._task.uncancel() == 0

    def expire(self) -> None:
        """The wait took too long."""
        if self._task is not None:
            self._is_expired = True
            self._task.cancel()
