"""`/v1/completions`: a body is checked as OpenAI does (contract A.8)."""

import json

import pytest

from tidegate.errors import MalformedRequest
from tidegate.protocol.completions import parse_request


def parse(**fields):
    return parse_request(json.dumps({"model": "m", "prompt": "Once"} | fields).encode())


@pytest.mark.parametrize("prompt", ["", "Once", ["a", "b"], [1, 2, 3], [[1], [2, 3]]])
def test_each_form_of_prompt_is_accepted(prompt):
    request = parse(prompt=prompt)
    assert (request.endpoint, request.model) == ("completions", "m")
    assert json.loads(bytes(request.fields["prompt"])) == prompt


@pytest.mark.parametrize(
    ("fields", "is_stream", "wants_usage"),
    [
        ({}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
    ],
)
def test_stream_and_usage_are_read(fields, is_stream, wants_usage):
    request = parse(**fields)
    assert (request.is_stream, request.wants_usage) == (is_stream, wants_usage)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": {}}, "prompt", "invalid_type"),
        ({"model": ""}, "model", "empty_string"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"best_of": 21}, "best_of", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"echo": "yes"}, "echo", "invalid_type"),
        ({"suffix": 1}, "suffix", "invalid_type"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
    ],
)
def test_a_bad_field_is_named(fields, param, code):
    with pytest.raises(MalformedRequest) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize("name", ["model", "prompt"])
def test_a_missing_field_is_named(name):
    body = {"model": "m", "prompt": "Once"}
    del body[name]
    with pytest.raises(MalformedRequest) as caught:
        parse_request(json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == (name, "missing_required_parameter")
