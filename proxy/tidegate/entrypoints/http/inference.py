"""`POST` chat completions, completions and embeddings: one handler class, with a parser for each."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tidegate.deadline import Deadline
from tidegate.entrypoints.http.event_stream import EventStream
from tidegate.entrypoints.http.exchange import Exchange, Receive, Scope, Send
from tidegate.entrypoints.http.request_scope import RequestScope
from tidegate.entrypoints.http.services import Services
from tidegate.entrypoints.options import read_options
from tidegate.errors import ClientGone, InternalError, ProxyError, drop_references
from tidegate.protocol.request import Endpoint, ModelRequest

# A caller that does not read would otherwise block the error event at the end of a stream for ever.
_ERROR_SEND_TIMEOUT_S = 1.0

Parse = Callable[[bytes], ModelRequest]


class InferenceHandler:
    """An ASGI application for one endpoint; one instance serves all its requests."""

    def __init__(self, endpoint: Endpoint, parse: Parse, services: Services) -> None:
        self._endpoint = endpoint
        self._parse = parse
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Every failure is sent as OpenAI's error JSON or, once a stream has begun, in band."""
        services = self._services
        exchange = Exchange(scope, receive, send, endpoint=self._endpoint, clock=services.clock)
        request_scope = RequestScope(exchange, services.running, services.deadlines.loop)
        request = _InferenceRequest(exchange, request_scope, self._parse, services)
        try:
            async with request_scope:
                await request.serve()
        except ProxyError as error:
            await request.fail(error)
            drop_references(error)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer whatever fails
            await request.fail(InternalError(f"{type(error).__name__}: {error}"))
            drop_references(error)
        finally:
            request.close()


class _InferenceRequest:
    """One request to an `InferenceHandler`."""

    __slots__ = ("_exchange", "_parse", "_request_scope", "_services", "_stream")

    def __init__(self, exchange: Exchange, request_scope: RequestScope, parse: Parse, services: Services) -> None:
        self._request_scope = request_scope
        self._exchange = exchange
        self._parse = parse
        self._services = services
        self._stream: EventStream | None = None

    async def serve(self) -> None:
        exchange = self._exchange
        async with self._services.pipeline.open(exchange.credentials, self._read, exchange.context) as answer:
            if self._stream is not None:
                await self._stream.relay(answer)
            else:
                (body,) = await answer.read()
                # frees the concurrency slot: a caller that reads slowly must not hold it or count against the target
                answer.close()
                await exchange.send_json(200, body)

    async def _read(self) -> ModelRequest:
        limits = self._services.limits
        self._exchange.allow("POST")
        self._exchange.context.options = read_options(self._exchange.headers)
        deadline = Deadline(self._services.deadlines, limits.body_timeout_s)
        body = await self._exchange.read_json(max_bytes=limits.max_body_bytes, deadline=deadline)
        request = self._parse(body)
        if request.is_stream:
            self._stream = EventStream(self._exchange, limits)
            self._request_scope.watch(self._stream.start_timer)
        else:
            self._request_scope.watch()
        return request

    async def fail(self, error: ProxyError) -> None:
        if isinstance(error, ClientGone):
            return
        if not self._exchange.has_started:
            self.close()
            await self._exchange.send_error(error)
        elif self._stream is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ERROR_SEND_TIMEOUT_S):
                    await self._stream.fail(error)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
