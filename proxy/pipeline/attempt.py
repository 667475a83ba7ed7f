"""One try at one target: translate, send, read. Its `Answer` is good from the first parsed event on."""

import secrets
from typing import Protocol

from proxy.dialects import events, failures
from proxy.errors import StreamBroken, UpstreamFailed
from proxy.pipeline.context import RequestContext
from proxy.pipeline.upstream import Response, Upstream
from proxy.protocol import embeddings
from proxy.protocol.request import Endpoint, ModelRequest
from proxy.protocol.sse import EventParser
from proxy.streaming.chat import ChatAssembler, ChatWriter
from proxy.streaming.choices import ChoiceStream
from proxy.streaming.completions import CompletionAssembler, CompletionWriter
from proxy.streaming.sinks import Assembler, Envelope, Writer

_DONE = b"[DONE]"
_ID_PREFIXES: dict[Endpoint, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}


class Answer(Protocol):
    """What a target answers, in canonical form; closed by the attempt that made it."""

    async def read(self) -> list[bytes]:
        """The payloads that are ready, at least one; none at the end. A unary answer is one payload.

        Raises:
            ProxyError: the upstream failed in the middle.
        """

    def heartbeat(self) -> bytes:
        """A payload that says nothing, to be sent into long silences."""


class Attempt:
    """An `async with` block: entering sends the request and waits for the first parsed event, leaving closes it.

    Entering raises `ProxyError`; whether another target may be tried is the error's to say.
    """

    __slots__ = ("_context", "_model", "_request", "_response", "_upstream")

    def __init__(self, upstream: Upstream, model: str, request: ModelRequest, context: RequestContext) -> None:
        self._upstream = upstream
        self._model = model
        self._request = request
        self._context = context
        self._response: Response | None = None

    async def __aenter__(self) -> Answer:
        try:
            return await self._open()
        except StreamBroken as error:
            self._close()
            # nothing has left for the caller, so this is a failed attempt like any other
            raise UpstreamFailed(error.message, code=error.code) from error
        except BaseException:
            self._close()
            raise

    async def __aexit__(self, *_exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()

    async def _open(self) -> Answer:
        upstream, request = self._upstream, self._request
        upstream.check_ready()
        path = upstream.dialect.path(request.endpoint)
        is_stream = request.is_stream or (upstream.always_streams and request.endpoint != "embeddings")
        body = upstream.dialect.build_request(request, model=self._model, is_stream=is_stream)
        self._context.sent_upstream_s = self._context.clock.monotonic_s()
        response = self._response = await upstream.transport.post(path, body, is_stream=is_stream)
        if not 200 <= response.status < 300:
            raise failures.parse_error(response.status, response.headers, await response.read_all())
        if request.endpoint == "embeddings":
            return _Whole(await self._read_embeddings(response))
        if request.is_stream:
            return await self._begin_stream(response)
        return _Whole(await self._read_whole(response))

    async def _begin_stream(self, response: Response) -> Answer:
        request = self._request
        writer_of = ChatWriter if request.endpoint == "chat" else CompletionWriter
        writer: Writer = writer_of(self._envelope(), wants_usage=request.wants_usage)
        streamed = _Streamed(_Source(response, ChoiceStream(writer)), writer, self._context)
        await streamed.begin()
        return streamed

    async def _read_whole(self, response: Response) -> bytes:
        assembler_of = ChatAssembler if self._request.endpoint == "chat" else CompletionAssembler
        assembler: Assembler = assembler_of(self._envelope())
        source = _Source(response, ChoiceStream(assembler))
        while await source.read():
            pass
        self._context.usage = source.stream.close()
        return assembler.to_json()

    async def _read_embeddings(self, response: Response) -> bytes:
        wanted = self._request.fields.get("encoding_format")
        body, self._context.usage = embeddings.rebuild(
            await response.read_all(),
            model=self._request.model,
            encoding="base64" if wanted is not None and bytes(wanted) == b'"base64"' else "float",
        )
        return body

    def _envelope(self) -> Envelope:
        request_id = _ID_PREFIXES[self._request.endpoint] + secrets.token_hex(14)
        return Envelope(request_id, self._context.created, self._request.model)


class _Source:
    """Feeds what a host sends into the state machine: events, or a JSON body as one event.

    The content type decides, not the request: some hosts answer a stream with one JSON body.
    """

    __slots__ = ("_is_json", "_parser", "_response", "stream")

    def __init__(self, response: Response, stream: ChoiceStream) -> None:
        self._response = response
        self._is_json = "json" in response.headers.get("content-type", "")
        self._parser = EventParser()
        self.stream = stream

    async def read(self) -> bool:
        """Read what has arrived; False at the end."""
        if self._is_json:
            self.stream.accept(events.parse(await self._response.read_all()))
            return False
        data = await self._response.read_some()
        for event in self._parser.feed(data) if data else self._parser.close():
            if event == _DONE:
                self._response.expect_end()
                return False
            self.stream.accept(events.parse(event))
        return bool(data)


class _Whole:
    """A unary answer."""

    __slots__ = ("_payloads",)

    def __init__(self, body: bytes) -> None:
        self._payloads = [body]

    async def read(self) -> list[bytes]:
        payloads, self._payloads = self._payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        return b""


class _Streamed:
    """A streamed answer."""

    __slots__ = ("_context", "_is_ended", "_source", "_writer", "heartbeat")

    def __init__(self, source: _Source, writer: Writer, context: RequestContext) -> None:
        self._source = source
        self._writer = writer
        self._context = context
        self._is_ended = False
        self.heartbeat = writer.heartbeat

    async def begin(self) -> None:
        """Read up to the first parsed event; until then an error keeps its status and another target may be tried."""
        while not self._source.stream.has_begun and not self._is_ended:
            await self._advance()

    async def read(self) -> list[bytes]:
        while not (payloads := self._writer.take()) and not self._is_ended:
            await self._advance()
        if not self._context.first_content_s and self._source.stream.has_content:
            self._context.first_content_s = self._context.clock.monotonic_s()
        return payloads

    async def _advance(self) -> None:
        """One read; at the end of the upstream's answer, the check that it is whole."""
        if not await self._source.read():
            self._is_ended = True
            self._context.usage = self._source.stream.close()
