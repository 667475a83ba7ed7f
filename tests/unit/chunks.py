"""Checks of a sequence of `chat.completion.chunk`: OpenAI's own accumulator, and the rules of the contract's A.3."""

import json
from collections.abc import Sequence

import msgspec
from openai._models import construct_type
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tidegate.dialects import events
from tidegate.errors import ProxyError
from tidegate.protocol.chat import HostAnswerFormat
from tidegate.protocol.sse import EventParser
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.sinks import Envelope

ENVELOPE = Envelope("chatcmpl-own", 1_700_000_000, "public-name")
REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
DELTA_KEYS = {
    *("content", "reasoning_content", "refusal", "tool_calls", "annotations", "audio", "function_call"),
    *("reasoning_details", "extra_content", "images"),
}
OPENING = {"role": "assistant", "content": "", "refusal": None}


def accumulate(payloads: Sequence[bytes]) -> ChatCompletion:
    """Return what `client.chat.completions.stream()` reads from the payloads; raise what it raises.

    `get_final_completion` raises on purpose if a limit cut the answer; then the last snapshot is returned.
    """
    state = ChatCompletionStreamState()
    for payload in payloads:
        state.handle_chunk(construct_type(type_=ChatCompletionChunk, value=json.loads(payload)))
    snapshot = state.current_completion_snapshot
    if any(choice.finish_reason in {"length", "content_filter", None} for choice in snapshot.choices):
        return snapshot
    return state.get_final_completion()


def check(payloads: Sequence[bytes], *, wants_usage: bool, is_whole: bool = True) -> None:
    """Check the contract's A.3, rule by rule; `is_whole` is False for a stream that an error ended."""
    chunks = [json.loads(payload) for payload in payloads]
    # msgspec is stricter than `json`: valid UTF-8, no NaN. Framing is correct only if there is no newline.
    for payload in payloads:
        msgspec.json.decode(payload)
        assert b"\n" not in payload
        assert b"\r" not in payload
    for chunk in chunks:
        assert (chunk["id"], chunk["created"], chunk["model"]) == ("chatcmpl-own", 1_700_000_000, "public-name")
        assert chunk["object"] == "chat.completion.chunk"
    _check_usage(chunks, wants_usage=wants_usage)
    indexes = {choice["index"] for chunk in chunks for choice in chunk["choices"]}
    for index in indexes:
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        _check_choice(own, is_whole=is_whole)


def _check_usage(chunks, *, wants_usage: bool) -> None:
    for position, chunk in enumerate(chunks):
        if not wants_usage:
            assert "usage" not in chunk
        elif chunk["usage"] is not None:
            assert position == len(chunks) - 1
            assert chunk["choices"] == []
        else:
            assert len(chunk["choices"]) == 1


def _check_choice(choices, *, is_whole: bool) -> None:
    assert choices[0]["delta"] == OPENING
    reasons = [choice["finish_reason"] for choice in choices]
    assert all(reason is None for reason in reasons[:-1])
    assert reasons[-1] in REASONS or (not is_whole and reasons[-1] is None)
    for choice in choices[1:]:
        delta = choice["delta"]
        assert set(choice) == {"index", "delta", "logprobs", "finish_reason"}
        assert set(delta) <= DELTA_KEYS
        assert None not in delta.values()
        assert len(delta) == 1 or (delta == {} and choice["finish_reason"] is not None)
        assert delta.get("reasoning_content") != ""
        assert delta.get("content") != "" or choice["logprobs"] is not None
    _check_tools([delta for choice in choices for delta in choice["delta"].get("tool_calls", [])])
    assert (reasons[-1] == "tool_calls") <= any("tool_calls" in choice["delta"] for choice in choices)


def _check_tools(deltas) -> None:
    begun = 0
    for delta in deltas:
        kind = "custom" if "custom" in delta else "function"
        if delta["index"] == begun:
            begun += 1
            assert set(delta) - {"extra_content"} == {"index", "id", "type", kind}
            assert isinstance(delta["id"], str)
            assert delta["id"]
            assert delta["type"] == kind
            if kind == "function":
                assert set(delta["function"]) == {"name", "arguments"}
        else:
            assert delta["index"] < begun
            assert set(delta) - {"extra_content"} == {"index", kind}
            if kind == "function":
                assert set(delta["function"]) == {"arguments"}
        if kind == "function":
            assert all(isinstance(value, str) for value in delta["function"].values())
    ids = [delta["id"] for delta in deltas if "id" in delta]
    assert len(ids) == len(set(ids))


PLAIN = HostAnswerFormat()


def feed(sink, *chunks, answer_format=PLAIN, parse=events.parse) -> ProxyError | None:
    """Send upstream chunks (as objects or as JSON bytes) to `sink`; return the error that ended it, or None."""
    stream = ChoiceStream(sink, answer_format)
    try:
        for chunk in chunks:
            stream.accept(parse(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()))
        stream.close()
    except ProxyError as error:
        return error
    return None


def feed_bytes(sink, body: bytes, *, answer_format=PLAIN, parse=events.parse) -> ProxyError | None:
    """Send an upstream's event stream to `sink`, as an attempt does."""
    parser = EventParser()
    payloads = parser.feed(body) + parser.close()
    if b"[DONE]" in payloads:
        payloads = payloads[: payloads.index(b"[DONE]")]
    return feed(sink, *payloads, answer_format=answer_format, parse=parse)


def chunk(delta=None, *, index=0, finish=None, **more):
    """Return an upstream's chunk with one choice."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish} | more.pop("choice", {})
    return {"id": "theirs", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | more


def call(index=None, name=None, arguments=None, call_id=None, **more):
    """Return an upstream's delta of a tool call; arguments that are None are left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    delta = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return delta | {"function": function} | more
