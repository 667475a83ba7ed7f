"""Who puts an answer into the caller's form: as chunks, or as one."""

import random

from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import Endpoint, ModelRequest
from tidegate.streaming.chat import ChatAssembler, ChatWriter
from tidegate.streaming.completions import CompletionAssembler, CompletionWriter
from tidegate.streaming.sinks import Assembler, Envelope, Sink, Writer

_ID_PREFIXES: dict[Endpoint, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}


def envelope_of(request: ModelRequest, context: RequestContext) -> Envelope:
    """The envelope of the preface, if the caller may have been shown progress; else a new one, with a new id."""
    if context.waiting is not None:
        return context.waiting.preface.envelope
    answer_id = f"{_ID_PREFIXES[request.endpoint]}{random.getrandbits(112):028x}"
    return Envelope(answer_id, context.created, request.model)


def writer_for(request: ModelRequest, context: RequestContext) -> Writer:
    """For a caller who streams."""
    envelope = envelope_of(request, context)
    if request.endpoint == "chat":
        return ChatWriter(envelope, wants_usage=request.wants_usage, form=context.reasoning_format)
    return CompletionWriter(envelope, wants_usage=request.wants_usage)


def after_preface(sink: Sink, writer: Writer, context: RequestContext) -> Sink:
    """`sink`, which leads to `writer`, continued after the preface, if there is one."""
    return sink if context.waiting is None else context.waiting.preface.sink_after(sink, writer)


def assembler_for(request: ModelRequest, context: RequestContext) -> Assembler:
    """For a caller who wants the whole."""
    envelope = envelope_of(request, context)
    if request.endpoint == "chat":
        return ChatAssembler(envelope, form=context.reasoning_format)
    return CompletionAssembler(envelope)
