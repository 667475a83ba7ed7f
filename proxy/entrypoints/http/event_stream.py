"""`EventStream`: the body of a streamed answer, and what is said into its silences.

The status line waits for the first payload, so that an early failure keeps its status (DESIGN 5), but not for ever:
after `comment_every_s` without one it leaves with a comment, so that nobody in between hangs up. From then on failures
are told in band.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.entrypoints.http.exchange import Exchange
from proxy.errors import ProxyError
from proxy.protocol import errors, sse


class _Answer(Protocol):
    async def read(self) -> list[bytes]: ...

    def heartbeat(self) -> bytes: ...


class EventStream:
    """One streamed answer; `close` it on every exit.

    One timer looks from time to time how long nothing was said, instead of being moved with each piece.
    """

    __slots__ = (
        "_beat",
        "_comment_every_s",
        "_empty_every_s",
        "_exchange",
        "_handle",
        "_heartbeat",
        "_is_sending",
        "_last_s",
        "_loop",
    )

    def __init__(self, exchange: Exchange, *, comment_every_s: float, empty_every_s: float) -> None:
        self._exchange = exchange
        self._comment_every_s = comment_every_s
        self._empty_every_s = empty_every_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._handle: asyncio.TimerHandle | None = None
        self._heartbeat: Callable[[], bytes] | None = None
        self._is_sending = False
        self._beat: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Begin to look for silences; a stream that is over in a moment needs nobody to."""
        self._handle = self._loop.call_later(self._comment_every_s, self._look)

    async def relay(self, answer: _Answer) -> None:
        """Send everything, and the end."""
        exchange = self._exchange
        while payloads := await answer.read():
            if self._beat is not None:
                await self._settle_beat()
            if not exchange.has_started:
                await exchange.start_stream()
            self._is_sending = True
            await exchange.send_piece(sse.frame(payloads))
            self._is_sending = False
            self._last_s = self._loop.time()
            self._heartbeat = answer.heartbeat
        await self._settle_beat()
        await self._exchange.end_stream(sse.DONE)

    async def fail(self, error: ProxyError) -> None:
        """Say in band what went wrong, and end."""
        await self._settle_beat()
        told = sse.frame([errors.to_json(error, self._exchange.context.id)])
        await self._exchange.end_stream(told + sse.DONE)

    def close(self) -> None:
        """No more comments."""
        if self._handle is not None:
            self._handle.cancel()
        if self._beat is not None:
            self._beat.cancel()

    async def _settle_beat(self) -> None:
        """Let a comment that is being sent come to its end: pieces must not overtake each other."""
        beat, self._beat = self._beat, None
        if beat is not None:
            await asyncio.gather(beat, return_exceptions=True)

    def _look(self) -> None:
        every_s = self._comment_every_s if self._heartbeat is None else self._empty_every_s
        left_s = self._last_s + every_s - self._loop.time()
        if left_s <= 0:
            if not self._is_sending and (self._beat is None or self._beat.done()):  # else it is the caller who waits
                self._beat = self._loop.create_task(self._say_something())
            self._last_s = self._loop.time()
            left_s = every_s
        self._handle = self._loop.call_later(left_s, self._look)

    async def _say_something(self) -> None:
        if not self._exchange.has_started:
            await self._exchange.start_stream()
        said = sse.KEEP_ALIVE if self._heartbeat is None else sse.frame([self._heartbeat()])
        await self._exchange.send_piece(said)
