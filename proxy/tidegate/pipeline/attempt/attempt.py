"""`Attempt`: one attempt at one target: translate the request, send it, and read up to the first content."""

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
from tidegate.pipeline.attempt.answers import (
    AttemptAnswer,
    ReplayedAnswer,
    StreamedAnswer,
    UnaryAnswer,
    nothing_to_close,
)
from tidegate.pipeline.attempt.interruptible_wait import InterruptibleWait
from tidegate.pipeline.attempt.source import Source, TurnMemory
from tidegate.pipeline.attempt.stream_continuation import StreamContinuation
from tidegate.pipeline.attempt.structured import Structured
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.pipeline.upstream import ReleaseSlot, Upstream, UpstreamResponse, release_nothing
from tidegate.protocol import embeddings
from tidegate.protocol.chat import MAX_ANSWER_BYTES
from tidegate.protocol.request import ModelRequest
from tidegate.reasoning_memory import ReasoningMemory
from tidegate.routing.targets import Target
from tidegate.streaming.chat import ChatAssembler
from tidegate.streaming.checks import check
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.filters import FunctionCallFilter, ReasoningRecorder, in_format
from tidegate.streaming.sinks import Sink
from tidegate.streaming.text_calls import TextCallReader
from tidegate.telemetry.redaction import mask

_MAX_ID = 128  # characters; a host may send an id of any length
_TOOLS = frozenset({"tools", "functions"})
_UNNAMED = (None, ANONYMOUS)  # principals that stand for no particular caller
_NO_REASONING: Mapping[str, str] = {}
_LOCAL_ONLY = "\0local_only"  # appended to the caller's name: reasoning of `local_only` requests is kept apart
_REPAIRED = {"response_format=emulated": "response_format=repaired"}


class Answer(Protocol):
    """The answer of a target, in the caller's form. The object that holds it must close it."""

    @property
    def record(self) -> AttemptRecord:
        """The record of its attempt."""

    async def read(self) -> list[bytes]:
        """Return the payloads that are ready, waiting for at least one; an empty list at the end.

        A payload is one JSON object; a unary answer is one payload.

        Raises:
            ProxyError: the upstream failed after the answer had begun.
        """

    def heartbeat(self) -> bytes:
        """Return a payload without content, to be sent to the caller when nothing was sent for long."""

    def close(self) -> None:
        """Give back all that the answer holds.

        The connection of an answer that has not ended is closed, which stops the upstream's work.
        """


class Attempt:
    """One attempt; `run` is called once.

    Args:
        record: the record that the attempt writes to.
        continuation: the object that the answer is written into, if another target may continue it or if it continues
            the answer of another target.
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

    async def run(self, *, can_wait: bool, may_leave: bool = False) -> AttemptAnswer:
        """Send the request and wait for the first content, or for the whole of a unary answer.

        Args:
            can_wait: whether to wait for an engine that has to be started first; for the last resort only.
            may_leave: whether the wait may be ended when the engine hangs; another target must be left to try.

        Raises:
            ProxyError: the attempt failed; `may_try_another_target` says whether another target may be tried.
        """
        engine_start_progress = self._context.engine_start_progress
        if engine_start_progress is None or self._upstream.snapshot is None or not can_wait:
            release = await self._upstream.acquire_slot(can_wait=can_wait)
        else:
            with engine_start_progress.waiting_for(self._upstream.snapshot):
                release = await self._upstream.acquire_slot(can_wait=True)
        try:
            interruptible_waits = self._upstream.interruptible_waits if may_leave else None
            answer = await (
                self._translate_and_run()
                if interruptible_waits is None
                else self._run_interruptible(interruptible_waits)
            )
        except BaseException as error:
            release()
            self._report_failure(error)
            raise
        if not isinstance(answer, StreamedAnswer):
            self._record.is_whole = True
        if release is not release_nothing:
            answer.close = _both(answer.close, partial(self._release, release))
        return answer

    def _release(self, release: ReleaseSlot) -> None:
        release()
        self._report_failure(self._record.failure)

    def _report_failure(self, failure: BaseException | None) -> None:
        """Report a failure to the engine, which may be dead."""
        if isinstance(failure, ProxyError) and self._upstream.report_failure is not None:
            self._upstream.report_failure(failure)

    async def _run_interruptible(self, interruptible_waits: set[Callable[[str], None]]) -> AttemptAnswer:
        wait = InterruptibleWait()
        interruptible_waits.add(wait)
        try:
            return await self._translate_and_run()
        except asyncio.CancelledError:
            if (error := wait.error()) is None:
                raise
            raise error from None
        finally:
            interruptible_waits.discard(wait)

    async def _translate_and_run(self) -> AttemptAnswer:
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

    async def _run_plain(self, host_request: HostRequest) -> AttemptAnswer:
        response = await self._send(host_request)
        try:
            return await self._read(response, host_request)
        except BaseException:
            response.close()
            raise

    async def _translate(self, request: ModelRequest) -> HostRequest:
        target, context = self._target, self._context
        dialect, past_reasoning = self._dialect_for(request), _NO_REASONING
        if request.endpoint == "chat" and dialect.restores_reasoning(target.card):
            past_reasoning = await self._recall(request)
        return dialect.build_request(
            request,
            model=target.model,
            is_stream=self._asks_for_stream,
            card=target.card,
            drops_params=context.drops_params,
            past_reasoning=past_reasoning,
            api_version=self._upstream.api_version,
            salt_caller="" if context.principal in _UNNAMED else context.caller,
        )

    def _dialect_for(self, request: ModelRequest) -> Dialect:
        """The host's dialect; it parses no tool calls if the engine was started without a tool-call parser."""
        upstream = self._upstream
        if upstream.snapshot is None or _TOOLS.isdisjoint(request.fields) or upstream.snapshot().parses_tool_calls:
            return upstream.dialect
        return structs.replace(upstream.dialect, parses_tool_calls=False)

    async def _recall(self, request: ModelRequest) -> Mapping[str, str]:
        """The remembered reasoning of the turns in the request, by id of the tool call.

        Reasoning of `local_only` requests is included for local targets only.
        """
        ids, caller = history.call_ids(request.fields), self._context.caller
        past_reasoning = await self._reasoning_memory.recall(caller, ids)
        if not self._target.is_local:
            return past_reasoning
        return {**past_reasoning, **await self._reasoning_memory.recall(caller + _LOCAL_ONLY, ids)}

    @property
    def _asks_for_stream(self) -> bool:
        """Whether a stream is requested from the host."""
        return self._request.is_stream or (self._upstream.always_streams and self._request.endpoint != "embeddings")

    async def _send(self, host_request: HostRequest) -> UpstreamResponse:
        """Send the request and return the response, if its status is 2xx.

        Raises:
            ProxyError: the status is another one, or there is no response.
        """
        transport = self._upstream.transport
        model = self._target.model
        response = await transport.post(
            host_request.path, host_request.body, is_stream=self._asks_for_stream, model=model
        )
        self._record.credential = credential = response.credential
        self._record.upstream_id = self._upstream_id_of(response)
        if 200 <= response.status < 300:
            credential.worked(model)
            return response
        try:
            received_s = self._context.clock.now_s()
            error_body = await response.read_error_body()
            error = failures.parse_error(
                response.status,
                response.headers,
                error_body,
                received_s=received_s,
                engine_endpoint=self._request.endpoint if self._target.is_local else None,
            )
            if isinstance(error, UpstreamRefusedUs):
                credential.refused(response.status, model)
            elif isinstance(error, UpstreamRateLimited) and error.is_stated and error.retry_after_s is not None:
                credential.limited(error.retry_after_s)
        finally:
            response.close()
        if host_request.text_calls is not None:
            emulated_tools.point_to_tools(error, host_request.text_calls)
        raise error

    def _upstream_id_of(self, response: UpstreamResponse) -> str:
        """The host's own id of the request, for the log; empty if the host sent none."""
        upstream_id = response.headers.get(self._upstream.dialect.id_header, "")
        return mask(upstream_id[:_MAX_ID], self._upstream.transport.secrets)

    async def _read(self, response: UpstreamResponse, host_request: HostRequest) -> AttemptAnswer:
        request, context = self._request, self._context
        if request.endpoint == "embeddings":
            return UnaryAnswer(await self._read_embeddings(response), response.close, self._record)
        if not request.is_stream:
            assembler = writers.assembler_for(request, context)
            await self._assemble(response, host_request, self._with_formatting(assembler, host_request))
            return UnaryAnswer(assembler.to_json(), response.close, self._record)
        if self._continuation is None:
            writer = writers.writer_for(request, context)
            sink = writers.after_preface(self._with_formatting(writer, host_request), writer, context)
        else:
            writer, sink = self._continuation.writer, self._continuation.splice
        streamed = StreamedAnswer(self._source(response, host_request, sink), writer, self._record, context)
        await streamed.begin(keeps_content=bool(request.prefix))
        return streamed

    async def _read_embeddings(self, response: UpstreamResponse) -> bytes:
        encoding_format = self._request.fields.get("encoding_format")
        encoding: embeddings.Encoding = (
            "base64" if encoding_format is not None and bytes(encoding_format) == b'"base64"' else "float"
        )
        body = await response.read_all()
        try:
            inputs = embeddings.count_inputs(self._request.fields.get("input"))
            rebuilt, self._record.usage = embeddings.rebuild(
                body, inputs=inputs, model=self._request.model, encoding=encoding
            )
        except UpstreamFailed:
            self._upstream.dialect.parse(body)  # an error object with status 200: raises its error
            raise
        return rebuilt

    async def _run_structured(self, host_request: HostRequest) -> AttemptAnswer:
        """Read a whole answer and validate it against its schema; if it does not fit, request it once more."""
        structured = Structured(self._request, host_request.schema)
        answer = await self._read_whole(host_request)
        if violations := structured.violations(answer):
            repair = await self._translate(structured.with_violations(answer, violations))
            second = await self._read_whole(repair)
            structured.check(second)
            structured.add_usage(answer, second)
            answer, self._record.usage = second, second.final_usage
            self._record.adjusted = [_REPAIRED.get(each, each) for each in host_request.adjusted]
        if not self._request.is_stream:
            assembler = writers.assembler_for(self._request, self._context)
            answer.replay(self._with_formatting(assembler, host_request))
            return UnaryAnswer(assembler.to_json(), nothing_to_close, self._record)
        writer = writers.writer_for(self._request, self._context)
        answer.replay(writers.after_preface(self._with_formatting(writer, host_request), writer, self._context))
        return ReplayedAnswer(writer, self._record)

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
                self._record.note_first_content(self._context.clock.monotonic_s())
            if source.read_bytes > MAX_ANSWER_BYTES:
                raise UpstreamFailed(f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")
        self._record.usage = await source.end()

    def _source(self, response: UpstreamResponse, host_request: HostRequest, sink: Sink) -> Source:
        record, recorder = self._record, None
        # if the answer is requested twice, the first one is checked
        if self._request.endpoint == "chat" and record.answer_check is None:
            record.answer_check = check(sink, self._request.fields)
            sink = record.answer_check or sink
        if host_request.answer_format.may_call or host_request.text_calls is not None:
            sink = recorder = ReasoningRecorder(sink)
        if host_request.text_calls is not None:
            sink = TextCallReader(sink, host_request.text_calls)
        stream = ChoiceStream(sink, host_request.answer_format)
        caller = self._context.caller + (_LOCAL_ONLY if self._context.reach == "local_only" else "")
        reasoning_memory = None if recorder is None else TurnMemory(recorder, self._reasoning_memory, caller)
        return Source(response, stream, self._upstream.dialect.parse, reasoning_memory)

    def _with_formatting(self, sink: Sink, host_request: HostRequest) -> Sink:
        if self._request.endpoint != "chat":
            return sink
        if host_request.uses_functions:
            sink = FunctionCallFilter(sink)
        return in_format(sink, self._context.reasoning_format)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def run_both() -> None:
        try:
            first()
        finally:
            second()

    return run_both
