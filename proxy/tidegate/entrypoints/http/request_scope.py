"""`RequestScope`: ends the work for a request when its caller leaves, or when the server's grace time is over."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tidegate.entrypoints.http.exchange import Exchange
from tidegate.errors import GOING_DOWN, ShuttingDown

# A caller who leaves sooner is noticed then: most unary answers never pay for the watching task.
_WATCH_AFTER_S = 0.02


class _Parting:
    """Requests whose end is waited for."""

    def __init__(self, lines: "set[RequestScope]") -> None:
        self._lines = lines
        self.is_over = asyncio.Event()
        if not lines:
            self.is_over.set()

    def leave(self, line: "RequestScope") -> None:
        self._lines.discard(line)
        if not self._lines:
            self.is_over.set()


class RunningRequests:
    """The requests being served; asked by the server when it goes down.

    Who is served for longer than `_WATCH_AFTER_S` is watched; one timer serves all of them.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self._lines: set[RequestScope] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._soon: dict[RequestScope, float] = {}  # when to watch them, the first to come in front
        self._is_ticking = False
        self._partings: list[_Parting] = []

    def enter(self, line: "RequestScope") -> None:
        """A request begins."""
        self._lines.add(line)
        self._is_empty.clear()

    def leave(self, line: "RequestScope") -> None:
        """A request has ended."""
        self._lines.discard(line)
        self._soon.pop(line, None)
        if not self._lines:
            self._is_empty.set()
        for parting in self._partings:
            parting.leave(line)

    async def until_these_have_left(self) -> None:
        """Wait until every request that is served now has ended; others may have come meanwhile."""
        parting = _Parting(set(self._lines))
        self._partings.append(parting)
        try:
            await parting.is_over.wait()
        finally:
            self._partings.remove(parting)

    def watch_soon(self, line: "RequestScope", loop: asyncio.AbstractEventLoop) -> None:
        """If the request is still served in a moment, its caller is to be watched."""
        self._soon[line] = loop.time() + _WATCH_AFTER_S
        if not self._is_ticking:
            self._is_ticking = True
            loop.call_later(_WATCH_AFTER_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        due = []
        for line, at_s in self._soon.items():
            if at_s > now_s:
                break
            due.append(line)
        for line in due:
            del self._soon[line]
            line.begin_watching()
        self._is_ticking = bool(self._soon)
        if self._is_ticking:
            loop.call_later(_WATCH_AFTER_S, self._tick, loop)

    async def drain(self, grace_s: float) -> int:
        """Wait until all have ended, `grace_s` at most, then cut the rest; how many had to be cut."""
        self.is_draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._is_empty.wait()
        except TimeoutError:
            cut = list(self._lines)
            for line in cut:
                line.abort()
            return len(cut)
        return 0


class RequestScope:
    """An `async with` block around the work for one request, in the task that does it.

    When the caller leaves, the task is cancelled and the block swallows the cancellation; when the grace time is over,
    the cancellation leaves the block as `ShuttingDown`.
    """

    __slots__ = ("_exchange", "_loop", "_on_slow", "_running", "_task", "_was_cut", "_watching")

    def __init__(self, exchange: Exchange, running: RunningRequests, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._loop = loop
        self._running = running
        self._task: asyncio.Task[object] | None = None
        self._on_slow: Callable[[], None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._was_cut = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        self._running.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._running.leave(self)
        if self._watching is not None:
            self._watching.cancel()
        task, self._task, self._watching, self._on_slow = self._task, None, None, None  # each knows this one
        if not self._was_cut or task is None or task.uncancel() > 0:
            return False
        if not isinstance(error, asyncio.CancelledError):
            return False
        if self._exchange.context.is_client_gone:
            return True
        raise ShuttingDown(GOING_DOWN) from None

    def watch(self, on_slow: Callable[[], None] | None = None) -> None:
        """The body has been read: from now on the only thing the caller can do is leave.

        `on_slow` is called when the answer takes long enough for the caller to be watched.
        """
        self._on_slow = on_slow
        self._running.watch_soon(self, self._loop)

    def begin_watching(self) -> None:
        """It takes long."""
        self._watching = self._loop.create_task(self._watch())
        if self._on_slow is not None:
            self._on_slow()

    def abort(self) -> None:
        """The grace time is over."""
        self._exchange.context.is_aborted = True
        self._cut()

    async def _watch(self) -> None:
        # the end of the body may be told once more before the caller's leaving
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._exchange.context.is_client_gone = True
        self._cut()

    def _cut(self) -> None:
        if self._task is not None and not self._was_cut:
            self._was_cut = True
            self._task.cancel()
