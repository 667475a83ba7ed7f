"""One try at one target: translate, send, read. Its `Answer` is good from the first parsed event on."""

import random
from collections.abc import Callable, Mapping
from typing import Protocol

from proxy.dialects import failures, history
from proxy.dialects.base import HostRequest
from proxy.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from proxy.memory import Memory
from proxy.pipeline.context import RequestContext
from proxy.pipeline.structured import Structured
from proxy.pipeline.upstream import Response, Upstream
from proxy.protocol import embeddings
from proxy.protocol.chat import MAX_ANSWER_BYTES, Chunk
from proxy.protocol.request import Endpoint, ModelRequest
from proxy.protocol.sse import EventParser
from proxy.routing import Target
from proxy.streaming.chat import ChatAssembler, ChatWriter
from proxy.streaming.choices import ChoiceStream, Sink
from proxy.streaming.completions import CompletionAssembler, CompletionWriter
from proxy.streaming.filters import Remembering, in_format
from proxy.streaming.sinks import Assembler, Envelope, Writer

_DONE = b"[DONE]"
_ID_PREFIXES: dict[Endpoint, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}
_MAX_ID = 128  # a host may say anything
_NOTHING: Mapping[str, str] = {}
_REPAIRED = {"response_format=emulated": "response_format=repaired"}


class Answer(Protocol):
    """What a target answers, in canonical form. Whoever holds it closes it."""

    async def read(self) -> list[bytes]:
        """The payloads that are ready, at least one; none at the end. A unary answer is one payload.

        Raises:
            ProxyError: the upstream failed in the middle.
        """

    def heartbeat(self) -> bytes:
        """A payload that says nothing, to be sent into long silences."""

    def close(self) -> None:
        """Give the connection back, or close it where the answer has not ended: that stops the upstream's work."""


class Attempt:
    """One try; `run` is called once."""

    __slots__ = ("_context", "_memory", "_request", "_target", "_upstream")

    def __init__(
        self, upstream: Upstream, target: Target, request: ModelRequest, context: RequestContext, memory: Memory
    ) -> None:
        self._upstream = upstream
        self._target = target
        self._request = request
        self._context = context
        self._memory = memory

    async def run(self) -> Answer:
        """Send the request and wait for the first parsed event (for the whole of a unary answer).

        Raises:
            ProxyError: it came to nothing; whether another target may be tried is the error's to say.
        """
        self._upstream.check_ready()
        host_request = await self._translate(self._request)
        self._context.adjusted = host_request.adjusted
        self._context.sent_upstream_s = self._context.clock.monotonic_s()
        try:
            if host_request.schema is not None:
                return await self._run_structured(host_request)
            return await self._run_plain(host_request)
        except StreamBroken as error:
            # nothing has left for the caller, so this is a failed attempt like any other
            raise UpstreamFailed(error.message, code=error.code) from error

    async def _run_plain(self, host_request: HostRequest) -> Answer:
        response = await self._send(host_request)
        try:
            return await self._read(response, host_request)
        except BaseException:
            response.close()
            raise

    async def _translate(self, request: ModelRequest) -> HostRequest:
        upstream, target, context = self._upstream, self._target, self._context
        dialect, remembered = upstream.dialect, _NOTHING
        if request.endpoint == "chat" and dialect.remembers(target.card):
            remembered = await self._memory.recall(context.caller, history.call_ids(request.fields))
        return dialect.build_request(
            request,
            model=target.model,
            is_stream=self._is_stream,
            card=target.card,
            drops_params=context.drops_params,
            remembered=remembered,
            api_version=upstream.api_version,
        )

    @property
    def _is_stream(self) -> bool:
        """Whether the host is asked for a stream."""
        return self._request.is_stream or (self._upstream.always_streams and self._request.endpoint != "embeddings")

    async def _send(self, host_request: HostRequest) -> Response:
        """The answer, whose head says that it is one.

        Raises:
            ProxyError: it says something else.
        """
        transport = self._upstream.transport
        response = await transport.post(host_request.path, host_request.body, is_stream=self._is_stream)
        self._context.upstream_id = response.headers.get(self._upstream.dialect.id_header, "")[:_MAX_ID]
        if 200 <= response.status < 300:
            return response
        try:
            raise failures.parse_error(response.status, response.headers, await response.read_all())
        finally:
            response.close()

    async def _read(self, response: Response, host_request: HostRequest) -> Answer:
        request, context = self._request, self._context
        if request.endpoint == "embeddings":
            return _Whole(await self._read_embeddings(response), response.close)
        if not request.is_stream:
            assembler = self._assembler()
            await self._assemble(response, host_request, self._formatted(assembler))
            return _Whole(assembler.to_json(), response.close)
        writer = self._writer()
        streamed = _Streamed(self._source(response, host_request, self._formatted(writer)), writer, context)
        await streamed.begin()
        return streamed

    async def _read_embeddings(self, response: Response) -> bytes:
        wanted = self._request.fields.get("encoding_format")
        encoding: embeddings.Encoding = "base64" if wanted is not None and bytes(wanted) == b'"base64"' else "float"
        body = await response.read_all()
        try:
            told, self._context.usage = embeddings.rebuild(body, model=self._request.model, encoding=encoding)
        except UpstreamFailed:
            self._upstream.dialect.parse(body)  # an error object says itself what went wrong
            raise
        return told

    async def _run_structured(self, host_request: HostRequest) -> Answer:
        """An answer that the host cannot hold to its schema: read whole, validated, asked for once more if need be."""
        structured = Structured(self._request, host_request.schema)
        first = await self._read_whole(host_request)
        if complaints := structured.complaints(first):
            again = await self._translate(structured.with_complaints(first, complaints))
            second = await self._read_whole(again)
            structured.check(second)
            structured.add_usage(first, second)
            first, self._context.usage = second, second.told_usage
            self._context.adjusted = [_REPAIRED.get(said, said) for said in host_request.adjusted]
        if not self._request.is_stream:
            assembler = self._assembler()
            first.replay(self._formatted(assembler))
            return _Whole(assembler.to_json(), _nothing)
        writer = self._writer()
        first.replay(self._formatted(writer))
        return _Replayed(writer)

    async def _read_whole(self, host_request: HostRequest) -> ChatAssembler:
        response = await self._send(host_request)
        try:
            assembler = ChatAssembler(self._envelope())
            await self._assemble(response, host_request, assembler)
        finally:
            response.close()
        return assembler

    async def _assemble(self, response: Response, host_request: HostRequest, sink: Sink) -> None:
        source = self._source(response, host_request, sink)
        while await source.read():
            if source.read_bytes > MAX_ANSWER_BYTES:
                raise UpstreamFailed(f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")
        self._context.usage = source.stream.close()

    def _source(self, response: Response, host_request: HostRequest, sink: Sink) -> "_Source":
        remembering = None
        if host_request.reading.may_call:
            sink = remembering = Remembering(sink)
        stream = ChoiceStream(sink, host_request.reading)
        memory = None if remembering is None else _TurnMemory(remembering, self._memory, self._context.caller)
        return _Source(response, stream, self._upstream.dialect.parse, memory)

    def _formatted(self, sink: Sink) -> Sink:
        return in_format(sink, self._context.reasoning_format) if self._request.endpoint == "chat" else sink

    def _assembler(self) -> Assembler:
        if self._request.endpoint == "chat":
            return ChatAssembler(self._envelope(), form=self._context.reasoning_format)
        return CompletionAssembler(self._envelope())

    def _writer(self) -> Writer:
        wants_usage = self._request.wants_usage
        if self._request.endpoint == "chat":
            return ChatWriter(self._envelope(), wants_usage=wants_usage, form=self._context.reasoning_format)
        return CompletionWriter(self._envelope(), wants_usage=wants_usage)

    def _envelope(self) -> Envelope:
        answer_id = f"{_ID_PREFIXES[self._request.endpoint]}{random.getrandbits(112):028x}"
        return Envelope(answer_id, self._context.created, self._request.model)


def _nothing() -> None:
    """There is no connection any more."""


class _TurnMemory:
    """Hands complete turns from the stream to the memory."""

    __slots__ = ("_caller", "_memory", "_remembering")

    def __init__(self, remembering: Remembering, memory: Memory, caller: str) -> None:
        self._remembering = remembering
        self._memory = memory
        self._caller = caller

    async def keep(self) -> None:
        for turn in self._remembering.take():
            await self._memory.remember(self._caller, turn.call_ids, turn.reasoning)


class _Source:
    """Feeds what a host sends into the state machine: events, or a JSON body as one event.

    The content type decides, not the request: some hosts answer a stream with one JSON body.
    """

    __slots__ = ("_is_json", "_memory", "_parse", "_parser", "_response", "close", "read_bytes", "stream")

    def __init__(
        self,
        response: Response,
        stream: ChoiceStream,
        parse: Callable[[bytes], Chunk],
        memory: _TurnMemory | None,
    ) -> None:
        self._response = response
        self._is_json = "json" in response.headers.get("content-type", "").lower()
        self._parse = parse
        self._parser = EventParser()
        self._memory = memory
        self.close = response.close
        self.read_bytes = 0
        self.stream = stream

    async def read(self) -> bool:
        """Read what has arrived; False at the end."""
        has_more = await self._read()
        if self._memory is not None:
            await self._memory.keep()
        return has_more

    async def _read(self) -> bool:
        if self._is_json:
            self.stream.accept(self._parse(await self._response.read_all()))
            return False
        try:
            data = await self._response.read_some()
        except (UpstreamTimeout, UpstreamUnreachable):
            if self.stream.is_complete:  # only the formal end is missing
                return False
            raise
        self.read_bytes += len(data)
        found = self._parser.feed(data) if data else self._parser.close()
        for event in found:
            if event.startswith(_DONE):
                self._response.expect_end()
                return False
            self.stream.accept(self._parse(event))
        if found:
            self._response.got_event()
        return bool(data)


class _Whole:
    """A unary answer."""

    __slots__ = ("_payloads", "close")

    def __init__(self, body: bytes, close: Callable[[], None]) -> None:
        self._payloads = [body]
        self.close = close

    async def read(self) -> list[bytes]:
        payloads, self._payloads = self._payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        return b""


class _Replayed:
    """A stream that is known already."""

    __slots__ = ("_writer", "heartbeat")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.heartbeat = writer.heartbeat

    async def read(self) -> list[bytes]:
        return self._writer.take()

    def close(self) -> None:
        """There is no connection any more."""


class _Streamed:
    """A streamed answer."""

    __slots__ = ("_context", "_failure", "_is_ended", "_source", "_writer", "close", "heartbeat")

    def __init__(self, source: _Source, writer: Writer, context: RequestContext) -> None:
        self._source = source
        self._writer = writer
        self._context = context
        self._is_ended = False
        self._failure: ProxyError | None = None
        self.heartbeat = writer.heartbeat
        self.close = source.close

    async def begin(self) -> None:
        """Read up to the first parsed event; until then an error keeps its status and another target may be tried."""
        while not self._source.stream.has_begun and not self._is_ended:
            await self._advance()

    async def read(self) -> list[bytes]:
        while not (payloads := self._writer.take()) and not self._is_ended:
            try:
                await self._advance()
            except ProxyError as error:
                self._is_ended, self._failure = True, error
        if not payloads and self._failure is not None:
            raise self._failure  # after what came before it, also in the same read
        if not self._context.first_content_s and self._source.stream.has_content:
            self._context.first_content_s = self._context.clock.monotonic_s()
        return payloads

    async def _advance(self) -> None:
        """One read; at the end of the upstream's answer, the check that it is whole."""
        if not await self._source.read():
            self._is_ended = True
            self._context.usage = self._source.stream.close()
