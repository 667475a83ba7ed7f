"""`/v1/chat/completions`: a body is checked as OpenAI does (contract A.1)."""

import json

import pytest

from tidegate.errors import MalformedRequest
from tidegate.protocol.chat import parse_request

USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f"}
TOOL = {"type": "function", "function": FUNCTION}


def parse(**fields):
    return parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())


def refusal(**fields):
    with pytest.raises(MalformedRequest) as caught:
        parse(**fields)
    return caught.value


def test_the_smallest_request_is_accepted():
    request = parse()
    assert (request.endpoint, request.model) == ("chat", "m")
    assert (request.is_stream, request.wants_usage) == (False, False)
    assert {name: bytes(value) for name, value in request.fields.items()} == {
        "model": b'"m"',
        "messages": b'[{"role": "user", "content": "hi"}]',
    }


def test_fields_keep_their_bytes():
    """Numbers keep their digits, and text keeps its escapes; of a repeated key, the last one counts."""
    body = b'{"model":"a","messages":[{"role":"user","content":"\\u00e9"}],"seed":1,"model":"b","x":1.50}'
    request = parse_request(body)
    assert request.model == "b"
    assert bytes(request.fields["model"]) == b'"b"'
    assert bytes(request.fields["x"]) == b"1.50"
    assert bytes(request.fields["messages"]) == b'[{"role":"user","content":"\\u00e9"}]'


@pytest.mark.parametrize(
    ("fields", "is_stream", "wants_usage"),
    [
        ({"stream": True}, True, False),
        ({"stream": False}, False, False),
        ({"stream": None}, False, False),
        ({"stream": True, "stream_options": None}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": True}}, True, False),
    ],
)
def test_stream_and_usage_are_read(fields, is_stream, wants_usage):
    request = parse(**fields)
    assert (request.is_stream, request.wants_usage) == (is_stream, wants_usage)


@pytest.mark.parametrize(
    "fields",
    [
        # the Python SDK sends null for an explicit None
        dict.fromkeys(["temperature", "stop", "tools", "n", "seed", "logprobs", "max_tokens", "logit_bias"]),
        {"temperature": 0, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2.0, "n": 128},
        {"temperature": 2, "top_p": 0, "max_tokens": 1, "max_completion_tokens": 10**6},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": True, "top_logprobs": 0},
        {"stop": "END"},
        {"stop": ["a", "b", "c", "d"]},
        {"stop": []},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [], "tool_choice": "none"},
        {"tool_choice": "auto"},
        {"tool_choice": {"type": "auto"}},
        {"tool_choice": {"type": "none"}, "tools": []},
        {"functions": [FUNCTION], "function_call": "none"},
        {"functions": [FUNCTION], "function_call": {"name": "f"}, "tools": []},
        {"functions": [], "function_call": "auto", "tools": [TOOL], "tool_choice": "required"},
        {"functions": None, "function_call": None},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        {"logit_bias": {"50256": -100}},
        {"reasoning_effort": "xhigh"},
        {"metadata": {"a": "b"}, "store": True, "modalities": ["text"], "unknown": [1, {"a": None}]},
        {"model": "deepseek-ai/DeepSeek V3:free"},
    ],
)
def test_what_openai_accepts_is_accepted(fields):
    assert set(fields) <= set(parse(**fields).fields)


@pytest.mark.parametrize(
    "message",
    [
        USER,
        {"role": "system", "content": "be brief", "name": "x"},
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "yes"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": None, "audio": {"id": "a"}},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
        {"role": "tool", "content": "22", "tool_call_id": "1"},
        {"role": "function", "content": "22", "name": "f"},
        {"role": "function", "content": None, "name": "f"},
    ],
)
def test_every_kind_of_message_is_accepted(message):
    assert parse(messages=[USER, message]).model == "m"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({}, "messages[1].role", "missing_required_parameter"),
        ({"role": "bogus", "content": "a"}, "messages[1].role", "invalid_value"),
        ({"role": 5, "content": "a"}, "messages[1].role", "invalid_type"),
        ({"role": None, "content": "a"}, "messages[1].role", "invalid_type"),
        ({"role": "user"}, "messages[1].content", "missing_required_parameter"),
        ({"role": "user", "content": None}, "messages[1].content", "invalid_type"),
        ({"role": "user", "content": 5}, "messages[1].content", "invalid_type"),
        ({"role": "user", "content": True}, "messages[1].content", "invalid_type"),
        ({"role": "user", "content": {"type": "text"}}, "messages[1].content", "invalid_type"),
        ({"role": "user", "content": None, "tool_calls": [1]}, "messages[1].content", "invalid_type"),
        ({"role": "function", "name": "f"}, "messages[1].content", "missing_required_parameter"),
        ({"role": "assistant"}, "messages[1].content", "missing_required_parameter"),
        ({"role": "assistant", "content": None}, "messages[1].content", "invalid_type"),
        ({"role": "assistant", "content": None, "tool_calls": None}, "messages[1].content", "invalid_type"),
        ({"role": "assistant", "content": {}, "tool_calls": [1]}, "messages[1].content", "invalid_type"),
        ({"role": "tool", "content": "a"}, "messages[1].tool_call_id", "missing_required_parameter"),
        ({"role": "tool", "content": "a", "tool_call_id": None}, "messages[1].tool_call_id", None),
        ({"role": "tool", "content": "a", "tool_call_id": 7}, "messages[1].tool_call_id", "invalid_type"),
        ("text", "messages[1]", "invalid_type"),
    ],
)
def test_a_bad_message_is_named_by_its_position(message, param, code):
    """Some hosts would accept these messages and guess what is meant (contract 76c)."""
    error = refusal(messages=[USER, message])
    assert error.param == param
    assert error.code == (code or "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "invalid_type"),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": ""}, "model", "empty_string"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"stream": "true"}, "stream", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
        ({"presence_penalty": -3}, "presence_penalty", "decimal_below_min_value"),
        ({"frequency_penalty": 3}, "frequency_penalty", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "integer_below_min_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"seed": "x"}, "seed", "invalid_type"),
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": ["f"]}, "tools[0]", "invalid_type"),
        ({"tool_choice": 5, "tools": [TOOL]}, "tool_choice", "invalid_type"),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": "required", "tools": []}, "tool_choice", None),
        ({"tool_choice": {"type": "function"}}, "tool_choice", None),
        ({"tool_choice": {"type": "any"}}, "tool_choice", None),
        ({"tool_choice": {}}, "tool_choice", None),
        ({"functions": {}}, "functions", "invalid_type"),
        ({"functions": [FUNCTION, {}]}, "functions[1].name", "missing_required_parameter"),
        ({"functions": [FUNCTION], "tools": [TOOL]}, "functions", None),
        ({"functions": [FUNCTION], "tool_choice": "required"}, "tool_choice", None),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call", "invalid_value"),
        ({"functions": [FUNCTION], "function_call": {}}, "function_call.name", "missing_required_parameter"),
        ({"functions": [FUNCTION], "function_call": {"name": "g"}}, "function_call", None),
        ({"functions": [], "function_call": {"name": "f"}}, "function_call", None),
        ({"function_call": {"name": "f"}, "tools": [TOOL]}, "function_call", None),
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"logit_bias": {"1": "x"}}, "logit_bias", "invalid_type"),
        ({"user": 5}, "user", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream_options": {}, "stream": False}, "stream_options", None),
        ({"stream_options": True, "stream": True}, "stream_options", "invalid_type"),
        ({"stream_options": {"include_usage": "yes"}, "stream": True}, "stream_options.include_usage", "invalid_type"),
    ],
)
def test_a_bad_field_is_named(fields, param, code):
    error = refusal(**fields)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_field_is_named(name):
    body = {"model": "m", "messages": [USER]}
    del body[name]
    with pytest.raises(MalformedRequest, match=f"Missing required parameter: '{name}'") as caught:
        parse_request(json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == (name, "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"temperature": 3},
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2.",
        ),
        ({"n": 0}, "Invalid 'n': integer below minimum value. Expected a value >= 1."),
        ({"seed": "x"}, "Invalid type for 'seed': expected an integer, but got a string instead."),
        (
            {"messages": []},
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ),
        (
            {"messages": [{"role": "bot", "content": ""}]},
            (
                "Invalid value: 'bot'. "
                "Supported values are: 'developer', 'system', 'user', 'assistant', 'tool' and 'function'."
            ),
        ),
        ({"stop": 5}, "Invalid type for 'stop': expected a string or an array, but got an integer instead."),
        (
            {"stream_options": {}},
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        ),
        (
            {"tool_choice": "required"},
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
        ),
    ],
)
def test_refusals_have_openais_messages(fields, message):
    """This also checks the forms of msgspec's messages, which are read with regular expressions."""
    assert refusal(**fields).message == message
