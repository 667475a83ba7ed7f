"""An invalid request gets an error in OpenAI's format; nothing is sent upstream, and one line is logged."""

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.fakes import proxy
from tests.fakes.upstream import answers
from tests.fakes.wire import completion

CHAT = "/v1/chat/completions"
USER = '[{"role": "user", "content": "Hi"}]'
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"


def body(**changes: str) -> bytes:
    fields = {"model": '"m"', "messages": USER} | changes
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items() if value) + "}").encode()


CASES = {
    "invalid JSON": (b"{", None, None),
    "no JSON": (b"", None, None),
    "invalid UTF-8": (b'{"model": "\xff"}', None, None),
    "NaN": (body(temperature="NaN"), None, None),
    "infinity": (body(temperature="Infinity"), None, None),
    "too deep": (body(metadata="[" * 65 + "]" * 65), None, "json_too_deep"),
    "very deep": (b"[" * 100_000, None, "json_too_deep"),
    "not an object": (b"[]", None, TYPE),
    "missing model": (body(model=""), "model", MISSING),
    "model of the wrong type": (body(model="1"), "model", TYPE),
    "empty model": (body(model='""'), "model", "empty_string"),
    "missing messages": (body(messages=""), "messages", MISSING),
    "messages of the wrong type": (body(messages='"Hi"'), "messages", TYPE),
    "no messages": (body(messages="[]"), "messages", "empty_array"),
    "a message of the wrong type": (body(messages='["Hi"]'), "messages[0]", TYPE),
    "missing role": (body(messages='[{"content": "Hi"}]'), "messages[0].role", MISSING),
    "unknown role": (body(messages='[{"role": "wizard", "content": "Hi"}]'), "messages[0].role", VALUE),
    "message without content": (body(messages='[{"role": "user"}]'), "messages[0].content", MISSING),
    "content null": (body(messages='[{"role": "user", "content": null}]'), "messages[0].content", TYPE),
    "content a number": (body(messages='[{"role": "user", "content": 7}]'), "messages[0].content", TYPE),
    "silent assistant": (
        body(messages='[{"role": "assistant", "content": null, "tool_calls": null}]'),
        "messages[0].content",
        TYPE,
    ),
    "tool message without id": (
        body(messages=USER[:-1] + ', {"role": "tool", "content": "4"}]'),
        "messages[1].tool_call_id",
        MISSING,
    ),
    "n of 0": (body(n="0"), "n", "integer_below_min_value"),
    "n of 129": (body(n="129"), "n", "integer_above_max_value"),
    "temperature of 3": (body(temperature="3"), "temperature", "decimal_above_max_value"),
    "temperature below 0": (body(temperature="-0.1"), "temperature", "decimal_below_min_value"),
    "temperature a string": (body(temperature='"hot"'), "temperature", TYPE),
    "top_p of 2": (body(top_p="2"), "top_p", "decimal_above_max_value"),
    "max_tokens of 0": (body(max_tokens="0"), "max_tokens", "integer_below_min_value"),
    "stream a string": (body(stream='"yes"'), "stream", TYPE),
    "stream_options without stream": (body(stream_options='{"include_usage": true}'), "stream_options", None),
    "five stops": (body(stop='["a","b","c","d","e"]'), "stop", "array_above_max_length"),
    "tool_choice without tools": (body(tool_choice='"required"'), "tool_choice", None),
    "tool_choice, as an object, without tools": (body(tool_choice='{"type": "any"}'), "tool_choice", None),
    "a named tool_choice without tools": (body(tool_choice='{"function": {"name": "f"}}'), "tool_choice", None),
}


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.mark.parametrize("case", CASES)
async def test_invalid_input_is_a_400_in_openais_format(url, upstream, session, case):
    data, param, code = CASES[case]
    upstream.play(answers(completion()))
    with capture_logs() as lines:
        async with session.post(url + CHAT, data=data, headers={"content-type": "application/json"}) as response:
            answer = await response.json()
    error = answer["error"]
    assert response.status == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]
    assert upstream.calls == []
    assert [line["status"] for line in lines if line["event"] == "request"] == [400]
    assert response.headers["x-request-id"] == next(line["request_id"] for line in lines if line["event"] == "request")


async def test_a_body_over_the_limit_is_refused_before_it_is_read(url, upstream, session):
    async def endless():
        while True:
            yield b" " * 65536

    headers = {"content-type": "application/json", "content-length": str(9 * 1024 * 1024)}
    with capture_logs() as lines:
        try:
            async with session.post(url + CHAT, data=endless(), headers=headers) as response:
                status, error = response.status, (await response.json())["error"]
        except aiohttp.ClientError:  # the connection was closed while the client was still sending
            status, error = 413, {"code": "request_too_large"}
    assert status == 413
    assert error["code"] == "request_too_large"
    assert [line["status"] for line in lines if line["event"] == "request"] == [413]
    assert upstream.calls == []


async def test_a_chunked_body_over_the_limit_is_refused(upstream, session):
    config = f'server: {{max_body_bytes: 2048}}\nupstreams: {{host: {{base_url: "{upstream.url}"}}}}'

    async def parts():
        for _ in range(3):
            yield b" " * 1024

    async with (
        proxy.serving(config) as url,
        session.post(url + CHAT, data=parts(), headers={"content-type": "application/json"}) as response,
    ):
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_another_content_type_is_415(url, upstream, session, content_type):
    async with session.post(url + CHAT, data=body(), headers={"content-type": content_type}) as response:
        error = (await response.json())["error"]
    assert response.status == 415
    assert error["code"] == "unsupported_media_type"
    assert upstream.calls == []


async def test_no_content_type_is_415(url, session):
    """A web page in a browser can send such a body to a server on this machine without a preflight request."""
    async with session.post(url + CHAT, data=body(), skip_auto_headers=["content-type"]) as response:
        assert response.status == 415


async def test_an_unknown_model_is_404(url, upstream, session):
    upstream.play(answers(b'{"object": "list", "data": [{"id": "other"}]}'))
    async with session.post(
        url + CHAT, data=body(model='"nobody"'), headers={"content-type": "application/json"}
    ) as response:
        error = (await response.json())["error"]
    assert response.status == 404
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "model_not_found")
    assert [call.method for call in upstream.calls] == ["GET"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_405(url, session, method):
    async with session.request(method, url + CHAT) as response:
        error = (await response.json())["error"]
    assert response.status == 405
    assert response.headers["allow"] == "POST"
    assert error["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/chat/completions", "/v1/chat", "/v1/modelsx"])
async def test_an_unknown_path_is_404(url, session, path):
    with capture_logs() as lines:
        async with session.get(url + path) as response:
            error = (await response.json())["error"]
    assert response.status == 404
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_url")
    assert response.headers["x-request-id"].startswith("req_")
    assert len([line for line in lines if line["event"] == "request"]) == 1


@pytest.mark.parametrize(
    ("path", "data", "param"),
    [
        ("/v1/completions", b'{"model": "m"}', "prompt"),
        ("/v1/completions", b'{"model": "m", "prompt": 7}', "prompt"),
        ("/v1/completions", b'{"model": "m", "prompt": "x", "logprobs": 9}', "logprobs"),
        ("/v1/completions", b'{"model": "m", "prompt": "x", "stream_options": {}}', "stream_options"),
        ("/v1/embeddings", b'{"model": "m"}', "input"),
        ("/v1/embeddings", b'{"model": "m", "input": {}}', "input"),
        ("/v1/embeddings", b'{"model": "m", "input": "x", "encoding_format": "hex"}', "encoding_format"),
    ],
)
async def test_completions_and_embeddings_check_their_input_too(url, upstream, session, path, data, param):
    async with session.post(url + path, data=data, headers={"content-type": "application/json"}) as response:
        error = (await response.json())["error"]
    assert response.status == 400
    assert error["param"] == param
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abcdefgh", True), ("a" * 64, True), ("short", False), ("a" * 65, False), ("bad id with spaces", False)],
)
async def test_a_callers_request_id_is_kept_if_it_is_valid(url, session, given, is_kept):
    async with session.get(f"{url}/v1/models/x", headers={"x-request-id": given}) as response:
        assert (response.headers["x-request-id"] == given) is is_kept


async def test_a_connection_can_be_used_again_after_an_error(url, upstream, session):
    upstream.play(answers(completion()))
    headers = {"content-type": "application/json"}
    for _ in range(3):
        async with session.post(url + CHAT, data=b"{", headers=headers) as response:
            assert response.status == 400
        async with session.post(url + CHAT, data=body(), headers=headers) as response:
            assert response.status == 200
