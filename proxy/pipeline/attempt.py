"""One try at one target: translate, send, read. Its `Answer` is good from the first parsed event on."""

import random
from typing import Protocol

from proxy.dialects import events, failures
from proxy.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from proxy.pipeline.context import RequestContext
from proxy.pipeline.upstream import Response, Upstream
from proxy.protocol import embeddings
from proxy.protocol.chat import MAX_ANSWER_BYTES
from proxy.protocol.request import Endpoint, ModelRequest
from proxy.protocol.sse import EventParser
from proxy.streaming.chat import ChatAssembler, ChatWriter
from proxy.streaming.choices import ChoiceStream
from proxy.streaming.completions import CompletionAssembler, CompletionWriter
from proxy.streaming.sinks import Assembler, Envelope, Writer

_DONE = b"[DONE]"
_ID_PREFIXES: dict[Endpoint, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}


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


async def attempt(upstream: Upstream, model: str, request: ModelRequest, context: RequestContext) -> Answer:
    """Send the request and wait for the first parsed event (for the whole of a unary answer).

    Raises:
        ProxyError: it came to nothing; whether another target may be tried is the error's to say.
    """
    upstream.check_ready()
    path = upstream.dialect.path(request.endpoint)
    is_stream = request.is_stream or (upstream.always_streams and request.endpoint != "embeddings")
    body = upstream.dialect.build_request(request, model=model, is_stream=is_stream)
    context.sent_upstream_s = context.clock.monotonic_s()
    response = await upstream.transport.post(path, body, is_stream=is_stream)
    try:
        return await _read(response, request, context)
    except StreamBroken as error:
        response.close()
        # nothing has left for the caller, so this is a failed attempt like any other
        raise UpstreamFailed(error.message, code=error.code) from error
    except BaseException:
        response.close()
        raise


async def _read(response: Response, request: ModelRequest, context: RequestContext) -> Answer:
    if not 200 <= response.status < 300:
        raise failures.parse_error(response.status, response.headers, await response.read_all())
    if request.endpoint == "embeddings":
        return _Whole(await _read_embeddings(response, request, context), response)
    is_chat = request.endpoint == "chat"
    envelope = _envelope(request, context)
    if not request.is_stream:
        assembler: Assembler = ChatAssembler(envelope) if is_chat else CompletionAssembler(envelope)
        return _Whole(await _assemble(response, assembler, context), response)
    writer: Writer = (ChatWriter if is_chat else CompletionWriter)(envelope, wants_usage=request.wants_usage)
    streamed = _Streamed(response, writer, context)
    await streamed.begin()
    return streamed


async def _assemble(response: Response, assembler: Assembler, context: RequestContext) -> bytes:
    source = _Source(response, ChoiceStream(assembler))
    while await source.read():
        if source.read_bytes > MAX_ANSWER_BYTES:
            raise UpstreamFailed(f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")
    context.usage = source.stream.close()
    return assembler.to_json()


async def _read_embeddings(response: Response, request: ModelRequest, context: RequestContext) -> bytes:
    wanted = request.fields.get("encoding_format")
    encoding: embeddings.Encoding = "base64" if wanted is not None and bytes(wanted) == b'"base64"' else "float"
    body, context.usage = embeddings.rebuild(await response.read_all(), model=request.model, encoding=encoding)
    return body


def _envelope(request: ModelRequest, context: RequestContext) -> Envelope:
    answer_id = f"{_ID_PREFIXES[request.endpoint]}{random.getrandbits(112):028x}"
    return Envelope(answer_id, context.created, request.model)


class _Source:
    """Feeds what a host sends into the state machine: events, or a JSON body as one event.

    The content type decides, not the request: some hosts answer a stream with one JSON body.
    """

    __slots__ = ("_is_json", "_parser", "_response", "read_bytes", "stream")

    def __init__(self, response: Response, stream: ChoiceStream) -> None:
        self._response = response
        self._is_json = "json" in response.headers.get("content-type", "").lower()
        self._parser = EventParser()
        self.read_bytes = 0
        self.stream = stream

    async def read(self) -> bool:
        """Read what has arrived; False at the end."""
        if self._is_json:
            self.stream.accept(events.parse(await self._response.read_all()))
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
            self.stream.accept(events.parse(event))
        if found:
            self._response.got_event()
        return bool(data)


class _Whole:
    """A unary answer."""

    __slots__ = ("_payloads", "close")

    def __init__(self, body: bytes, response: Response) -> None:
        self._payloads = [body]
        self.close = response.close

    async def read(self) -> list[bytes]:
        payloads, self._payloads = self._payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        return b""


class _Streamed:
    """A streamed answer."""

    __slots__ = ("_context", "_failure", "_is_ended", "_source", "_writer", "close", "heartbeat")

    def __init__(self, response: Response, writer: Writer, context: RequestContext) -> None:
        self._source = _Source(response, ChoiceStream(writer))
        self._writer = writer
        self._context = context
        self._is_ended = False
        self._failure: ProxyError | None = None
        self.heartbeat = writer.heartbeat
        self.close = response.close

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
