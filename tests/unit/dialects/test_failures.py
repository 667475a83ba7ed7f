"""A host's error answer of any shape becomes a `ProxyError` (contract R-ERR, B.18)."""

import gzip
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.dialects.failures import parse_embedded, parse_error
from tidegate.errors import (
    EngineDied,
    ProxyError,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamRejected,
    UpstreamTimeout,
)
from tidegate.protocol.errors import to_headers, to_json

NESTED = b'{"error":{"message":"boom","type":"their_type","param":null,"code":null}}'


@pytest.mark.parametrize(
    ("status", "kind", "sent_status", "may_try_another_target"),
    [
        *((status, UpstreamRejected, 400, False) for status in (400, 405, 413, 422, 501)),
        *((status, UpstreamRefusedUs, 502, True) for status in (401, 403)),
        (402, UpstreamRefusedUs, 503, True),
        (404, UpstreamLacksModel, 404, True),
        *((status, UpstreamTimeout, 504, True) for status in (408, 504, 522, 524)),
        *((status, UpstreamFailed, 502, True) for status in (409, 424, 499, 500, 502, 520, 521, 523, 525, 526)),
        (429, UpstreamRateLimited, 429, True),
        *((status, UpstreamFailed, 503, True) for status in (498, 503, 529)),
        *((status, UpstreamFailed, 502, True) for status in (301, 418, 451, 599)),
    ],
)
def test_every_status_has_its_error(status, kind, sent_status, may_try_another_target):
    """The contract's B.18."""
    error = parse_error(status, {}, NESTED)
    assert type(error) is kind
    assert (error.status, error.may_try_another_target) == (sent_status, may_try_another_target)


@pytest.mark.parametrize(
    ("status", "type_", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "upstream_error", "upstream_auth"),
        (403, "upstream_error", "upstream_auth"),
        (402, "upstream_error", "upstream_quota"),
        (404, "invalid_request_error", "model_not_found"),
        (413, "invalid_request_error", "context_length_exceeded"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (500, "upstream_error", "upstream_failed"),
        (503, "upstream_error", "upstream_failed"),
        (504, "upstream_error", "upstream_timeout"),
    ],
)
def test_type_and_code_are_openais(status, type_, code):
    """The caller gets OpenAI's terms, whatever the host's terms are."""
    error = parse_error(status, {}, NESTED)
    assert (error.type, error.code) == (type_, code)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (NESTED, "boom"),
        (b'{"error":"boom"}', "boom"),
        (b'{"object":"error","message":"boom","code":400}', "boom"),
        (b'{"message":"boom"}', "boom"),
        (b'{"detail":"boom"}', "boom"),
        (b'{"detail":[{"loc":["body"],"msg":"boom"}]}', "boom"),
        (b'{"text":"boom"}', "boom"),
        (b'{"error":{"detail":"boom"}}', "boom"),
        (b'{"error":{},"message":"boom"}', "boom"),
        (b'[{"error":{"message":"boom"}}]', "boom"),
        (b'{"success":false,"errors":[{"code":7003,"message":"boom"}],"result":null}', "boom"),
        (b'{"base_resp":{"status_code":2013,"status_msg":"boom"}}', "boom"),
        (b'"boom"', "boom"),
        (b"boom", "boom"),
        (b"  boom\n", "boom"),
        (b"b\xffm", "b\ufffdm"),
        (b"", "The upstream answered with status 400."),
        (b"<html><body>Bad Request</body></html>", "The upstream answered with status 400."),
        (b"{}", "The upstream answered with status 400."),
        (b"[]", "The upstream answered with status 400."),
        (b"null", "The upstream answered with status 400."),
        (b'{"error":null}', "The upstream answered with status 400."),
        (b'{"error":{"message":""}}', "The upstream answered with status 400."),
    ],
)
def test_the_message_is_found_in_every_shape(body, message):
    """The HTML page of a load balancer is not passed on: it does not help a caller."""
    assert parse_error(400, {}, body).message == message


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("2 validation errors:\n  {'type': 'a', 'loc': 'b', 'msg': 'No.', 'input': '1'}\n  {'msg': 'Other'}", "No."),
        ("1 validation error:\n  {'type': 'a', 'msg': \"Not 'x'\", 'input': \"'msg': 'y'\"}", "Not 'x'"),
        ("1 validation error: of another kind", "of another kind"),
        ("It says 'msg': 'a', 'input': 'b'", "It says 'msg': 'a', 'input': 'b'"),
    ],
)
def test_the_first_error_of_vllms_schema_checks_is_the_message(sent, message):
    """The errors are Python literals, one for each member of a union (contract 76b)."""
    assert parse_error(400, {}, json.dumps({"error": {"message": sent}}).encode()).message == message


def test_a_long_message_is_cut():
    """Some messages of vLLM quote whole requests (contract 76b)."""
    assert len(parse_error(400, {}, b"x" * 10**5).message) == 2048


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_hosts_message_about_the_api_key_is_not_passed_on(status):
    """The message may quote the key."""
    body = b'{"error":{"message":"Incorrect API key provided: sk-abc","param":"sk-abc","code":"sk-abc"}}'
    encoded = to_json(parse_error(status, {}, body), "r")
    assert b"sk-abc" not in encoded


@pytest.mark.parametrize("status", [400, 429, 500])
@pytest.mark.parametrize("field", ["code", "type"])
@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("invalid_api_key", "upstream_auth"),
        ("authentication_error", "upstream_auth"),
        ("permission_error", "upstream_auth"),
        ("insufficient_quota", "upstream_quota"),
    ],
)
def test_codes_about_credentials_count_whatever_the_status(status, field, word, code):
    """Some hosts answer 400 or 429 if the problem is the API key or the account's balance."""
    body = json.dumps({"error": {"message": "Incorrect API key provided: sk-abc", field: word}}).encode()
    error = parse_error(status, {}, body)
    assert (type(error), error.code) == (UpstreamRefusedUs, code)
    assert b"sk-abc" not in to_json(error, "r")


def test_a_used_up_account_is_reported_with_a_pause():
    assert to_headers(parse_error(402, {}, b"")) == [(b"retry-after", b"60")]


@pytest.mark.parametrize(
    ("given_param", "param"),
    [
        ("body.stop", "stop"),
        ("query.x", "x"),
        ("stop", "stop"),
        (None, None),
        (5, "5"),
        ("body", None),
        ("body.34", None),
        ("body.tools.0.function", "tools[0].function"),
        ("body.messages.0.ChatCompletionUserMessageParam.content", "messages[0]"),
        ("body_of_mine", "body_of_mine"),
    ],
)
def test_the_parameter_is_spelled_as_openai_spells_it(given_param, param):
    """The host may send `body.stop` (contract 76b)."""
    body = json.dumps({"error": {"message": "m", "param": given_param}}).encode()
    assert parse_error(400, {}, body).param == param


@pytest.mark.parametrize(
    ("message", "first", "param"),
    [
        (
            "1 validation error:\n  {'type': 't', 'loc': 'body.stop', 'msg': 'Too long', 'input': 'p'}",
            "Too long",
            "stop",
        ),
        ("2 validation errors:\n  {'loc': 'body.n', 'msg': 'One'}\n  {'loc': 'body.x', 'msg': 'Two'}", "One", "n"),
        (
            "1 validation error:\n  {'loc': ('body', 'n'), 'msg': \"Not 'x'\"}\n\n  File \"/a\"",
            "Not 'x'",
            "n",
        ),
        ("1 validation error:\n  {'loc': ('body', 'tools', 0, 'list[str]'), 'msg': 'No'}", "No", "tools[0]"),
        ("1 validation error:\n  {'loc': ('body', 'prompt', 'str'), 'msg': 'No'}", "No", "prompt"),
        ("1 validation error:\n  {'loc': ('body',), 'msg': 'No'}", "No", None),
        ("1 validation error:\n  Only JSON is allowed", "Only JSON is allowed", None),
        ("1 validation error:\n  {'loc':", "{'loc':", None),
        ("1 validation error:", "1 validation error:", None),
    ],
)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_of_several_validation_errors_the_first_is_reported(status, message, first, param):
    """The others quote the prompt and the server's files; llama-cpp-python answers 500 to them."""
    error = parse_error(status, {}, json.dumps({"error": {"message": message}}).encode())
    assert (error.message, error.param, error.status) == (first, param, 400)


@pytest.mark.parametrize("words", ["image input is not supported - hint: mmproj", "Failed to parse tools: no name"])
def test_a_500_about_the_request_is_the_callers_fault(words):
    """llama.cpp's server answers so; the status makes sure that no SDK tries again."""
    error = parse_error(500, {}, json.dumps({"error": {"code": 500, "message": words}}).encode())
    assert (type(error), error.status, error.message) == (UpstreamRejected, 400, words)
    assert parse_error(503, {}, json.dumps({"error": {"message": words}}).encode()).status == 503


@pytest.mark.parametrize(("given_param", "param"), [("input_tokens", "messages"), ("prompt", "prompt")])
def test_the_parameter_of_a_context_error_is_a_field_of_the_request(given_param, param):
    """The parameter that vLLM names is a variable of its own."""
    body = json.dumps({"error": {"message": "maximum context length", "param": given_param}}).encode()
    assert parse_error(400, {}, body).param == param


@pytest.mark.parametrize(
    ("given_code", "code"),
    [("invalid_type", "invalid_type"), (400, None), ("400", None), ("Bad Request", None), (None, None)],
)
def test_a_code_is_an_identifier_or_null(given_code, code):
    """Numbers and HTTP phrases, as vLLM and llama.cpp send them, are left out."""
    assert parse_error(422, {}, json.dumps({"error": {"message": "m", "code": given_code}}).encode()).code == code


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":{"code":400,"message":"m","type":"exceed_context_size_error"}}'),
        (400, b'{"error":{"message":"This model\'s maximum context length is 2048 tokens."}}'),
        (400, b'{"object":"error","message":"The input is longer than the model\'s context length.","code":400}'),
        (400, b'{"error":{"message":"m","code":"context_length_exceeded"}}'),
        (400, b"Prompt is too long"),
        (422, b'{"detail":"input is too long for the context window"}'),
        (413, b""),
        (413, b"Payload Too Large"),
    ],
)
def test_a_context_that_is_too_long_has_the_code_that_agents_look_for(status, body):
    error = parse_error(status, {}, body)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


def test_a_mention_of_context_in_a_host_failure_changes_nothing():
    assert parse_error(500, {}, b"context window").code == "upstream_failed"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, b"1"),
        ({"retry-after": "7"}, b"7"),
        ({"retry-after": "0.5"}, b"1"),
        ({"retry-after-ms": "2500"}, b"3"),
        ({"retry-after-ms": "2500", "retry-after": "9"}, b"3"),
        ({"retry-after": "100000"}, b"120"),
        ({"retry-after": "-5"}, b"1"),
        ({"retry-after": "0"}, b"1"),
        ({"retry-after": "inf"}, b"1"),
        ({"retry-after": "nan"}, b"1"),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"1"),
        ({"retry-after-ms": "soon", "retry-after": "3"}, b"3"),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 529])
def test_an_error_of_an_overloaded_host_has_a_retry_after(status, headers, seconds):
    """SDKs do not try again if the pause is over 120 s. If the host does not state a pause, it is one second."""
    assert to_headers(parse_error(status, headers, NESTED)) == [(b"retry-after", seconds)]


@pytest.mark.parametrize("status", [400, 404, 500, 502, 504])
def test_other_failures_have_no_retry_after(status):
    assert to_headers(parse_error(status, {"retry-after": "5"}, NESTED)) == []


@pytest.mark.parametrize(
    ("status", "headers", "pause_s", "is_stated"),
    [
        (429, {}, 1, False),
        (429, {"retry-after": "soon"}, 1, False),
        (429, {"retry-after": "7", "x-ratelimit-reset-tokens": "6m0s"}, 7, True),
        (429, {"x-ratelimit-reset-tokens": "6m0s"}, 360, True),
        (429, {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "9"}, 1, False),
    ],
)
def test_a_pause_that_the_host_stated_is_marked_for_routing(status, headers, pause_s, is_stated):
    """The default of one second is only for the caller."""
    error = parse_error(status, headers, NESTED)
    assert isinstance(error, UpstreamRateLimited)
    assert (error.retry_after_s, error.is_stated) == (pause_s, is_stated)


def test_the_reset_of_a_limit_is_not_used_for_an_overload():
    """It is used only for a 429."""
    assert parse_error(503, {"x-ratelimit-reset-tokens": "6m0s"}, NESTED).retry_after_s == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_date_without_a_date_header_is_relative_to_the_time_of_receipt(status):
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:07 GMT"}
    error = parse_error(status, headers, NESTED, received_s=1792567680.0)
    assert (error.retry_after_s, error.is_stated) == (7, True)


def test_a_body_that_is_too_long_is_not_read():
    """Decoding it may need many times its size in memory."""
    error = parse_error(500, {}, b'{"error":{"message":"boom"},"x":[%b{}]}' % (b"{}," * 400_000))
    assert (error.message, error.is_quoted) == ("The upstream answered with status 500.", False)


@pytest.mark.parametrize("message", ["", None, 5])
def test_a_moderation_without_a_message_gets_one(message):
    """Row 177: the metadata shows that it is a moderation."""
    error = parse_error(403, {}, json.dumps({"error": {"message": message, "metadata": {"reasons": []}}}).encode())
    assert (error.code, bool(error.message)) == ("content_policy_violation", True)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 504])
def test_messages_of_a_host_are_marked_as_quoted(status):
    """They may quote the prompt, so they are not logged; Tidegate's own messages are."""
    assert parse_error(status, {}, NESTED).is_quoted
    if status != 400:
        assert not parse_error(status, {}, b"").is_quoted


bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "type", "param", "status", "text", "msg"]),
            inner,
            max_size=4,
        )
    ),
).map(lambda value: json.dumps(value).encode())


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=6)),
    st.binary() | bodies,
)
@example(400, {}, b'{"error":{"message":"a\\ud83d"}}')
@example(400, {}, b'{"error":{"message":"a","param":"\\ud83d"}}')
@example(400, {}, b'{"error":' + b"9" * 5000 + b"}")
@example(400, {}, b"[" * 10**5)
@example(400, {}, b'{"a":' * 10**5)
def test_any_answer_becomes_an_error_that_can_be_sent(status, headers, body):
    """Nothing is raised, and the error is encoded as OpenAI's JSON."""
    for error in (parse_error(status, headers, body), parse_embedded(body)):
        assert isinstance(error, ProxyError)
        assert error.source == "upstream"
        assert 400 <= error.status <= 599
        encoded = json.loads(to_json(error, "r"))["error"]
        assert set(encoded) == {"message", "type", "param", "code"}
        assert 0 < len(encoded["message"]) <= 2048
        assert all(len(encoded[name] or "") <= 128 for name in ("param", "code"))
        to_headers(error)


def test_a_model_that_is_loading_gets_a_longer_pause():
    """The body is llama.cpp's (contract row 95)."""
    body = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
    assert to_headers(parse_error(503, {}, body)) == [(b"retry-after", b"5")]
    assert to_headers(parse_error(503, {"retry-after": "2"}, body)) == [(b"retry-after", b"2")]


@pytest.mark.parametrize(
    ("where", "kind"), [("body", UpstreamRejected), ("query", UpstreamRejected), ("response", UpstreamFailed)]
)
def test_a_validation_error_is_the_callers_fault_whatever_the_status(where, kind):
    """llama-cpp-python answers 500 in FastAPI's format (row 107), which FastAPI also uses for invalid answers."""
    message = f"1 validation error:\n  {{'type': 'missing', 'loc': ('{where}', 'messages'), 'msg': 'Field required'}}"
    body = json.dumps({"error": {"message": message, "type": "internal_server_error"}}).encode()
    assert type(parse_error(500, {}, body)) is kind
    assert type(parse_error(502, {}, body)) is UpstreamFailed


def test_advice_to_the_operator_is_removed():
    message = "This server does not support embeddings. Start it with `--embeddings`"
    body = json.dumps({"error": {"code": 501, "message": message, "type": "not_supported_error"}}).encode()
    assert parse_error(501, {}, body).message == "This server does not support embeddings."


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"Hi" * 40, mtime=0), bytes(range(256)), b"\xe0\xff" * 30, b"no\x00pe"],
    ids=["compressed", "every byte", "no UTF-8", "NUL"],
)
@pytest.mark.parametrize("status", [400, 429, 500])
def test_binary_bodies_are_not_quoted(status, body):
    assert parse_error(status, {}, body).message == f"The upstream answered with status {status}."


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, UpstreamFailed),
        (1001, UpstreamTimeout),
        (1002, UpstreamRateLimited),
        (1004, UpstreamRefusedUs),
        (1008, UpstreamRefusedUs),
        (1039, UpstreamRejected),
        (2013, UpstreamRejected),
        ([], UpstreamFailed),
    ],
)
def test_minimax_has_its_own_codes(code, kind):
    body = {"choices": None, "base_resp": {"status_code": code, "status_msg": "boom"}}
    assert type(parse_embedded(json.dumps(body).encode())) is kind


@pytest.mark.parametrize("field", ["code", "type", "message"])
def test_an_embedded_error_about_a_long_prompt_is_the_callers_fault(field):
    error = parse_embedded(json.dumps({"error": {field: "CONTEXT_LENGTH_EXCEEDED"}}).encode())
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


def test_a_code_in_capitals_is_put_into_lower_case():
    assert parse_error(400, {}, b'{"error":{"code":"INVALID_VALUE","message":"boom"}}').code == "invalid_value"


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"finish_reason": "content_filter"}]},
        {"choices": [{"finish_reason": "stop"}, {"finish_reason": "content_filter"}]},
        {"choices": [{"content_filter_results": {"error": {"code": "content_filter", "message": "blocked"}}}]},
        {"choices": [{"content_filter_results": {"hate": {"filtered": True, "severity": "high"}}}]},
        {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
    ],
)
def test_a_completion_in_a_400_is_a_content_filter_error(answer):
    error = parse_error(400, {}, json.dumps(answer).encode())
    assert (error.status, error.code) == (400, "content_filter")


def test_a_content_filter_that_refused_nothing_is_not_an_error():
    passed = {"content_filter_results": {"hate": {"filtered": False}, "jailbreak": {"detected": False}}}
    answer = {"choices": [passed, "odd"], "prompt_filter_results": [passed, {"content_filter_results": []}]}
    assert parse_error(400, {}, json.dumps(answer).encode()).code != "content_filter"


NO_ROUTE = b'{"detail":"Not Found"}'
NO_EMBEDDINGS = (
    b'{"error":{"code":501,"message":"This server does not support embeddings. Start it with `--embeddings`",'
    b'"type":"not_supported_error"}}'
)
NO_CHAT = b'{"error":{"message":"The model does not support Chat Completions API","type":"BadRequestError","code":400}}'


@pytest.mark.parametrize(
    ("status", "body", "endpoint", "beginning"),
    [
        (404, NO_ROUTE, "embeddings", "This model does not serve embeddings"),
        (501, NO_EMBEDDINGS, "embeddings", "This model does not serve embeddings"),
        (404, NO_ROUTE, "chat", "This model does not serve chat completions"),
        (400, NO_CHAT, "chat", "This model does not serve chat completions"),
        (404, NO_ROUTE, "completions", "This model does not serve completions"),
    ],
)
def test_an_engine_without_the_endpoint_is_reported_as_such(status, body, endpoint, beginning):
    error = parse_error(status, {}, body, engine_endpoint=endpoint)
    assert type(error) is UpstreamLacksOperation
    assert (error.status, error.type, error.code) == (400, "invalid_request_error", "unsupported_operation")
    assert error.message.startswith(beginning)
    assert error.may_try_another_target


def test_an_unknown_model_is_reported_as_such_by_engines_too():
    body = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}'
    assert type(parse_error(404, {}, body, engine_endpoint="chat")) is UpstreamLacksModel
    assert (
        type(parse_error(404, {}, NO_ROUTE)) is UpstreamLacksModel
    )  # from a hosted upstream; the configured URL may be wrong


@pytest.mark.parametrize(
    "words",
    [
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "Worker failed with error 'x', please check the stack trace above for the root cause",
        "cannot schedule new futures after shutdown",
        'Traceback (most recent call last):\n  File "/opt/x.py", line 1',
    ],
)
@pytest.mark.parametrize("status", [500, 503])
def test_an_engines_message_about_its_internals_is_only_logged(words, status):
    error = parse_error(status, {}, json.dumps({"error": {"message": words, "type": "InternalServerError"}}).encode())
    assert error.message == "The upstream failed while it worked on the request."
    assert (error.original, error.is_quoted) == (words.partition("\n")[0], False)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("EngineCore encountered an issue. See stack trace (above) for the root cause.", EngineDied),
        ("EngineDeadError", EngineDied),
        ("Worker failed with error 'x', please check the stack trace above for the root cause", UpstreamFailed),
    ],
)
def test_a_dead_engine_is_distinguished_from_a_failed_request(words, kind):
    body = json.dumps({"error": {"message": words, "type": "InternalServerError", "code": 500}}).encode()
    assert type(parse_error(500, {}, body)) is type(parse_embedded(body)) is kind


def test_other_messages_of_a_failure_stay():
    error = parse_error(500, {}, b'{"error":{"message":"The moon is full."}}')
    assert (error.message, error.original) == ("The moon is full.", "")


@pytest.mark.parametrize(
    "words",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        'tool_choice="required" requires --tool-call-parser to be set',
        'tool_choice=function "f" requires --tool-call-parser to be set',
    ],
)
def test_a_vllm_without_a_tool_parser_gets_a_message_of_tidegate(words):
    error = parse_error(400, {}, json.dumps({"error": {"message": words, "type": "BadRequestError"}}).encode())
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "tools")
    assert error.message == "Unsupported parameter: 'tools' is not supported with this model."
    assert (error.original, error.may_try_another_target) == (words, True)
