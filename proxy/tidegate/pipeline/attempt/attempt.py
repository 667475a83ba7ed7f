"""One try at one target: translate, send, read. Its `Answer` is good from the first content on."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from msgspec import structs

from tidegate.auth import ANONYMOUS
from tidegate.dialects import emulated_tools, failures, history
from tidegate.dialects.base import Dialect, HostRequest
from tidegate.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamRateLimited, UpstreamRefusedUs
from tidegate.pipeline.attempt import writers
from tidegate.pipeline.attempt.answers import Closable, Replayed, Streamed, Whole, no_connection
from tidegate.pipeline.attempt.movable_wait import MovableWait
from tidegate.pipeline.attempt.source import Source, TurnMemory
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.attempt.structured import Structured
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.upstream import Leave, Upstream, UpstreamResponse, nothing_to_leave
from tidegate.protocol import embeddings
from tidegate.protocol.chat import MAX_ANSWER_BYTES
from tidegate.protocol.request import ModelRequest
from tidegate.reasoning_memory import ReasoningMemory
from tidegate.routing.targets import Target
from tidegate.streaming.chat import ChatAssembler
from tidegate.streaming.checks import check
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.filters import AsFunctionCall, Remembering, in_format
from tidegate.streaming.sinks import Sink
from tidegate.streaming.text_calls import TextCallReader
from tidegate.telemetry.redaction import mask

_MAX_ID = 128  # a host may say anything
_TOOLS = frozenset({"tools", "functions"})
_NOBODY = (None, ANONYMOUS)
_NOTHING: Mapping[str, str] = {}
_IN_HOUSE = "\0local_only"  # behind the caller's name: what was thought of requests that may not leave
_REPAIRED = {"response_format=emulated": "response_format=repaired"}


class Answer(Protocol):
    """What a target answers, in canonical form. Whoever holds it closes it."""

    @property
    def record(self) -> AttemptRecord:
        """The record of its attempt."""

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
    """One try; `run` is called once.

    Args:
        tried: where it notes what it finds.
        joint: what the answer is told into, where it may go on elsewhere, or goes on with another.
    """

    __slots__ = ("_context", "_continuation", "_reasoning_memory", "_record", "_request", "_target", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        target: Target,
        request: ModelRequest,
        *,
        record: AttemptRecord,
        context: RequestContext,
        reasoning_memory: ReasoningMemory,
        continuation: StreamContinuation | None = None,
    ) -> None:
        self._upstream = upstream
        self._target = target
        self._request = request
        self._record = record
        self._context = context
        self._reasoning_memory = reasoning_memory
        self._continuation = continuation

    async def run(self, *, can_wait: bool, can_move: bool = False) -> Closable:
        """Send the request and wait for the first content (for the whole of a unary answer).

        Args:
            can_wait: whether to wait for an engine that has to be started first, as nobody else is left to try.
            can_move: whether the wait may be ended when the engine hangs, as another target is left to try.

        Raises:
            ProxyError: it came to nothing; whether another target may be tried is the error's to say.
        """
        waiting = self._context.waiting
        if waiting is None or self._upstream.look is None or not can_wait:
            leave = await self._upstream.enter(can_wait=can_wait)
        else:
            with waiting.at(self._upstream.look):
                leave = await self._upstream.enter(can_wait=True)
        try:
            movable = self._upstream.movable if can_move else None
            answer = await (self._run() if movable is None else self._run_movable(movable))
        except BaseException as error:
            leave()
            self._report_failure(error)
            raise
        if not isinstance(answer, Streamed):
            self._record.is_whole = True
        if leave is not nothing_to_leave:
            answer.close = _in_turn(answer.close, partial(self._leave, leave))
        return answer

    def _leave(self, leave: Leave) -> None:
        leave()
        self._report_failure(self._record.failure)

    def _report_failure(self, failure: BaseException | None) -> None:
        """Report a failure to the engine, which may be dead."""
        if isinstance(failure, ProxyError) and self._upstream.doubt is not None:
            self._upstream.doubt(failure)

    async def _run_movable(self, movable: set[Callable[[str], None]]) -> Closable:
        move = MovableWait()
        movable.add(move)
        try:
            return await self._run()
        except asyncio.CancelledError:
            if (error := move.error()) is None:
                raise
            raise error from None
        finally:
            movable.discard(move)

    async def _run(self) -> Closable:
        host_request = await self._translate(self._request)
        self._record.adjusted = host_request.adjusted
        self._record.sent_s = self._context.clock.monotonic_s()
        try:
            if host_request.schema is not None:
                return await self._run_structured(host_request)
            return await self._run_plain(host_request)
        except StreamBroken as error:
            # nothing has left for the caller, so this is a failed attempt like any other
            raise UpstreamFailed(error.message, code=error.code) from error

    async def _run_plain(self, host_request: HostRequest) -> Closable:
        response = await self._send(host_request)
        try:
            return await self._read(response, host_request)
        except BaseException:
            response.close()
            raise

    async def _translate(self, request: ModelRequest) -> HostRequest:
        target, context = self._target, self._context
        dialect, remembered = self._dialect(request), _NOTHING
        if request.endpoint == "chat" and dialect.remembers(target.card):
            remembered = await self._recall(request)
        return dialect.build_request(
            request,
            model=target.model,
            is_stream=self._is_stream,
            card=target.card,
            drops_params=context.drops_params,
            remembered=remembered,
            api_version=self._upstream.api_version,
            tenant="" if context.principal in _NOBODY else context.caller,
        )

    def _dialect(self, request: ModelRequest) -> Dialect:
        """The host's dialect; without tools, where the engine was started without a tool-call parser."""
        upstream = self._upstream
        if upstream.look is None or _TOOLS.isdisjoint(request.fields) or upstream.look().calls_tools:
            return upstream.dialect
        return structs.replace(upstream.dialect, calls_tools=False)

    async def _recall(self, request: ModelRequest) -> Mapping[str, str]:
        """What was thought in the turns of the request, as far as the target may know it."""
        ids, caller = history.call_ids(request.fields), self._context.caller
        remembered = await self._reasoning_memory.recall(caller, ids)
        if not self._target.is_local:
            return remembered
        return {**remembered, **await self._reasoning_memory.recall(caller + _IN_HOUSE, ids)}

    @property
    def _is_stream(self) -> bool:
        """Whether the host is asked for a stream."""
        return self._request.is_stream or (self._upstream.always_streams and self._request.endpoint != "embeddings")

    async def _send(self, host_request: HostRequest) -> UpstreamResponse:
        """The answer, whose head says that it is one.

        Raises:
            ProxyError: it says something else.
        """
        transport = self._upstream.transport
        model = self._target.model
        response = await transport.post(host_request.path, host_request.body, is_stream=self._is_stream, model=model)
        self._record.credential = credential = response.credential
        self._record.upstream_id = self._id_in(response)
        if 200 <= response.status < 300:
            credential.worked(model)
            return response
        try:
            received_s = self._context.clock.now_s()
            said = await response.read_complaint()
            error = failures.parse_error(
                response.status,
                response.headers,
                said,
                received_s=received_s,
                engine_endpoint=self._request.endpoint if self._target.is_local else None,
            )
            if isinstance(error, UpstreamRefusedUs):
                credential.refused(response.status, model)
            elif isinstance(error, UpstreamRateLimited) and error.is_told and error.retry_after_s is not None:
                credential.limited(error.retry_after_s)
        finally:
            response.close()
        if host_request.text_calls is not None:
            emulated_tools.point_to_tools(error, host_request.text_calls)
        raise error

    def _id_in(self, response: UpstreamResponse) -> str:
        """The host's own id of the request, for the log."""
        told = response.headers.get(self._upstream.dialect.id_header, "")
        return mask(told[:_MAX_ID], self._upstream.transport.secrets)

    async def _read(self, response: UpstreamResponse, host_request: HostRequest) -> Closable:
        request, context = self._request, self._context
        if request.endpoint == "embeddings":
            return Whole(await self._read_embeddings(response), response.close, self._record)
        if not request.is_stream:
            assembler = writers.assembler_for(request, context)
            await self._assemble(response, host_request, self._formatted(assembler, host_request))
            return Whole(assembler.to_json(), response.close, self._record)
        if self._continuation is None:
            writer = writers.writer_for(request, context)
            sink = writers.after_preface(self._formatted(writer, host_request), writer, context)
        else:
            writer, sink = self._continuation.writer, self._continuation.splice
        streamed = Streamed(self._source(response, host_request, sink), writer, self._record, context)
        await streamed.begin(keeps_content=bool(request.prefix))
        return streamed

    async def _read_embeddings(self, response: UpstreamResponse) -> bytes:
        wanted = self._request.fields.get("encoding_format")
        encoding: embeddings.Encoding = "base64" if wanted is not None and bytes(wanted) == b'"base64"' else "float"
        body = await response.read_all()
        try:
            inputs = embeddings.count_inputs(self._request.fields.get("input"))
            told, self._record.usage = embeddings.rebuild(
                body, inputs=inputs, model=self._request.model, encoding=encoding
            )
        except UpstreamFailed:
            self._upstream.dialect.parse(body)  # an error object says itself what went wrong
            raise
        return told

    async def _run_structured(self, host_request: HostRequest) -> Closable:
        """An answer that the host cannot hold to its schema: read whole, validated, asked for once more if need be."""
        structured = Structured(self._request, host_request.schema)
        first = await self._read_whole(host_request)
        if complaints := structured.complaints(first):
            again = await self._translate(structured.with_complaints(first, complaints))
            second = await self._read_whole(again)
            structured.check(second)
            structured.add_usage(first, second)
            first, self._record.usage = second, second.told_usage
            self._record.adjusted = [_REPAIRED.get(said, said) for said in host_request.adjusted]
        if not self._request.is_stream:
            assembler = writers.assembler_for(self._request, self._context)
            first.replay(self._formatted(assembler, host_request))
            return Whole(assembler.to_json(), no_connection, self._record)
        writer = writers.writer_for(self._request, self._context)
        first.replay(writers.after_preface(self._formatted(writer, host_request), writer, self._context))
        return Replayed(writer, self._record)

    async def _read_whole(self, host_request: HostRequest) -> ChatAssembler:
        response = await self._send(host_request)
        try:
            assembler = ChatAssembler(writers.envelope_of(self._request, self._context))
            await self._assemble(response, host_request, assembler)
        finally:
            response.close()
        return assembler

    async def _assemble(self, response: UpstreamResponse, host_request: HostRequest, sink: Sink) -> None:
        source = self._source(response, host_request, sink)
        while await source.read():
            if not self._record.first_content_s and source.stream.has_content:
                self._record.got_content(self._context.clock.monotonic_s())
            if source.read_bytes > MAX_ANSWER_BYTES:
                raise UpstreamFailed(f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")
        self._record.usage = await source.end()

    def _source(self, response: UpstreamResponse, host_request: HostRequest, sink: Sink) -> Source:
        record, remembering = self._record, None
        if self._request.endpoint == "chat" and record.checking is None:  # of two readings the first is what it can do
            record.checking = check(sink, self._request.fields)
            sink = record.checking or sink
        if host_request.reading.may_call or host_request.text_calls is not None:
            sink = remembering = Remembering(sink)
        if host_request.text_calls is not None:
            sink = TextCallReader(sink, host_request.text_calls)
        stream = ChoiceStream(sink, host_request.reading)
        caller = self._context.caller + (_IN_HOUSE if self._context.reach == "local_only" else "")
        reasoning_memory = None if remembering is None else TurnMemory(remembering, self._reasoning_memory, caller)
        return Source(response, stream, self._upstream.dialect.parse, reasoning_memory)

    def _formatted(self, sink: Sink, host_request: HostRequest) -> Sink:
        if self._request.endpoint != "chat":
            return sink
        if host_request.asks_functions:
            sink = AsFunctionCall(sink)
        return in_format(sink, self._context.reasoning_format)


def _in_turn(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        try:
            first()
        finally:
            second()

    return both
