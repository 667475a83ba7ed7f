"""`EventStream`: the body of a streamed answer, and what is said into its silences.

The status line waits for the first payload, so that an early failure keeps its status (DESIGN 5), but not for ever:
after `comment_every_s` without one it leaves with a comment, so that nobody in between hangs up. From then on failures
are told in band.

Whoever reads nothing for `send_timeout_s` is given up, about: its answer holds a place that others wait for.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from tidegate.config.server import ServerConfig
from tidegate.entrypoints.http.exchange import Exchange
from tidegate.errors import ClientGone, ProxyError
from tidegate.protocol import errors, sse


class _StreamedAnswer(Protocol):
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
        "_is_given_up",
        "_last_s",
        "_loop",
        "_send_timeout_s",
        "_sending_s",
        "_task",
    )

    def __init__(self, exchange: Exchange, limits: ServerConfig) -> None:
        self._exchange = exchange
        self._comment_every_s = limits.comment_every_s
        self._empty_every_s = limits.empty_chunk_every_s
        self._send_timeout_s = limits.send_timeout_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._handle: asyncio.TimerHandle | None = None
        self._heartbeat: Callable[[], bytes] | None = None
        self._sending_s = 0.0  # since when something is being sent; 0: nothing is
        self._is_given_up = False
        self._task: asyncio.Task[object] | None = None
        self._beat: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Begin to look for silences; a stream that is over in a moment needs nobody to."""
        self._handle = self._loop.call_later(min(self._comment_every_s, self._send_timeout_s), self._look)

    async def relay(self, answer: _StreamedAnswer) -> None:
        """Send everything, and the end.

        Raises:
            ClientGone: the caller does not read.
        """
        self._task = asyncio.current_task()
        try:
            await self._relay(answer)
        except asyncio.CancelledError:
            if self._is_given_up and self._task is not None and self._task.uncancel() == 0:
                raise ClientGone(f"The caller has read nothing for {self._send_timeout_s:g} s.") from None
            raise
        finally:
            self._task = None

    async def _relay(self, answer: _StreamedAnswer) -> None:
        exchange, loop, context = self._exchange, self._loop, self._exchange.context
        while payloads := await answer.read():
            if self._beat is not None:
                await self._settle_beat()
            if not exchange.has_started:
                await exchange.start_stream()
            begun_s = self._sending_s = loop.time()
            await exchange.send_piece(sse.frame(payloads))
            self._sending_s = 0.0
            self._last_s = loop.time()
            context.reading_s += self._last_s - begun_s
            self._heartbeat = answer.heartbeat
        await self._settle_beat()
        self._sending_s = loop.time()
        await exchange.end_stream(sse.DONE)
        self._sending_s = 0.0

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
        now_s = self._loop.time()
        every_s = self._comment_every_s if self._heartbeat is None else self._empty_every_s
        left_s = self._last_s + every_s - now_s
        if self._sending_s:  # it is the caller who makes us wait
            left_s = self._sending_s + self._send_timeout_s - now_s
            if left_s <= 0:
                self._give_up()
                return
        elif left_s <= 0:
            if self._beat is None or self._beat.done():
                self._beat = self._loop.create_task(self._say_something())
            self._last_s = now_s
            left_s = every_s
        self._handle = self._loop.call_later(min(left_s, self._send_timeout_s), self._look)

    def _give_up(self) -> None:
        if self._task is not None:
            self._is_given_up = True
            self._task.cancel()

    async def _say_something(self) -> None:
        self._sending_s = self._loop.time()
        if not self._exchange.has_started:
            await self._exchange.start_stream()
        said = sse.KEEP_ALIVE if self._heartbeat is None else sse.frame([self._heartbeat()])
        await self._exchange.send_piece(said)
        self._sending_s = 0.0
