"""`/v1/embeddings`: the request is checked as OpenAI does, the answer has the requested encoding (contract A.9)."""

import base64
import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.errors import MalformedRequest, UpstreamFailed
from tidegate.protocol.embeddings import count_inputs, parse_request, rebuild

VECTOR = [0.5, -1.25, 3.0]
BASE64 = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


def parse(**fields):
    return parse_request(json.dumps({"model": "m", "input": "hi"} | fields).encode())


def answer(*vectors, **more) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"object": "list", "model": "theirs", "data": data} | more).encode()


@pytest.mark.parametrize("given_input", ["hi", ["a", "b"], [1, 2], [[1], [2]]])
def test_each_form_of_input_is_accepted(given_input):
    request = parse(input=given_input, encoding_format="base64", dimensions=3, user="u")
    assert (request.endpoint, request.model, request.is_stream) == ("embeddings", "m", False)
    assert json.loads(bytes(request.fields["input"])) == given_input


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "invalid_type"),
        ({"input": {}}, "input", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [[1], []]}, "input", "empty_array"),
        ({"model": ""}, "model", "empty_string"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"encoding_format": 5}, "encoding_format", "invalid_type"),
    ],
)
def test_a_bad_field_is_named(fields, param, code):
    with pytest.raises(MalformedRequest) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_missing_input_is_named():
    with pytest.raises(MalformedRequest, match="'input'") as caught:
        parse_request(b'{"model":"m"}')
    assert caught.value.code == "missing_required_parameter"


@pytest.mark.parametrize("sent", [VECTOR, BASE64])
@pytest.mark.parametrize(("encoding", "expected"), [("float", VECTOR), ("base64", BASE64)])
def test_vectors_are_returned_in_the_requested_encoding(sent, encoding, expected):
    """The host may send either encoding; many hosts ignore the field."""
    body, _ = rebuild(answer(sent, sent), inputs=2, model="public", encoding=encoding)
    assert json.loads(body) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": expected},
            {"object": "embedding", "index": 1, "embedding": expected},
        ],
        "model": "public",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def test_usage_is_written_in_openais_form_and_returned():
    body, usage = rebuild(answer(VECTOR, usage={"prompt_tokens": 3}), inputs=1, model="m", encoding="float")
    assert json.loads(body)["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert usage.prompt_tokens == 3


def indexed(*indexes):
    """A host's answer; the only number of each vector is its index."""
    data = [{"index": index, "embedding": [float(index or 0)]} for index in indexes]
    return json.dumps({"data": data}).encode()


def test_vectors_are_in_the_order_of_the_inputs():
    """Clients match vectors by position and ignore the index."""
    body, _ = rebuild(indexed(2, 0, 1), inputs=3, model="m", encoding="float")
    assert [(item["index"], item["embedding"]) for item in json.loads(body)["data"]] == [(0, [0]), (1, [1]), (2, [2])]


def test_a_missing_index_0_is_accepted():
    body, _ = rebuild(indexed(1, None, 2), inputs=3, model="m", encoding="float")
    assert [item["embedding"] for item in json.loads(body)["data"]] == [[0], [1], [2]]


@pytest.mark.parametrize("indexes", [(0, 0), (0, 2), (1, 2), (0, None), (0,), (0, 1, 2), ()])
def test_vectors_that_match_no_input_are_the_upstreams_failure(indexes):
    """Otherwise (here with two inputs) a caller would get the vector of another text."""
    with pytest.raises(UpstreamFailed, match="embeddings cannot be read"):
        rebuild(indexed(*indexes), inputs=2, model="m", encoding="float")


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[{"index":"0","embedding":[1.0]}]}',
        b'{"data":[{"index":null,"embedding":[1.0]}],"usage":[]}',
        b'{"data":[{"index":0.0,"embedding":[1]}],"model":5}',
        b'{"data":[{"index":0,"embedding":[[1.0]]}]}',
        b'{"embeddings":[[1.0]],"usage":"x"}',
        b'{"data":[{"embedding":[1.0]}],"\xff":1,"usage":"\xff"}',
    ],
)
def test_other_fields_of_a_wrong_type_are_no_failure(body):
    rebuilt, _ = rebuild(body, inputs=1, model="m", encoding="float")
    assert json.loads(rebuilt)["data"] == [{"object": "embedding", "index": 0, "embedding": [1.0]}]


@pytest.mark.parametrize(("given_input", "count"), [("hi", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2], [3]], 3)])
def test_inputs_are_counted(given_input, count):
    """A list of tokens is one text."""
    assert count_inputs(parse(input=given_input).fields["input"]) == count


def test_vectors_without_an_index_are_numbered():
    """Callers may match vectors to inputs by index, so index 0 for all would be wrong."""
    body, _ = rebuild(b'{"data":[{"embedding":[1.0]},{"embedding":[2.0]}]}', inputs=2, model="m", encoding="float")
    assert [item["index"] for item in json.loads(body)["data"]] == [0, 1]


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":[{"index":0}]}',
        b'{"data":[{"embedding":{"a":1}}]}',
        b'{"data":[{"embedding":[1,"x"]}]}',
        b'{"error":{"message":"no"}}',
        pytest.param(b'{"data":[],"usage":{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}}", id="deep"),
    ],
)
def test_a_body_without_embeddings_is_the_upstreams_failure(body, encoding):
    with pytest.raises(UpstreamFailed):
        rebuild(body, inputs=1, model="m", encoding=encoding)


@pytest.mark.parametrize("vector", ["!!!", "QUJD\n", "QUI=", "abc", "", []])
def test_an_invalid_vector_is_the_upstreams_failure(vector):
    with pytest.raises(UpstreamFailed):
        rebuild(answer(vector), inputs=1, model="m", encoding="float")


def test_a_number_that_float32_cannot_hold_is_the_upstreams_failure():
    with pytest.raises(UpstreamFailed):
        rebuild(answer([1e300]), inputs=1, model="m", encoding="base64")


@given(
    st.binary() | st.lists(st.floats(allow_nan=False)).map(answer) | st.text().map(answer),
    st.sampled_from(["float", "base64"]),
)
@example(answer([1e39]), "base64")
def test_any_bytes_are_an_answer_or_a_failure(body, encoding):
    """Only `UpstreamFailed` is raised."""
    try:
        rebuild(body, inputs=1, model="m", encoding=encoding)
    except UpstreamFailed:
        return


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_both_encodings_hold_the_same_numbers(vector):
    packed, _ = rebuild(answer(vector), inputs=1, model="m", encoding="base64")
    text = json.loads(packed)["data"][0]["embedding"]
    unpacked, _ = rebuild(answer(text), inputs=1, model="m", encoding="float")
    assert json.loads(unpacked)["data"][0]["embedding"] == vector
