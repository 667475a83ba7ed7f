"""Legacy completions, in chunks and whole (contract A.8)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.types import Completion

from tests.unit.chunks import ENVELOPE, feed
from tidegate.errors import ProxyError
from tidegate.streaming.completions import CompletionAssembler, CompletionWriter

HEAD = b'{"id":"chatcmpl-own","object":"text_completion","created":1700000000,"model":"public-name","choices":['
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def text(words="", *, index=0, finish=None, **more):
    choice = {"index": index, "text": words, "logprobs": more.pop("logprobs", None), "finish_reason": finish}
    return {"object": "text_completion", "choices": [choice]} | more


def written(*chunks, wants_usage=False):
    writer = CompletionWriter(ENVELOPE, wants_usage=wants_usage)
    assert feed(writer, *chunks) is None
    return writer.take()


def assembled(*chunks):
    assembler = CompletionAssembler(ENVELOPE)
    assert feed(assembler, *chunks) is None
    return json.loads(assembler.to_json())


def test_a_stream_has_text_then_a_finish_reason():
    """There is no opening chunk, and the finish chunk has no text, even if the host's has."""
    assert written(text("a"), text("b", finish="length")) == [
        HEAD + b'{"index":0,"text":"a","logprobs":null,"finish_reason":null}]}',
        HEAD + b'{"index":0,"text":"b","logprobs":null,"finish_reason":null}]}',
        HEAD + b'{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}',
    ]


def test_usage_has_a_chunk_of_its_own_if_requested():
    payloads = written(text("a", finish="stop", usage=USAGE), wants_usage=True)
    assert payloads[-1] == HEAD + b'],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    assert all(payload.endswith(b'],"usage":null}') for payload in payloads[:-1])
    assert all(b"usage" not in payload for payload in written(text("a", finish="stop", usage=USAGE)))


def test_a_whole_answer_is_the_same_as_openais():
    assert assembled(text("a"), text("b"), text(finish="stop", usage=USAGE)) == {
        "id": "chatcmpl-own",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "public-name",
        "choices": [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def test_several_prompts_have_several_choices_in_order():
    answer = assembled(text("b", index=1, finish="stop"), text("a", finish="length"))
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [
        (0, "a", "length"),
        (1, "b", "stop"),
    ]


def test_each_of_many_prompts_has_a_choice():
    """The number of prompts is limited only by the size of the body; each prompt has `n` choices."""
    answer = assembled({"choices": [text("a", index=index, finish="stop")["choices"][0] for index in range(300)]})
    assert [choice["index"] for choice in answer["choices"]] == list(range(300))


LEGACY = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}], "text_offset": [0]}


def test_legacy_logprobs_stay_what_they_are():
    """It is the endpoint's own form. In a whole answer the lists of all chunks are joined."""
    assert json.loads(written(text("a", logprobs=LEGACY), text(finish="stop"))[0])["choices"][0]["logprobs"] == LEGACY
    more = {"tokens": ["b"], "token_logprobs": [-1], "top_logprobs": [None], "text_offset": [1]}
    assert assembled(text("a", logprobs=LEGACY), text("b", logprobs=more), text(finish="stop"))["choices"][0][
        "logprobs"
    ] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -1],
        "top_logprobs": [{"a": -0.5}, None],
        "text_offset": [0, 1],
    }


@pytest.mark.parametrize("is_stream", [True, False])
def test_chat_logprobs_become_legacy_ones(is_stream):
    """llama.cpp sends the chat form here (recorded); A.8 requires `tokens` and `token_logprobs`."""
    tops = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -2, "bytes": [98]}]
    chat = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": tops}]}
    chunks = [text("a", logprobs=chat), text(finish="stop")]
    answer = json.loads(written(*chunks)[0]) if is_stream else assembled(*chunks)
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a"]
    assert logprobs["token_logprobs"] == [-0.5]
    assert logprobs["top_logprobs"] == [{"a": -0.5, "b": -2}]
    assert "content" not in logprobs


@pytest.mark.parametrize("is_stream", [True, False])
def test_offsets_of_chat_logprobs_are_counted_for_each_choice(is_stream):
    """The chat form has no offsets."""

    def piece(words, index):
        logprobs = {"content": [{"token": word, "logprob": -1.0, "bytes": None, "top_logprobs": []} for word in words]}
        return text("".join(words), index=index, logprobs=logprobs)

    chunks = [piece(["Hi", "!"], 0), piece(["Well"], 1), piece([" You"], 0), piece([","], 1)]
    chunks += [text(index=0, finish="stop"), text(index=1, finish="stop")]
    answers = [json.loads(payload) for payload in written(*chunks)] if is_stream else [assembled(*chunks)]
    offsets = {0: [], 1: []}
    for choice in (choice for answer in answers for choice in answer["choices"] if choice["logprobs"]):
        offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert offsets == {0: [0, 2, 3], 1: [0, 4]}


def test_a_heartbeat_is_a_chunk_without_content():
    heartbeat = CompletionWriter(ENVELOPE, wants_usage=False).heartbeat()
    assert json.loads(heartbeat)["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]


def test_reasoning_tools_and_refusals_are_dropped():
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    delta = {"reasoning": "r", "refusal": "n", "tool_calls": [call], "annotations": [1], "content": "a"}
    payloads = written({"choices": [{"index": 0, "delta": delta, "finish_reason": "length"}]})
    assert [json.loads(payload)["choices"][0]["text"] for payload in payloads] == ["a", ""]


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner, max_size=2),
)
some_choices = st.fixed_dictionaries(
    {"index": st.integers(0, 2)},
    optional={
        "text": st.none() | st.text(max_size=3),
        "logprobs": st.none() | st.dictionaries(st.sampled_from(["tokens", "content", "text_offset"]), json_values),
        "finish_reason": st.sampled_from([None, "stop", "length", "tool_calls", "SAFETY", "abort"]),
    },
)
some_chunks = st.fixed_dictionaries(
    {"choices": st.lists(some_choices, max_size=3)}, optional={"usage": st.none() | st.just(USAGE)}
)


@given(st.lists(some_chunks, max_size=6), st.booleans())
def test_any_sequence_of_chunks_is_canonical_or_an_error(chunks, wants_usage):
    """Each choice has one finish reason, of the three that the endpoint has; usage is last, if requested."""
    ending = [text(index=index, finish="stop") for index in range(3)]
    writer = CompletionWriter(ENVELOPE, wants_usage=wants_usage)
    error = feed(writer, *chunks, *ending)
    assert error is None or isinstance(error, ProxyError)
    payloads = [json.loads(payload) for payload in writer.take()]
    for payload in payloads:
        construct_type(type_=Completion, value=payload)
        assert ("usage" in payload) == wants_usage
        assert payload["choices"] or payload is payloads[-1]
    if error is None:
        reasons = [choice["finish_reason"] for payload in payloads for choice in payload["choices"]]
        assert len([reason for reason in reasons if reason]) == 3
        assert set(reasons) <= {None, "stop", "length", "content_filter"}


@given(st.lists(some_chunks, max_size=6))
def test_any_sequence_of_chunks_is_assembled_or_an_error(chunks):
    ending = [text(index=index, finish="stop") for index in range(3)]
    assembler = CompletionAssembler(ENVELOPE)
    error = feed(assembler, *chunks, *ending)
    assert error is None or isinstance(error, ProxyError)
    if error is None:
        assert len(json.loads(assembler.to_json())["choices"]) == 3
