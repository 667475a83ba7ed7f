"""Events and unary bodies are read into chunks, or raise a `ProxyError`; nothing else can happen."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET

from tidegate.dialects import events
from tidegate.dialects.meta_llama import parse_native
from tidegate.errors import ProxyError, UpstreamFailed, UpstreamLacksModel, UpstreamRateLimited, UpstreamRejected
from tidegate.protocol.chat import UNCLEAR_REASON
from tidegate.streaming.logprobs import canonical_logprobs


def content(body: bytes) -> str | None:
    return events.parse(body).choices[0].delta.content


def choice(delta: bytes, more: bytes = b"") -> bytes:
    return b'{"choices":[{"index":0,"delta":%b%b}]}' % (delta, more)


def test_a_chunk_is_read_and_unknown_fields_are_skipped():
    body = (
        b'{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","prompt_token_ids":null,'
        b'"choices":[{"index":2,"delta":{"role":"assistant","content":"hi","vendor":{"a":[1]}},"token_ids":null,'
        b'"finish_reason":"stop","stop_reason":5}],"timings":{"a":1}}'
    )
    [read] = events.parse(body).choices
    assert (read.index, read.delta.content, read.finish_reason) == (2, "hi", "stop")


@pytest.mark.parametrize("index", [b"0", b"0.0", b'"0"'])
def test_an_index_may_have_another_type(index):
    """Contract E.5."""
    assert events.parse(b'{"choices":[{"index":%b,"delta":{}}]}' % index).choices[0].index == 0


def test_a_body_may_begin_with_blank_lines():
    """They are DeepSeek's keep-alive for answers that are not streamed (contract row 25)."""
    assert content(b"\n\n\r\n " + choice(b'{"content":"a"}')) == "a"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"content":"a\\ud83d"}', "a\ud83d"),  # the other half may come with the next chunk
        (b'{"content":"a\\ud83d\\ude00"}', "a\U0001f600"),
        (b'{"content":"a\xffb"}', "a\ufffdb"),
        (b'{"content":["a","b"]}', "ab"),
        (b'{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}', "ab"),
        (b'{"content":{"type":"text","text":"a"}}', "a"),
        (b'{"content":{"answer":1}}', '{"answer": 1}'),
        (b'{"content":[{"type":"image"},{"type":"text","text":null}]}', None),
        (b'{"content":42}', "42"),
        (b'{"content":true}', None),
        (b'{"content":"ok","x":NaN,"y":[Infinity,-Infinity]}', "ok"),
        (b'{"content":"ok","big":123456789012345678901234567890}', "ok"),
        (b'{"content":"a\\ud83d","big":123456789012345678901234567890}', "a\ud83d"),
    ],
)
def test_json_that_the_strict_decoder_refuses_is_repaired(body, text):
    """Lone surrogates, bad UTF-8, NaN, and content of wrong types (contract E.4, step 5)."""
    assert content(choice(body)) == text


@pytest.mark.parametrize(
    "field",
    [
        *(b'"logprobs":[]', b'"logprobs":""', b'"finish_reason":{}', b'"finish_reason":[]', b'"finish_reason":0'),
        *(b'"index":null', b'"index":{}', b'"usage":[]', b'"error":{}', b'"error":[]', b'"error":0', b'"text":{}'),
    ],
)
def test_a_field_of_a_wrong_type_is_left_out_of_a_choice(field):
    [read] = events.parse(b'{"choices":[{"delta":{"content":"a"},%b}]}' % field).choices
    assert read.delta.content == "a"
    assert (read.index, read.logprobs or None) == (None, None)
    assert read.finish_reason in (None, UNCLEAR_REASON)


@pytest.mark.parametrize(
    "field",
    [
        *(b'"reasoning":{}', b'"reasoning":false', b'"reasoning_content":[]', b'"refusal":false', b'"refusal":{}'),
        *(b'"tool_calls":{}', b'"tool_calls":""', b'"tool_calls":[null]', b'"tool_calls":false', b'"tool_calls":[[]]'),
    ],
)
def test_a_field_of_a_wrong_type_is_left_out_of_a_message(field):
    delta = events.parse(choice(b'{"content":"a",%b}' % field)).choices[0].delta
    assert delta.content == "a"
    assert not any((delta.reasoning, delta.reasoning_content, delta.refusal, delta.tool_calls))


@pytest.mark.parametrize(
    "field",
    [
        *(b'"usage":[]', b'"usage":""', b'"error":{}', b'"error":[]', b'"error":0', b'"error":{"message":"","code":0}'),
        *(b'"service_tier":{}', b'"system_fingerprint":[]', b'"x_groq":""', b'"moderation":[]', b'"error":false'),
    ],
)
def test_a_field_of_a_wrong_type_is_left_out_of_a_chunk(field):
    assert content(b'{"choices":[{"delta":{"content":"a"}}],%b}' % field) == "a"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (b'{"id":7,"index":0,"function":{"name":"f"}}', ("7", "f")),
        (b'{"id":"a","function":"f"}', ("a", "f")),
        (b'{"id":"a","function":"{\\"name\\":\\"f\\"}"}', ("a", "f")),
        (b'{"id":"a","index":"0","type":null,"function":{"name":"f","arguments":null}}', ("a", "f")),
        (b'{"id":{},"name":"f","arguments":{"a":1}}', (None, "f")),
        (b'{"id":"a","function":[]}', ("a", None)),
    ],
)
def test_the_usable_fields_of_a_call_of_wrong_types_are_kept(call, expected):
    delta = events.parse(choice(b'{"tool_calls":[%b,null],"refusal":false}' % call)).choices[0].delta
    [read] = delta.tool_calls
    assert (read.id, read.function and read.function.name) == expected


@pytest.mark.parametrize(
    ("delta", "reasoning", "text"),
    [
        (b'{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]}]}', "Hm.", None),
        (b'{"content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"a"}]}', "Hm.", "a"),
        (b'{"content":[{"type":"reasoning","text":"Hm."},{"type":"output_text","text":"a"}]}', "Hm.", "a"),
        (b'{"content":[{"text":"Hm.","thought":true},{"text":"a"}]}', "Hm.", "a"),
        (b'{"content":"a","reasoning_content":{"text":"Hm."}}', "Hm.", "a"),
        (b'{"content":"a","reasoning_content":[{"type":"text","text":"H"},"m."]}', "Hm.", "a"),
        (b'{"content":[{"type":"thinking","thinking":"x"},"a"],"reasoning_content":"Hm."}', "Hm.", "a"),
    ],
)
def test_thinking_in_parts_is_reasoning(delta, reasoning, text):
    """Mistral, Anthropic and Gemini use these shapes, in chunks and in whole answers."""
    for shape in (b'"delta":%b', b'"message":%b'):
        [read] = events.parse(b'{"choices":[{"index":0,%b}]}' % (shape % delta)).choices
        message = read.delta or read.message
        assert (message.reasoning_content, message.content) == (reasoning, text)


def test_a_refusal_and_an_image_in_parts_are_put_into_their_fields():
    parts = b'[{"type":"refusal","refusal":"no"},{"type":"image_url","image_url":{"url":"data:x"}}]'
    delta = events.parse(choice(b'{"content":%b}' % parts)).choices[0].delta
    assert (delta.content, delta.refusal) == (None, "no")
    assert json.loads(bytes(delta.images)) == [{"type": "image_url", "image_url": {"url": "data:x"}}]


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":{"message":{"content":"a"}}}',
        b'{"choices":[null,{"message":"a"}]}',
        b'{"choices":[{"message":{"content":"a"}},5]}',
    ],
)
def test_the_usable_fields_of_choices_of_wrong_types_are_kept(body):
    assert [read.message.content for read in events.parse(body).choices] == ["a"]


@pytest.mark.parametrize("where", [b'"delta":{"content":"half"}', b'"message":{"content":""}', b'"text":""'])
@pytest.mark.parametrize("reason", [b'"stop"', b'"error"', b"null"])
def test_an_error_in_the_choice_is_an_error(where, reason):
    """OpenRouter reports there that the model's provider has failed, whatever else the choice contains."""
    error = b'{"code":502,"message":"Provider returned error"}'
    with pytest.raises(UpstreamFailed, match="Provider returned error"):
        events.parse(b'{"choices":[{"index":0,%b,"finish_reason":%b,"error":%b}]}' % (where, reason, error))


@pytest.mark.parametrize("name", ["data", "result"])
def test_an_answer_in_an_envelope_is_read(name):
    """The envelope of a gateway is removed only if it contains choices."""
    inner = b'{"choices":[{"message":{"content":"a"}}],"usage":{"total_tokens":5}}'
    chunk = events.parse(b'{"success":true,"%b":%b,"errors":[]}' % (name.encode(), inner))
    assert (chunk.choices[0].message.content, chunk.usage) == ("a", {"total_tokens": 5})
    assert events.parse(b'{"%b":{"id":"a"}}' % name.encode()).choices is None
    with pytest.raises(UpstreamFailed, match="gone"):
        events.parse(b'{"%b":{"choices":[],"error":"gone"}}' % name.encode())


def test_an_error_in_base_resp_is_an_error():
    failed = b'{"choices":null,"base_resp":{"status_code":%d,"status_msg":"it failed"}}'
    with pytest.raises(UpstreamFailed, match="it failed"):
        events.parse(failed % 1000)
    with pytest.raises(UpstreamRateLimited, match="it failed"):
        events.parse(failed % 1002)
    good = b'{"choices":[{"message":{"content":"a"}}],"base_resp":{"status_code":0,"status_msg":""}}'
    assert events.parse(good).choices[0].message.content == "a"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "an empty body"),
        (b" \n", "an empty body"),
        (b"<html>502</html>", "a page of HTML"),
        (b"no healthy upstream", "text in place of JSON: no healthy upstream"),
        (b'{"id":"x","choi', "JSON that is broken"),
        (b"\x1f\x8b\x08\x00\x00", "bytes that are no JSON"),
        (b"null", "JSON that is no answer"),
    ],
)
def test_data_that_is_not_json_is_described_in_words(body, words):
    """The message does not name a Python exception."""
    with pytest.raises(UpstreamFailed, match=words) as caught:
        events.parse(body)
    assert "Error" not in caught.value.message


def test_a_logprob_that_json_cannot_represent_becomes_very_small():
    """-9999.0 is the number that OpenAI uses for it (R-LP)."""
    logprobs = b',"logprobs":{"content":[{"token":"a","logprob":-Infinity},{"token":"b","logprob":NaN}]}'
    [read] = events.parse(choice(b'{"content":"ab"}', logprobs)).choices
    assert [entry["logprob"] for entry in canonical_logprobs(read.logprobs)["content"]] == [-9999.0, -9999.0]


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
    """SDKs would read it as an empty answer (R-200)."""
    with pytest.raises(ProxyError) as caught:
        events.parse(body)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.message) == (status, "boom")


@pytest.mark.parametrize(
    "body", [b'{"error":null,"choices":[]}', b'{"message":"hi","choices":[]}', b'{"detail":"hi","choices":[]}']
)
def test_values_that_only_look_like_an_error_are_none(body):
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
    ],
)
def test_data_that_is_not_a_chunk_is_an_upstream_failure(body):
    with pytest.raises(UpstreamFailed) as caught:
        events.parse(body)
    assert caught.value.status == 502


@pytest.mark.parametrize("item", [b"{}", b"[]", b'""', b'{"index":0}'])
@pytest.mark.parametrize("parse", [events.parse, parse_native])
def test_many_small_values_are_not_decoded(parse, item):
    """A body within the size limit would need thirty times its size in memory."""
    with pytest.raises(UpstreamFailed, match="too many values"):
        parse(b'{"choices":[%b{}]}' % ((item + b",") * 2_000_000))


def test_a_long_text_may_hold_commas():
    """The check cannot distinguish them from the JSON's own commas, but there are fewer of them."""
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
def test_deeply_nested_json_is_an_upstream_failure(body):
    """Without the check, msgspec raises a bare RecursionError (contract E.5)."""
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
    """No other exception than ProxyError is raised."""
    try:
        chunk = events.parse(body)
    except ProxyError:
        return
    assert chunk.choices is None or isinstance(chunk.choices, list)
    assert chunk.error is UNSET or not any(_values(json.loads(bytes(chunk.error).decode("utf-8", "replace"))))


def _values(error):
    """Return the values of `error` that mean no error, NaN included."""
    values = error.values() if isinstance(error, dict) else [error]
    return [value for value in values if value == value]  # noqa: PLR0124 - NaN
