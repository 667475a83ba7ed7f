"""`POST` chat completions, completions and embeddings: one road, three parsers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tidegate.deadline import Deadline
from tidegate.entrypoints.http.event_stream import EventStream
from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.request_scope import Lifeline
from tidegate.entrypoints.http.services import Door
from tidegate.entrypoints.options import read_wishes
from tidegate.errors import ClientGone, InternalError, ProxyError, forget_way
from tidegate.protocol.request import Endpoint, ModelRequest

# A caller who does not read would never hear it.
_FAREWELL_S = 1.0

Parse = Callable[[bytes], ModelRequest]


class InferenceHandler:
    """An ASGI application for one endpoint; shared by all its requests."""

    def __init__(self, endpoint: Endpoint, parse: Parse, door: Door) -> None:
        self._endpoint = endpoint
        self._parse = parse
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every failure ends as OpenAI's error JSON or, once a stream has begun, in band."""
        door = self._door
        exchange = Exchange(scope, receive, send, endpoint=self._endpoint, clock=door.clock)
        lifeline = Lifeline(exchange, door.running, door.deadlines.loop)
        call = _Call(exchange, lifeline, self._parse, door)
        try:
            async with lifeline:
                await call.serve()
        except ProxyError as error:
            await call.fail(error)
            forget_way(error)
        except Exception as error:  # noqa: BLE001 - one of the three broad clauses: the front door's last resort
            await call.fail(InternalError(f"{type(error).__name__}: {error}"))
            forget_way(error)
        finally:
            call.close()


class _Call:
    """One request at an `InferenceHandler`."""

    __slots__ = ("_door", "_exchange", "_lifeline", "_parse", "_stream")

    def __init__(self, exchange: Exchange, lifeline: Lifeline, parse: Parse, door: Door) -> None:
        self._lifeline = lifeline
        self._exchange = exchange
        self._parse = parse
        self._door = door
        self._stream: EventStream | None = None

    async def serve(self) -> None:
        exchange = self._exchange
        async with self._door.pipeline.open(exchange.credentials, self._read, exchange.context) as answer:
            if self._stream is not None:
                await self._stream.relay(answer)
            else:
                (body,) = await answer.read()
                answer.close()  # who reads slowly holds no place, and is not the target's fault
                await exchange.send_json(200, body)

    async def _read(self) -> ModelRequest:
        limits = self._door.limits
        self._exchange.allow("POST")
        self._exchange.context.wishes = read_wishes(self._exchange.headers)
        deadline = Deadline(self._door.deadlines, limits.body_timeout_s)
        body = await self._exchange.read_json(max_bytes=limits.max_body_bytes, deadline=deadline)
        request = self._parse(body)
        if request.is_stream:
            self._stream = EventStream(self._exchange, limits)
            self._lifeline.watch(self._stream.listen)
        else:
            self._lifeline.watch()
        return request

    async def fail(self, error: ProxyError) -> None:
        if isinstance(error, ClientGone):
            return
        if not self._exchange.has_started:
            self.close()
            await self._exchange.send_error(error)
        elif self._stream is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._stream.fail(error)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
