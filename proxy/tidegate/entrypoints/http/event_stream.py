"""`EventStream`: sends the body of a streamed answer, with heartbeats while there is nothing else to send.

The status line is held back until the first payload, so that an early failure keeps its own HTTP status. After
`comment_every_s` without a payload, the status line is sent with an SSE comment, so that no proxy in between closes the
connection as idle; later failures are then reported in band. Before the first payload a heartbeat is an SSE comment,
afterwards it is a chunk without content.

If the caller reads nothing for about `send_timeout_s`, the answer is cancelled, as it holds a concurrency slot that
other requests wait for.
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
    """One streamed answer; must be closed on every exit.

    One timer checks from time to time how long nothing was sent; a timer that is reset with each chunk would cost more.
    """

    __slots__ = (
        "_comment_every_s",
        "_empty_every_s",
        "_exchange",
        "_heartbeat_task",
        "_last_sent_s",
        "_loop",
        "_make_heartbeat",
        "_send_timeout_s",
        "_sending_since_s",
        "_task",
        "_timer",
        "_was_cancelled",
    )

    def __init__(self, exchange: Exchange, limits: ServerConfig) -> None:
        self._exchange = exchange
        self._comment_every_s = limits.comment_every_s
        self._empty_every_s = limits.empty_chunk_every_s
        self._send_timeout_s = limits.send_timeout_s
        self._loop = asyncio.get_running_loop()
        self._last_sent_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._make_heartbeat: Callable[[], bytes] | None = None
        self._sending_since_s = 0.0  # when the send in progress began; 0 if there is none
        self._was_cancelled = False
        self._task: asyncio.Task[object] | None = None
        self._heartbeat_task: asyncio.Task[None] | None = None

    def start_timer(self) -> None:
        """Start to send heartbeats and to check the send timeout; a stream that is over in a moment needs neither."""
        self._timer = self._loop.call_later(min(self._comment_every_s, self._send_timeout_s), self._check_silence)

    async def relay(self, answer: _StreamedAnswer) -> None:
        """Send all payloads of `answer`, then the end of the stream.

        Raises:
            ClientGone: the caller has read nothing for `send_timeout_s`.
        """
        self._task = asyncio.current_task()
        try:
            await self._relay(answer)
        except asyncio.CancelledError:
            if self._was_cancelled and self._task is not None and self._task.uncancel() == 0:
                raise ClientGone(f"The caller has read nothing for {self._send_timeout_s:g} s.") from None
            raise
        finally:
            self._task = None

    async def _relay(self, answer: _StreamedAnswer) -> None:
        exchange, loop, context = self._exchange, self._loop, self._exchange.context
        while payloads := await answer.read():
            if self._heartbeat_task is not None:
                await self._finish_heartbeat()
            if not exchange.has_started:
                await exchange.start_stream()
            begun_s = self._sending_since_s = loop.time()
            await exchange.send_chunk(sse.frame(payloads))
            self._sending_since_s = 0.0
            self._last_sent_s = loop.time()
            context.reading_s += self._last_sent_s - begun_s
            self._make_heartbeat = answer.heartbeat
        await self._finish_heartbeat()
        self._sending_since_s = loop.time()
        await exchange.end_stream(sse.DONE)
        self._sending_since_s = 0.0

    async def fail(self, error: ProxyError) -> None:
        """Send `error` in band, then the end of the stream."""
        await self._finish_heartbeat()
        event = sse.frame([errors.to_json(error, self._exchange.context.id)])
        await self._exchange.end_stream(event + sse.DONE)

    def close(self) -> None:
        """Stop the heartbeats and the send timeout."""
        if self._timer is not None:
            self._timer.cancel()
        if self._heartbeat_task is not None:
            self._heartbeat_task.cancel()

    async def _finish_heartbeat(self) -> None:
        """Wait until a heartbeat in progress has been sent: two sends must not overlap."""
        task, self._heartbeat_task = self._heartbeat_task, None
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    def _check_silence(self) -> None:
        now_s = self._loop.time()
        every_s = self._comment_every_s if self._make_heartbeat is None else self._empty_every_s
        left_s = self._last_sent_s + every_s - now_s
        if self._sending_since_s:  # the caller does not read; the upstream is not what is slow
            left_s = self._sending_since_s + self._send_timeout_s - now_s
            if left_s <= 0:
                self._cancel_relay()
                return
        elif left_s <= 0:
            if self._heartbeat_task is None or self._heartbeat_task.done():
                self._heartbeat_task = self._loop.create_task(self._send_heartbeat())
            self._last_sent_s = now_s
            left_s = every_s
        self._timer = self._loop.call_later(min(left_s, self._send_timeout_s), self._check_silence)

    def _cancel_relay(self) -> None:
        if self._task is not None:
            self._was_cancelled = True
            self._task.cancel()

    async def _send_heartbeat(self) -> None:
        self._sending_since_s = self._loop.time()
        if not self._exchange.has_started:
            await self._exchange.start_stream()
        event = sse.KEEP_ALIVE if self._make_heartbeat is None else sse.frame([self._make_heartbeat()])
        await self._exchange.send_chunk(event)
        self._sending_since_s = 0.0
