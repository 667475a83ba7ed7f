"""Hosts compress answers although `identity` was requested: unary answers, streams, errors, lists of models."""

import gzip
import json
import zlib

import openai
import pytest
import zstandard

from tests.fakes import proxy
from tests.fakes.upstream import PAUSE, ScenarioUpstream, answers, streams
from tests.fakes.wire import completion, text_stream
from tidegate.errors import UpstreamFailed
from tidegate.transport.oauth import TokenClient

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ERROR = json.dumps({"error": {"message": "That is too much.", "type": "invalid_request_error"}}).encode()
STREAM = b"".join(text_stream("Hi", " you"))
CODINGS = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "gzip, gzip": (b"gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
    "no label": (b"", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "zstd": (b"zstd", zstandard.ZstdCompressor().compress),
}
BROTLI = b"\x1b\x2c\x00\xf8\x8d\x94\x6e\xde\x44\x55\x86\x66\xc3\x2b\x02\xa4\xd0\x82"  # begins like a brotli stream
LZW = b"\x1f\x9d\x90" + bytes(range(64))


def head(label: bytes) -> bytes:
    return b"content-encoding: %b\r\n" % label if label else b""


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)


async def answer_text(client: openai.AsyncOpenAI, *, stream: bool) -> str:
    if not stream:
        return (await client.chat.completions.create(**REQUEST)).choices[0].message.content
    pieces = [chunk async for chunk in await client.chat.completions.create(**REQUEST, stream=True)]
    return "".join(chunk.choices[0].delta.content or "" for chunk in pieces)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_compressed_answer_is_read(url, upstream, coding, stream):
    label, compress = CODINGS[coding]
    body, content_type = (STREAM, "text/event-stream") if stream else (completion("Hi you"), "application/json")
    upstream.play(answers(compress(body), head=head(label), content_type=content_type))
    async with client_of(url) as client:
        assert await answer_text(client, stream=stream) == "Hi you"
        assert await answer_text(client, stream=stream) == "Hi you"
    assert upstream.connections == 1


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_error_is_passed_on(url, upstream, coding):
    label, compress = CODINGS[coding]
    upstream.play(answers(compress(ERROR), head=head(label), status=400))
    async with client_of(url) as client:
        with pytest.raises(openai.BadRequestError, match="That is too much"):
            await client.chat.completions.create(**REQUEST)


async def test_an_event_is_passed_on_when_the_host_flushes_it(url, upstream):
    compressor = zlib.compressobj(wbits=31)
    pieces = [compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH) for event in text_stream("Hi", " you")]

    async def script(call):
        await call.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        await call.write(b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in [*pieces[:2], PAUSE, *pieces[2:]]:
            await call.chunk(piece)
        await call.end()

    upstream.play(script)
    async with client_of(url) as client:
        text = ""
        async for chunk in await client.chat.completions.create(**REQUEST, stream=True):
            text += chunk.choices[0].delta.content or ""
            if text == "Hi":
                upstream.calls[0].go.set()
    assert text == "Hi you"


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(
    ("label", "body", "name"), [(b"br", BROTLI, "br"), (b"compress", LZW, "compress"), (b"", LZW, "compress")]
)
async def test_an_unreadable_coding_is_named_and_another_target_answers(upstream, label, body, name, stream):
    content_type = "text/event-stream" if stream else "application/json"
    upstream.play(answers(body, head=head(label), content_type=content_type))
    other = ScenarioUpstream()
    other.play(streams(STREAM) if stream else answers(completion("Hi you")))
    async with other.running():
        config = f"""
upstreams: {{first: {{base_url: "{upstream.url}"}}, second: {{base_url: "{other.url}"}}}}
models:
  one: {{targets: [{{upstream: first, model: a}}]}}
  m: {{targets: [{{upstream: first, model: a}}, {{upstream: second, model: b}}]}}
"""
        async with proxy.serving(config) as url, client_of(url) as client:
            assert await answer_text(client, stream=stream) == "Hi you"
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(**REQUEST | {"model": "one"}, stream=stream)
    assert (caught.value.status_code, caught.value.body["code"]) == (502, "upstream_failed")
    assert f"compressed ({name})" in caught.value.body["message"]


@pytest.mark.parametrize("status", [400, 429, 500, 503])
@pytest.mark.parametrize(
    ("label", "body"), [(b"compress", LZW), (b"", bytes(range(256))), (b"gzip", b"\x1f\x8b\xff" * 9)]
)
async def test_the_bytes_of_an_unreadable_error_are_not_shown(url, upstream, label, body, status):
    """The caller still gets the status."""
    upstream.play(answers(body, head=head(label), status=status))
    async with client_of(url) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**REQUEST)
    assert caught.value.status_code == {500: 502}.get(status, status)
    assert caught.value.body["message"].isascii()
    assert caught.value.body["message"].startswith("The upstream")


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_decompression_bomb_is_a_failure_in_bounded_memory(url, upstream, stream):
    """It is compressed twice, so that a kilobyte can expand to about a gigabyte."""
    content_type = "text/event-stream" if stream else "application/json"
    upstream.play(answers(bomb(), head=head(b"gzip"), content_type=content_type))
    async with client_of(url) as client:
        with pytest.raises(openai.APIError) as caught:
            await answer_text(client, stream=stream)
    assert caught.value.body["code"] == "upstream_failed"


def bomb() -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    return gzip.compress(b"".join([*(compressor.compress(b" " * (1 << 20)) for _ in range(200)), compressor.flush()]))


async def test_lists_of_models_are_read(url, upstream):
    body = json.dumps({"object": "list", "data": [{"id": "theirs", "object": "model", "created": 1}]}).encode()
    upstream.play(answers(gzip.compress(body), head=head(b"gzip")))
    async with client_of(url) as client:
        assert "theirs" in [model.id for model in (await client.models.list()).data]


@pytest.mark.parametrize("label", [b"gzip", b""])
async def test_tokens_are_read(label):
    host = ScenarioUpstream()
    host.play(answers(gzip.compress(b'{"access_token": "t", "expires_in": 60}'), head=head(label)))
    client = TokenClient()
    async with host.running():
        assert (await client.request_token(host.url, {})).value == "t"
    await client.close()


async def test_a_token_that_is_a_bomb_is_a_failure():
    host = ScenarioUpstream()
    host.play(answers(gzip.compress(b" " * 70_000 + b"{}")))
    client = TokenClient()
    async with host.running():
        with pytest.raises(UpstreamFailed, match="over 65536 bytes"):
            await client.request_token(host.url, {})
    await client.close()
