"""Bodies are decoded to checked fields; bad ones raise only OpenAI's errors."""

import json
import sys

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.errors import MalformedRequest
from tidegate.protocol import chat, completions, embeddings
from tidegate.protocol.request import MAX_DEPTH, decode, is_deeper_than, json_type, missing, wrong_type

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('[]{}"\\ab\n', max_size=12)
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\a'), inner))
DECODERS = [
    msgspec.json.Decoder(chat.ChatParams),
    msgspec.json.Decoder(completions.CompletionParams),
    msgspec.json.Decoder(embeddings.EmbeddingParams),
]


def depth(value) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"[" + b"]" + b"}" * (levels - 1)


@given(anything, st.integers(0, 6), st.sampled_from([None, 1]))
@example(["]]]", '"[[[', "\\", '\\"['], 1, None)
def test_depth_is_counted_as_in_the_decoded_value(value, limit, indent):
    """Brackets, quotes and backslashes inside strings do not count."""
    body = json.dumps(value, indent=indent).encode()
    assert is_deeper_than(body, limit) == (depth(value) > limit)


@given(st.binary())
@example(b'"' * 101)
@example(b"[" * 1000 + b'"\\')
def test_depth_of_any_bytes_is_found_without_an_error(body):
    assert is_deeper_than(body, 3) in {True, False}


@pytest.mark.parametrize(("levels", "is_too_deep"), [(1, False), (MAX_DEPTH, False), (MAX_DEPTH + 1, True)])
def test_the_depth_limit_is_exact(levels, is_too_deep):
    assert is_deeper_than(nested(levels), MAX_DEPTH) == is_too_deep


def test_a_body_far_too_deep_is_refused_before_a_decoder_sees_it():
    """The decoder would raise a bare RecursionError."""
    with pytest.raises(MalformedRequest, match="more than 64 levels") as caught:
        decode(b'{"model":"m","x":' + b"[" * 10**6 + b"]" * 10**6 + b"}", DECODERS[0])
    assert caught.value.code == "json_too_deep"


@given(st.binary(max_size=100) | anything.map(lambda value: json.dumps(value).encode()), st.sampled_from(DECODERS))
@example(b'{"model":"\xff"}', DECODERS[0])
@example(b'{"\xff":1}', DECODERS[0])
@example(b'{"model":"\\ud83d"}', DECODERS[0])
@example(b"[" * 500, DECODERS[0])
@example(b'{"model":NaN}', DECODERS[1])
@example(b'{"seed":' + b"9" * 5000 + b"}", DECODERS[1])
def test_any_bytes_are_decoded_or_refused(body, decoder):
    """Only `MalformedRequest` is raised."""
    try:
        decode(body, decoder)
    except MalformedRequest as error:
        refusal = error
    else:
        return
    assert (refusal.status, refusal.type) == (400, "invalid_request_error")
    assert refusal.is_quoted


values = anything | st.sampled_from(["m", "user", True, 1, 0.5, [{"role": "user", "content": "hi"}], {"type": "x"}])


@given(
    st.sampled_from([chat.parse_request, completions.parse_request, embeddings.parse_request]),
    st.dictionaries(st.sampled_from(sorted(chat.ChatParams.__struct_fields__)) | st.text(max_size=3), values),
    st.fixed_dictionaries(
        {},
        optional={
            "model": values,
            "messages": st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), values)),
            "prompt": values,
            "input": values,
        },
    ),
)
def test_any_object_is_a_request_or_refused(parse, fields, likely):
    """Whatever the fields hold, the request is accepted or gets 400, never 500."""
    body = json.dumps(fields | likely).encode()
    try:
        request = parse(body)
    except MalformedRequest:
        return
    assert set(request.fields) == set(fields | likely)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model":"m"', "not valid JSON"),
        (b'{"model":"\xff"}', "it is not UTF-8 at byte 10"),
        ('{"model":"é'.encode()[:-1] + b'"}', "it is not UTF-8"),
        (b'{"model":"m",}', "not valid JSON"),
    ],
)
def test_a_body_that_is_not_json_gets_openais_message(body, text):
    with pytest.raises(MalformedRequest, match="We could not parse the JSON body") as caught:
        decode(body, DECODERS[0])
    assert text in caught.value.message
    assert caught.value.param is None
    assert caught.value.code is None


def test_a_body_that_is_not_an_object_is_refused():
    for body in (b"[1,2]", b"5", b'"text"', b"null"):
        with pytest.raises(MalformedRequest, match="must be an object") as caught:
            decode(body, DECODERS[0])
        assert caught.value.code == "invalid_type"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'"a"', "string"),
        (b"[]", "array"),
        (b"{}", "object"),
        (b"null", "null"),
        (b"true", "boolean"),
        (b"false", "boolean"),
        (b"0", "number"),
        (b"-1.5e3", "number"),
    ],
)
def test_the_type_of_a_value_is_read_from_its_first_byte(raw, kind):
    assert json_type(msgspec.Raw(raw)) == kind


def test_errors_name_the_parameter():
    error = missing("messages[0].role")
    assert error.message == "Missing required parameter: 'messages[0].role'."
    assert (error.param, error.code) == ("messages[0].role", "missing_required_parameter")
    error = wrong_type("stop", "a string", "an integer")
    assert error.message == "Invalid type for 'stop': expected a string, but got an integer instead."
    assert (error.param, error.code) == ("stop", "invalid_type")


def test_the_check_does_not_change_the_recursion_limit():
    """The depth is measured without recursion, so the limit need not be raised."""
    before = sys.getrecursionlimit()
    assert is_deeper_than(b"[" * 10**5, 64)
    assert sys.getrecursionlimit() == before
