"""`Lifeline`: ends the work for a request when its caller leaves, or when the server's grace time is over."""

import asyncio
from types import TracebackType
from typing import Self

from proxy.entrypoints.http.exchange import Exchange
from proxy.errors import ShuttingDown

# A caller who leaves sooner is noticed then: most unary answers never pay for the watching task.
_WATCH_AFTER_S = 0.02


class Running:
    """The requests being served; asked by the server when it goes down."""

    def __init__(self) -> None:
        self._lines: set[Lifeline] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.is_draining = False

    def enter(self, line: "Lifeline") -> None:
        """A request begins."""
        self._lines.add(line)
        self._is_empty.clear()

    def leave(self, line: "Lifeline") -> None:
        """A request has ended."""
        self._lines.discard(line)
        if not self._lines:
            self._is_empty.set()

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


class Lifeline:
    """An `async with` block around the work for one request, in the task that does it.

    When the caller leaves, the task is cancelled and the block swallows the cancellation; when the grace time is over,
    the cancellation leaves the block as `ShuttingDown`.
    """

    __slots__ = ("_exchange", "_handle", "_running", "_task", "_was_cut", "_watching")

    def __init__(self, exchange: Exchange, running: Running) -> None:
        self._exchange = exchange
        self._running = running
        self._task: asyncio.Task[object] | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._was_cut = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._running.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._running.leave(self)
        if self._handle is not None:
            self._handle.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if not self._was_cut or self._task is None or self._task.uncancel() > 0:
            return False
        if not isinstance(error, asyncio.CancelledError):
            return False
        if self._exchange.context.is_client_gone:
            return True
        raise ShuttingDown("The server is going down.") from None

    def watch(self) -> None:
        """The body has been read: from now on the only thing the caller can do is leave."""
        self._handle = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._begin_watching)

    def abort(self) -> None:
        """The grace time is over."""
        self._exchange.context.is_aborted = True
        self._cut()

    def _begin_watching(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

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
