"""`RequestScope`: ends the work for a request when its caller disconnects, or when the server's grace time is over."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tidegate.entrypoints.http.exchange import Exchange
from tidegate.errors import SHUTTING_DOWN_MESSAGE, ShuttingDown

# Watching begins this long after the body was read: most unary answers have ended by then and need no watch task.
_WATCH_AFTER_S = 0.02


class _RequestGroup:
    """The requests whose end one call of `RunningRequests.wait_for_current` waits for."""

    def __init__(self, scopes: "set[RequestScope]") -> None:
        self._scopes = scopes
        self.is_done = asyncio.Event()
        if not scopes:
            self.is_done.set()

    def leave(self, scope: "RequestScope") -> None:
        self._scopes.discard(scope)
        if not self._scopes:
            self.is_done.set()


class RunningRequests:
    """The requests being served; owned by `App`, drained when the server shuts down.

    If a request runs for longer than `_WATCH_AFTER_S`, its caller is watched for a disconnect; one timer serves all
    requests.

    Attributes:
        is_draining: whether the server is shutting down.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self._scopes: set[RequestScope] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._watch_at_s: dict[RequestScope, float] = {}  # loop time at which to start watching, earliest first
        self._has_timer = False
        self._groups: list[_RequestGroup] = []

    def enter(self, scope: "RequestScope") -> None:
        """Register a request that begins."""
        self._scopes.add(scope)
        self._is_empty.clear()

    def leave(self, scope: "RequestScope") -> None:
        """Remove a request that has ended."""
        self._scopes.discard(scope)
        self._watch_at_s.pop(scope, None)
        if not self._scopes:
            self._is_empty.set()
        for group in self._groups:
            group.leave(scope)

    async def wait_for_current(self) -> None:
        """Wait until every request that is being served now has ended, whatever other requests begin meanwhile."""
        group = _RequestGroup(set(self._scopes))
        self._groups.append(group)
        try:
            await group.is_done.wait()
        finally:
            self._groups.remove(group)

    def schedule_watch(self, scope: "RequestScope", loop: asyncio.AbstractEventLoop) -> None:
        """Start to watch the caller of the request after `_WATCH_AFTER_S`, if the request has not ended by then."""
        self._watch_at_s[scope] = loop.time() + _WATCH_AFTER_S
        if not self._has_timer:
            self._has_timer = True
            loop.call_later(_WATCH_AFTER_S, self._watch_due, loop)

    def _watch_due(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        due = []
        for scope, at_s in self._watch_at_s.items():
            if at_s > now_s:
                break
            due.append(scope)
        for scope in due:
            del self._watch_at_s[scope]
            scope.start_watching()
        self._has_timer = bool(self._watch_at_s)
        if self._has_timer:
            loop.call_later(_WATCH_AFTER_S, self._watch_due, loop)

    async def drain(self, grace_s: float) -> int:
        """Wait at most `grace_s` for all requests to end, then cancel the others; returns how many were cancelled."""
        self.is_draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._is_empty.wait()
        except TimeoutError:
            cancelled = list(self._scopes)
            for scope in cancelled:
                scope.abort()
            return len(cancelled)
        return 0


class RequestScope:
    """An `async with` block around the work for one request, in the task that does it.

    When the caller disconnects, the task is cancelled, and the block suppresses the cancellation. When the grace time
    is over, the task is cancelled, and the block raises `ShuttingDown` instead.
    """

    __slots__ = ("_exchange", "_loop", "_on_slow", "_running", "_task", "_was_cancelled", "_watch_task")

    def __init__(self, exchange: Exchange, running: RunningRequests, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._loop = loop
        self._running = running
        self._task: asyncio.Task[object] | None = None
        self._on_slow: Callable[[], None] | None = None
        self._watch_task: asyncio.Task[None] | None = None
        self._was_cancelled = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        self._running.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._running.leave(self)
        if self._watch_task is not None:
            self._watch_task.cancel()
        # clearing the attributes breaks the reference cycles: each of these objects refers to this one
        task, self._task, self._watch_task, self._on_slow = self._task, None, None, None
        if not self._was_cancelled or task is None or task.uncancel() > 0:
            return False
        if not isinstance(error, asyncio.CancelledError):
            return False
        if self._exchange.context.is_client_gone:
            return True
        raise ShuttingDown(SHUTTING_DOWN_MESSAGE) from None

    def watch(self, on_slow: Callable[[], None] | None = None) -> None:
        """Watch for a disconnect from now on; called when the body has been read, as watching receives all messages.

        `on_slow` is called if the answer takes long enough for the caller to be watched.
        """
        self._on_slow = on_slow
        self._running.schedule_watch(self, self._loop)

    def start_watching(self) -> None:
        """Start the task that waits for a disconnect; called by the timer of `RunningRequests`."""
        self._watch_task = self._loop.create_task(self._watch())
        if self._on_slow is not None:
            self._on_slow()

    def abort(self) -> None:
        """Cancel the request because the grace time is over."""
        self._exchange.context.is_aborted = True
        self._cancel()

    async def _watch(self) -> None:
        # the end of the body may be received once more before the disconnect
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._exchange.context.is_client_gone = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._was_cancelled:
            self._was_cancelled = True
            self._task.cancel()
