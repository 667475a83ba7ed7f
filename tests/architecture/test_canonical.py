"""The reader that checks Tidegate's answers (tests/fakes/canonical.py) refuses all that breaks a rule of OpenAI's."""

import json

import pytest

from tests.fakes.canonical import read_answer, read_error, read_stream

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
DONE = "data: [DONE]\n\n"


def chunk(delta=None, finish=None, **fields) -> str:
    choice = {"index": 0, "delta": {} if delta is None else delta, "logprobs": None, "finish_reason": finish}
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(base | {'usage': None} | fields)}\n\n"


def call(index, **fields) -> str:
    return chunk({"tool_calls": [{"index": index} | fields]})


def first_of_call(index, call_id) -> str:
    return call(index, id=call_id, type="function", function={"name": "f", "arguments": ""})


ROLE = chunk({"role": "assistant", "content": "", "refusal": None})
TEXT = chunk({"content": "Hi"})
STOP = chunk(finish="stop")
LAST = chunk(choices=[], usage=USAGE)
ERROR = 'data: {"error": {"message": "boom", "type": "upstream_error", "param": null, "code": "upstream_failed"}}\n\n'


def read(text, names=("reasoning_content",)):
    return read_stream(text.encode(), "chat", "m", names, wants_usage=True)


def test_a_lawful_stream_is_told():
    thought = chunk({"reasoning_content": "Hm."})
    calls = first_of_call(0, "c1") + call(0, function={"arguments": "{}"}) + first_of_call(1, "c2")
    told = read(": keep-alive\n\n" + ROLE + thought + TEXT + TEXT + calls + chunk(finish="tool_calls") + LAST + DONE)
    (choice,) = told["choices"]
    assert told["usage"] == USAGE
    assert choice["content"] == "HiHi"
    assert choice["reasoning"] == "Hm."
    assert choice["finish"] == "tool_calls"
    assert choice["tool_calls"] == [
        {"name": "f", "arguments": "{}", "id": "c1"},
        {"name": "f", "arguments": "", "id": "c2"},
    ]


def test_an_error_in_band_ends_a_stream():
    told = read(ROLE + TEXT + ERROR + DONE)
    assert told["choices"] == [{"content": "Hi"}]
    assert told["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize(
    "text",
    {
        "no end": ROLE + TEXT + STOP,
        "no blank line at the end": (ROLE + TEXT + STOP + DONE)[:-1],
        "something after the end": ROLE + TEXT + STOP + DONE + TEXT,
        "an event name": ROLE + "event: ping\n" + TEXT + STOP + DONE,
        "CRLF": (ROLE + TEXT + STOP + DONE).replace("\n", "\r\n"),
        "no space": (ROLE + TEXT + STOP + DONE).replace("data: ", "data:"),
        "an unknown key": ROLE + chunk({"content": "Hi"}, provider="x") + STOP + DONE,
        "an unknown key of a choice": ROLE + TEXT.replace('"index"', '"token_ids": null, "index"') + STOP + DONE,
        "an unknown key of a delta": ROLE + chunk({"content": "Hi", "reasoning": "Hm."}) + STOP + DONE,
        "another id": ROLE + chunk({"content": "Hi"}, id="chatcmpl-2") + STOP + DONE,
        "another time": ROLE + chunk({"content": "Hi"}, created=2) + STOP + DONE,
        "another model": ROLE + chunk({"content": "Hi"}, model="there") + STOP + DONE,
        "no role": TEXT + STOP + DONE,
        "the role twice": ROLE + ROLE + TEXT + STOP + DONE,
        "null content": ROLE + chunk({"content": None}) + STOP + DONE,
        "an empty reasoning": ROLE + chunk({"reasoning_content": ""}) + STOP + DONE,
        "no finish": ROLE + TEXT + DONE,
        "two finishes": ROLE + TEXT + STOP + STOP + DONE,
        "text after the finish": ROLE + STOP + TEXT + DONE,
        "an unknown finish": ROLE + TEXT + chunk(finish="eos") + DONE,
        "usage too early": ROLE + chunk({"content": "Hi"}, usage=USAGE) + STOP + DONE,
        "usage twice": ROLE + TEXT + STOP + LAST + LAST + DONE,
        "no usage key": ROLE + TEXT.replace(', "usage": null', "") + STOP + DONE,
        "a call from 1": ROLE + first_of_call(1, "c1") + STOP + DONE,
        "the id of a call twice": ROLE + first_of_call(0, "c1") + first_of_call(0, "c1") + STOP + DONE,
        "one id for two calls": ROLE + first_of_call(0, "c1") + first_of_call(1, "c1") + STOP + DONE,
        "an empty id": ROLE + first_of_call(0, "") + STOP + DONE,
        "a call without arguments": ROLE + call(0, id="c", type="function", function={"name": "f"}) + STOP + DONE,
        "something after the error": ROLE + ERROR + TEXT + DONE,
        "a number for a code": ROLE + ERROR.replace('"upstream_failed"', "500") + DONE,
        "NaN": ROLE + TEXT.replace('"logprobs": null', '"logprobs": NaN') + STOP + DONE,
    }.values(),
)
def test_an_unlawful_stream_is_refused(text):
    with pytest.raises(AssertionError):
        read(text)


@pytest.mark.parametrize(
    "change",
    [
        {"object": "chat.completion.chunk"},
        {"model": "there"},
        {"id": "x"},
        {"created": 1.5},
        {"system_fingerprint": None},
        {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
    ],
)
def test_an_unlawful_answer_is_refused(change):
    message = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    assert read_answer(json.dumps(answer).encode(), "chat", "m", ()) == {
        "choices": [{"content": "Hi", "finish": "stop"}]
    }
    with pytest.raises(AssertionError):
        read_answer(json.dumps(answer | change).encode(), "chat", "m", ())


@pytest.mark.parametrize("body", ['{"error": "boom"}', '{"detail": "boom"}', '{"error": {"message": "boom"}}'])
def test_an_unlawful_error_is_refused(body):
    with pytest.raises((AssertionError, AttributeError)):
        read_error(body.encode())
