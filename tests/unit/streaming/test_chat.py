"""Chat answers as clients receive them, in chunks and whole, byte for byte (contract A.2, A.3)."""

import json

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.unit.chunks import ENVELOPE, accumulate, call, check, chunk, feed
from tidegate.errors import ProxyError
from tidegate.streaming.chat import ChatAssembler, ChatWriter

STOP = chunk(finish="stop")
HEAD = b'{"id":"chatcmpl-own","object":"chat.completion.chunk","created":1700000000,"model":"public-name","choices":['
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def written(*chunks, wants_usage=False):
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    assert feed(writer, *chunks) is None
    payloads = writer.take()
    check(payloads, wants_usage=wants_usage)
    return payloads


def assembled(*chunks):
    assembler = ChatAssembler(ENVELOPE)
    assert feed(assembler, *chunks) is None
    return json.loads(assembler.to_json())


def message(*chunks):
    return assembled(*chunks)["choices"][0]["message"]


def deltas(payloads):
    return [choice["delta"] for payload in payloads for choice in json.loads(payload)["choices"]]


# --- in chunks ----------------------------------------------------------------------------------------------------


def test_a_stream_is_the_same_as_openais():
    assert written(chunk({"content": 'é"\n'}), STOP) == [
        HEAD
        + b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
        + b'"logprobs":null,"finish_reason":null}]}',
        HEAD + '{"index":0,"delta":{"content":"é\\"\\n"},"logprobs":null,"finish_reason":null}]}'.encode(),
        HEAD + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}',
    ]


def test_usage_has_a_chunk_of_its_own_if_requested():
    """Every earlier chunk has `"usage":null` (contract A.3, rule 5)."""
    payloads = written(chunk({"content": "a"}), STOP | {"usage": USAGE}, wants_usage=True)
    assert payloads[-1] == HEAD + b'],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    assert all(payload.endswith(b'],"usage":null}') for payload in payloads[:-1])


def test_usage_is_absent_if_not_requested():
    """Tidegate always requests usage from the host; the caller must not receive it."""
    assert all(b"usage" not in payload for payload in written(chunk({"content": "a"}, usage=USAGE), STOP))


def test_each_kind_of_text_has_its_field():
    payloads = written(chunk({"reasoning": "r"}), chunk({"content": "c"}), chunk({"refusal": "n"}), STOP)
    assert deltas(payloads)[1:] == [{"reasoning_content": "r"}, {"content": "c"}, {"refusal": "n"}, {}]


def test_tool_calls_have_id_type_and_name_once():
    payloads = written(
        chunk({"tool_calls": [call(0, "f", None, "call_1", type="function")]}),
        chunk({"tool_calls": [call(0, arguments='{"a":1}')]}),
        STOP,
    )
    assert deltas(payloads)[1:3] == [
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}},
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
    ]


def test_a_custom_tool_call_keeps_its_form():
    custom = {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    assert deltas(written(chunk({"tool_calls": [custom]}), STOP))[1] == {"tool_calls": [custom]}


def test_logprobs_are_sent_in_openais_form_with_their_text():
    legacy = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [None]}
    [_, second, _] = written(chunk({"content": "a"}, choice={"logprobs": legacy}), STOP)
    [choice] = json.loads(second)["choices"]
    assert choice == {
        "index": 0,
        "delta": {"content": "a"},
        "logprobs": {
            "content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}],
            "refusal": None,
        },
        "finish_reason": None,
    }


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_heartbeat_is_a_chunk_without_content(wants_usage):
    """It may be sent at any time after the opening chunk; the answer that a client assembles is the same."""
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    assert feed(writer, chunk({"content": "a"}), chunk({"tool_calls": [call(0, "f", "{}", "x")]}), STOP) is None
    first, *rest = writer.take()
    heartbeat = writer.heartbeat()
    assert json.loads(heartbeat)["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}]
    with_heartbeats = accumulate([first, *(payload for one in rest for payload in (heartbeat, one))])
    assert with_heartbeats.choices == accumulate([first, *rest]).choices


def test_payloads_are_taken_once():
    writer = ChatWriter(ENVELOPE, wants_usage=False)
    assert feed(writer, STOP) is None
    assert len(writer.take()) == 2
    assert writer.take() == []


def test_choices_that_begin_out_of_order_are_not_mixed():
    """llama.cpp begins with choice 1 (recorded); OpenAI's accumulator crashes on that."""
    completion = accumulate(
        written(chunk({"content": "b"}, index=1), chunk({"content": "a"}), STOP, chunk(index=1, finish="stop"))
    )
    assert [choice.message.content for choice in completion.choices] == ["a", "b"]


def test_annotations_in_several_deltas_reach_the_client():
    """They are sent in one list: OpenAI's accumulator joins lists by an `index`, which annotations do not have."""
    link = {"type": "url_citation", "url_citation": {"url": "about:blank"}}
    completion = accumulate(
        written(chunk({"annotations": [link], "content": "a"}), chunk({"annotations": [link]}), STOP)
    )
    assert len(completion.choices[0].message.annotations) == 2


# --- whole --------------------------------------------------------------------------------------------------------


def test_a_whole_answer_is_the_same_as_openais():
    answer = assembled(chunk({"content": "a"}), chunk({"content": "b"}), STOP | {"usage": USAGE})
    assert answer == {
        "id": "chatcmpl-own",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "public-name",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
    assert list(answer) == ["id", "object", "created", "model", "choices", "usage"]


def test_usage_that_the_host_did_not_send_is_absent():
    assert "usage" not in assembled(STOP)


@pytest.mark.parametrize(
    ("delta", "content"),
    [
        ({"content": "a"}, "a"),
        ({}, ""),
        ({"reasoning": "r"}, ""),
        ({"tool_calls": [call(0, "f")]}, None),
        ({"refusal": "no"}, None),
        ({"content": "a", "tool_calls": [call(0, "f")]}, "a"),
    ],
)
def test_content_is_null_if_there_are_only_tool_calls_or_a_refusal(delta, content):
    assert message(chunk(delta), STOP)["content"] == content


def test_reasoning_is_absent_if_there_was_none():
    assert message(chunk({"reasoning": "a"}), chunk({"reasoning": "b"}), STOP)["reasoning_content"] == "ab"
    assert "reasoning_content" not in message(STOP)


def test_tool_calls_are_put_together():
    found = message(
        chunk({"tool_calls": [call(0, "f", '{"a"', "x"), call(1, "g", "{}", "y")]}),
        chunk({"tool_calls": [call(0, arguments=":1}")]}),
        STOP,
    )
    assert found["tool_calls"] == [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_logprobs_are_put_together():
    def piece(token):
        return {"content": [{"token": token, "logprob": -1, "bytes": None, "top_logprobs": []}]}

    answer = assembled(
        chunk({"content": "a"}, choice={"logprobs": piece("a")}),
        chunk({"content": "b"}, choice={"logprobs": piece("b")}),
        chunk({}, choice={"logprobs": {"content": []}}),
        STOP,
    )
    assert [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]] == ["a", "b"]


def test_choices_come_in_their_order():
    answer = assembled(chunk({"content": "b"}, index=1), chunk({"content": "a"}), STOP, chunk(index=1, finish="length"))
    assert [(choice["message"]["content"], choice["finish_reason"]) for choice in answer["choices"]] == [
        ("a", "stop"),
        ("b", "length"),
    ]


def test_a_function_call_in_pieces_is_put_together():
    """Some hosts stream the deprecated form: first the name, then the arguments."""
    found = message(
        chunk({"function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"a"'}}),
        chunk({"function_call": {"arguments": ":1}"}}),
        chunk(finish="function_call"),
    )
    assert found["function_call"] == {"name": "f", "arguments": '{"a":1}'}


def test_a_custom_tool_call_in_pieces_is_put_together():
    found = message(
        chunk({"tool_calls": [{"index": 0, "id": "x", "custom": {"name": "run", "input": "l"}}]}),
        chunk({"tool_calls": [{"index": 0, "custom": {"input": "s"}}]}),
        STOP,
    )
    assert found["tool_calls"] == [{"id": "x", "type": "custom", "custom": {"name": "run", "input": "ls"}}]


# --- generated sequences of chunks --------------------------------------------------------------------------------

texts = st.sampled_from(["", "a", "é", '"\\', "\n", "<think>", "\u2028", None])
names = st.sampled_from(["f", "g", "", None])
argument_values = st.sampled_from(["", "{", "}", "{}", '{"a":1}', None, {"a": [1]}, []])
ids = st.sampled_from(["x", "y", "", None])
pieces = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 1, 2, 7, -1, None]),
        "id": ids,
        "type": st.sampled_from(["function", None]),
        "function": st.none() | st.fixed_dictionaries({}, optional={"name": names, "arguments": argument_values}),
        "custom": st.none(),
    },
)
some_deltas = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": texts,
        "reasoning": texts,
        "reasoning_content": texts,
        "refusal": texts,
        "tool_calls": st.none() | st.lists(pieces, max_size=3),
        "vendor": st.integers(),
    },
)
reasons = st.sampled_from(
    [None, None, None, "stop", "length", "tool_calls", "tool_use", "function_call", "SAFETY", "new", "", "abort"]
)
some_logprobs = st.none() | st.sampled_from(
    [{"content": [{"token": "a", "logprob": -1}]}, {"content": None}, {"tokens": ["a"], "token_logprobs": [-1]}]
)
usages = st.none() | st.fixed_dictionaries(
    {}, optional={"prompt_tokens": st.integers(0, 9), "completion_tokens": st.integers(0, 9), "x": st.none()}
)
some_choices = st.fixed_dictionaries(
    {"index": st.integers(0, 2)},
    optional={
        "delta": st.none() | some_deltas,
        "message": some_deltas,
        "finish_reason": reasons,
        "logprobs": some_logprobs,
    },
)
some_chunks = st.fixed_dictionaries(
    {}, optional={"choices": st.none() | st.lists(some_choices, max_size=3), "usage": usages}
)
endings = st.sampled_from([[], [chunk(index=index, finish="stop") for index in range(3)]])


@settings(max_examples=400)
@given(st.lists(some_chunks, max_size=8), endings, st.booleans())
@example(
    chunks=[chunk({"content": "b"}, index=1)],
    ending=[chunk(finish="stop"), chunk(index=1, finish="stop")],
    wants_usage=False,
)
def test_any_sequence_of_chunks_is_canonical_or_an_error(chunks, ending, wants_usage):
    """OpenAI's strict accumulator accepts the chunks, even if an error ended the stream."""
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    error = feed(writer, *chunks, *ending)
    payloads = writer.take()
    event("error" if error else "whole")
    assert error is None or isinstance(error, ProxyError)
    check(payloads, wants_usage=wants_usage, is_whole=error is None)
    if payloads:
        accumulate(payloads)


@settings(max_examples=200)
@given(st.lists(some_chunks, max_size=8))
def test_a_stream_and_a_whole_answer_hold_the_same(chunks):
    """What a client assembles from the chunks is equal to the whole answer."""
    ending = [chunk(index=index, finish="stop") for index in range(3)]
    writer, assembler = ChatWriter(ENVELOPE, wants_usage=True), ChatAssembler(ENVELOPE)
    # the accumulator requires that choices begin in order
    opening = [chunk(index=index) for index in range(3)]
    errors = [feed(sink, *opening, *chunks, *ending) for sink in (writer, assembler)]
    assert type(errors[0]) is type(errors[1])
    if errors[0] is not None:
        return
    streamed, answer = accumulate(writer.take()), json.loads(assembler.to_json())
    for one, other in zip(streamed.choices, answer["choices"], strict=True):
        assert one.finish_reason == other["finish_reason"]
        assert (one.message.content or "") == (other["message"]["content"] or "")
        assert (one.message.refusal or "") == (other["message"]["refusal"] or "")
        extra = one.message.model_extra or {}
        assert extra.get("reasoning_content") == other["message"].get("reasoning_content")
        calls = [(item.function.name, item.function.arguments) for item in one.message.tool_calls or []]
        other_calls = [
            (item["function"]["name"], item["function"]["arguments"]) for item in other["message"].get("tool_calls", [])
        ]
        assert calls == other_calls
        tokens = [entry.token for entry in (one.logprobs.content if one.logprobs else None) or []]
        assert tokens == [entry["token"] for entry in ((other["logprobs"] or {}).get("content") or [])]
    assert (streamed.usage is None) == ("usage" not in answer)
