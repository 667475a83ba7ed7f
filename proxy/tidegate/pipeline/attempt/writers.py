"""Makes the sinks that put an answer into the caller's form: a writer of chunks, or an assembler of one object."""

import random

from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import Endpoint, ModelRequest
from tidegate.streaming.chat import ChatAssembler, ChatWriter
from tidegate.streaming.completions import CompletionAssembler, CompletionWriter
from tidegate.streaming.sinks import Assembler, Envelope, Sink, Writer

_ID_PREFIXES: dict[Endpoint, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}


def envelope_of(request: ModelRequest, context: RequestContext) -> Envelope:
    """The envelope of the answer: that of the `ReasoningPreface`, if there is one; else a new one with a new id."""
    if context.engine_start_progress is not None:
        return context.engine_start_progress.preface.envelope
    answer_id = f"{_ID_PREFIXES[request.endpoint]}{random.getrandbits(112):028x}"
    return Envelope(answer_id, context.created, request.model)


def writer_for(request: ModelRequest, context: RequestContext) -> Writer:
    """The writer for a streamed answer."""
    envelope = envelope_of(request, context)
    if request.endpoint == "chat":
        return ChatWriter(envelope, wants_usage=request.wants_usage, form=context.reasoning_format)
    return CompletionWriter(envelope, wants_usage=request.wants_usage)


def after_preface(sink: Sink, writer: Writer, context: RequestContext) -> Sink:
    """`sink`, with a filter for the preface in front if there is one; `writer` is the last sink behind `sink`."""
    return (
        sink
        if context.engine_start_progress is None
        else context.engine_start_progress.preface.sink_after(sink, writer)
    )


def assembler_for(request: ModelRequest, context: RequestContext) -> Assembler:
    """The assembler for a unary answer."""
    envelope = envelope_of(request, context)
    if request.endpoint == "chat":
        return ChatAssembler(envelope, form=context.reasoning_format)
    return CompletionAssembler(envelope)
