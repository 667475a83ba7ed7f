"""Meta's Llama API (contract B.11): its OpenAI-compatible endpoint, and its native one."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.dialects import answer_shapes, events, failures
from tidegate.dialects.base import ONLY_OPENAI, Dialect
from tidegate.dialects.request_draft import RequestDraft
from tidegate.dialects.thinking import put_no_switch
from tidegate.protocol.chat import Choice, Chunk, Delta, Function, ToolCall
from tidegate.protocol.lenient import TextPiece
from tidegate.protocol.raw import as_object, as_text

_UNSUPPORTED = (
    ONLY_OPENAI
    | {"chat_template_kwargs", "stop", "n", "presence_penalty", "frequency_penalty", "seed", "logit_bias"}
    | {"logprobs", "top_logprobs", "parallel_tool_calls"}
)


def _adjust(draft: RequestDraft) -> None:
    """Row 168: refuse `json_object`, as the API constrains an answer only by a schema."""
    if as_text(as_object(draft.fields.get("response_format")).get("type")) == "json_object":
        draft.drop_or_refuse("response_format")


class _Content(Struct, gc=False):
    text: TextPiece | None = None


class _NativeMessage(Struct, gc=False):
    content: TextPiece | _Content | None = None
    tool_calls: list[ToolCall] | None = None
    stop_reason: str | None = None


class _EventDelta(Struct, gc=False):
    """The delta of an event: a text, or a fragment of a tool call."""

    type: str | None = None
    text: TextPiece | None = None
    id: str | None = None
    function: Function | None = None


class _Event(Struct, gc=False):
    event_type: str | None = None
    delta: _EventDelta | None = None
    stop_reason: str | None = None
    metrics: list[dict[str, Any]] | None = None


class _Native(Struct, gc=False):
    completion_message: _NativeMessage | None = None
    event: _Event | None = None
    metrics: list[dict[str, Any]] | None = None
    stop_reason: str | None = None


_decode = msgspec.json.Decoder(_Native, strict=False).decode


def parse_native(data: bytes) -> Chunk:
    """Rows 165-167 and 169: read one answer, or one event of a stream, into a `Chunk`.

    Raises:
        ProxyError: the object is an error, or is neither an answer nor an event.
        UpstreamFailed: the data is not a JSON object.
    """
    events.check_size(data)
    try:
        native, was_read_leniently = _decode(data), False
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        native, was_read_leniently = events.read_leniently(data, _Native, _reshape), True
    if native.completion_message is not None:
        chunk = _from_message(native.completion_message, native)
    elif native.event is not None:
        chunk = _from_event(native.event)
    else:
        raise failures.parse_embedded(data)
    chunk.was_read_leniently = was_read_leniently
    return chunk


def _reshape(value: dict[str, Any]) -> None:
    message, event = value.get("completion_message"), value.get("event")
    if isinstance(message, dict):
        if isinstance(message.get("content"), list):
            message["content"] = answer_shapes.text_in(message["content"])
        for call in message.get("tool_calls") or ():
            if isinstance(call, dict):
                answer_shapes.reshape_call(call)
    if isinstance(event, dict) and isinstance(event.get("delta"), dict):
        answer_shapes.reshape_call(event["delta"])


def _from_message(message: _NativeMessage, native: _Native) -> Chunk:
    content = message.content.text if isinstance(message.content, _Content) else message.content
    choice = Choice(
        message=Delta(content=content, tool_calls=message.tool_calls),
        finish_reason=message.stop_reason or native.stop_reason or "stop",
    )
    return Chunk(choices=[choice], usage=_usage(native.metrics))


def _from_event(event: _Event) -> Chunk:
    event_delta, usage = event.delta, _usage(event.metrics)
    if event.event_type == "metrics":
        return Chunk(choices=[], usage=usage)
    delta = Delta()
    if event_delta is not None and event_delta.type == "tool_call":
        delta.tool_calls = [ToolCall(id=event_delta.id, function=event_delta.function)]
    elif event_delta is not None:
        delta.content = event_delta.text
    return Chunk(choices=[Choice(delta=delta, finish_reason=event.stop_reason)], usage=usage)


def _usage(metrics: list[Mapping[str, Any]] | list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """Return the metrics, a list of `{"metric": "num_prompt_tokens", "value": 9, "unit": "tokens"}`, as one mapping."""
    if not metrics:
        return None
    return {str(item["metric"]): item.get("value") for item in metrics if "metric" in item}


COMPAT = Dialect(
    name="meta_llama",
    unsupported_fields=_UNSUPPORTED,
    max_tokens="max_completion_tokens",
    put_thinking=put_no_switch,  # Meta's models do not think
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    adjust=_adjust,
)
NATIVE = Dialect(
    name="meta_llama_native",
    paths={"chat": "/chat/completions"},
    unsupported_fields=_UNSUPPORTED,
    max_tokens="max_completion_tokens",
    put_thinking=put_no_switch,  # Meta's models do not think
    takes_stream_options=False,
    first_byte_timeout_s=60.0,
    keepalive_s=30.0,
    adjust=_adjust,
    parse=parse_native,
)
