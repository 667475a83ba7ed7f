"""Events and unary bodies become chunks, or errors of ours; nothing else."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET

from proxy.dialects import events
from proxy.dialects.meta_llama import parse_native
from proxy.errors import ProxyError, UpstreamFailed, UpstreamLacksModel, UpstreamRateLimited, UpstreamRejected


def content(body: bytes) -> str | None:
    return events.parse(body).choices[0].delta.content


def choice(delta: bytes, more: bytes = b"") -> bytes:
    return b'{"choices":[{"index":0,"delta":%b%b}]}' % (delta, more)


def test_a_chunk_is_read_and_what_hosts_add_is_skipped():
    body = (
        b'{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","prompt_token_ids":null,'
        b'"choices":[{"index":2,"delta":{"role":"assistant","content":"hi","vendor":{"a":[1]}},"token_ids":null,'
        b'"finish_reason":"stop","stop_reason":5}],"timings":{"a":1}}'
    )
    [read] = events.parse(body).choices
    assert (read.index, read.delta.content, read.finish_reason) == (2, "hi", "stop")


@pytest.mark.parametrize("index", [b"0", b"0.0", b'"0"'])
def test_an_index_may_be_written_oddly(index):
    """Contract E.5."""
    assert events.parse(b'{"choices":[{"index":%b,"delta":{}}]}' % index).choices[0].index == 0


def test_a_body_may_begin_with_blank_lines():
    """DeepSeek's keep-alive for answers that are not streamed (contract row 25)."""
    assert content(b"\n\n\r\n " + choice(b'{"content":"a"}')) == "a"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"content":"a\\ud83d"}', "a?"),
        (b'{"content":"a\\ud83db"}', "a?b"),
        (b'{"content":"a\xffb"}', "a\ufffdb"),
        (b'{"content":["a"]}', None),
        (b'{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}', "ab"),
        (b'{"content":[{"type":"image"},{"type":"text","text":null}]}', ""),
        (b'{"content":"ok","x":NaN,"y":[Infinity,-Infinity]}', "ok"),
        (b'{"content":"ok","big":123456789012345678901234567890}', "ok"),
        (b'{"content":"a\\ud83d","big":123456789012345678901234567890}', "a?"),
    ],
)
def test_what_the_strict_reader_refuses_is_mended(body, text):
    """Half characters, bad UTF-8, NaN, and content as a list of parts (contract E.4, step 5)."""
    if text is None:
        with pytest.raises(UpstreamFailed):
            events.parse(choice(body))
    else:
        assert content(choice(body)) == text


def test_a_logprob_that_json_cannot_say_is_very_unlikely():
    """-9999.0 is OpenAI's number for it (R-LP)."""
    logprobs = b',"logprobs":{"content":[{"token":"a","logprob":-Infinity},{"token":"b","logprob":NaN}]}'
    [read] = events.parse(choice(b'{"content":"ab"}', logprobs)).choices
    assert [entry["logprob"] for entry in read.logprobs["content"]] == [-9999.0, -9999.0]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"error":{"message":"boom","code":500}}', UpstreamFailed, 502),
        (b'{"error": {"message": "boom", "code": 503}}', UpstreamFailed, 503),
        (b'{"error":{"message":"boom","code":"429"}}', UpstreamRateLimited, 429),
        (b'{"error":{"message":"boom","code":404}}', UpstreamLacksModel, 404),
        (b'{"error":{"message":"boom","type":"invalid_request_error"}}', UpstreamRejected, 400),
        (b'{"error":{"message":"boom","type":"BadRequestError","code":400}}', UpstreamRejected, 400),
        (b'{"error":{"message":"boom"}}', UpstreamFailed, 502),
        (b'{"error":"boom"}', UpstreamFailed, 502),
        (b'{"error":"boom","choices":[]}', UpstreamFailed, 502),
        (b'{"object":"error","message":"boom","code":400}', UpstreamRejected, 400),
        (b'{"message":"boom","code":1234}', UpstreamFailed, 502),
        (b'{"detail":"boom"}', UpstreamFailed, 502),
        (b'{"detail":[{"msg":"boom"}]}', UpstreamFailed, 502),
    ],
)
def test_an_error_inside_a_200_is_an_error(body, kind, status):
    """SDKs would take it for an empty answer (R-200)."""
    with pytest.raises(ProxyError) as caught:
        events.parse(body)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.message) == (status, "boom")


@pytest.mark.parametrize(
    "body", [b'{"error":null,"choices":[]}', b'{"message":"hi","choices":[]}', b'{"detail":"hi","choices":[]}']
)
def test_what_only_looks_like_an_error_is_none(body):
    assert events.parse(body).choices == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"<html>502 Bad Gateway</html>",
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b'{"choices":{}}',
        b'{"choices":[5]}',
        b'{"choices":[{"index":"x"}]}',
        b'{"choices":[{"delta":"text"}]}',
        b'{"usage":5}',
        b'{"choices":[{"delta":{"tool_calls":{}}}]}',
    ],
)
def test_what_is_no_chunk_is_the_upstreams_failure(body):
    with pytest.raises(UpstreamFailed) as caught:
        events.parse(body)
    assert caught.value.status == 502


@pytest.mark.parametrize("item", [b"{}", b"[]", b'""', b'{"index":0}'])
@pytest.mark.parametrize("parse", [events.parse, parse_native])
def test_many_small_values_are_not_decoded(parse, item):
    """A body that may be read would take thirty times its size."""
    with pytest.raises(UpstreamFailed, match="too many values"):
        parse(b'{"choices":[%b{}]}' % ((item + b",") * 2_000_000))


def test_a_long_text_may_hold_commas():
    """They cannot be told from those of the JSON, but are fewer."""
    assert len(content(choice(b'{"content":"%b"}' % (b"words, " * 500_000)))) == 3_500_000


DEEP = b"[" * 10**5 + b"]" * 10**5


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(DEEP, id="bare"),
        pytest.param(b'{"unknown":' + DEEP + b"}", id="unknown field"),
        pytest.param(b'{"usage":{"a":' + DEEP + b"}}", id="usage"),
        pytest.param(b'{"error":{"message":' + DEEP + b"}}", id="error"),
        pytest.param(b'{"error":NaN,"a":' + DEEP + b"}", id="lenient"),
        pytest.param(choice(b'{"content":"a"}', b',"logprobs":{"a":' + DEEP + b"}"), id="logprobs"),
    ],
)
def test_deep_json_is_the_upstreams_failure(body):
    """Left to itself, msgspec answers it with a bare RecursionError (contract E.5)."""
    with pytest.raises(ProxyError):
        events.parse(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "index", "delta", "message", "text", "content", "tool_calls", "function"),
                    *("logprobs", "usage", "error", "code", "detail"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
@example(b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}],"created":' + b"9" * 5000 + b"}")
@example(b'{"error":{"message":' + b"9" * 5000 + b"}}")
@example(b'{"\\ud83d":"\\ud83d"}')
@example(b'{"error":"\\ud83d"}')
def test_any_bytes_are_a_chunk_or_an_error(body):
    """Nothing but ProxyError is raised."""
    try:
        chunk = events.parse(body)
    except ProxyError:
        return
    assert chunk.choices is None or isinstance(chunk.choices, list)
    assert chunk.error is UNSET or bytes(chunk.error) in {b"null", b"false", b'""'}
