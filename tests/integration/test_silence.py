"""Keep-alives are sent while an upstream is silent, and a failure after them is sent in band."""

import aiohttp
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import SSE_HEAD, Call, answers
from tests.fakes.wire import chunk

REQUEST = {"model": "host/x", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def url(upstream):
    config = f"""
server: {{comment_every_s: 0.05, empty_chunk_every_s: 0.05}}
upstreams: {{host: {{base_url: "{upstream.url}"}}}}
"""
    async with proxy.serving(config) as address:
        yield address


async def test_comments_keep_a_stream_alive_until_its_first_token(url, upstream, session):
    async def thinks(call: Call) -> None:
        await call.go.wait()
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.event(chunk(finish="stop"))
        await call.event(b"[DONE]")
        await call.end()

    upstream.play(thinks)
    async with session.post(f"{url}/v1/chat/completions", json=REQUEST) as response:
        lines = [await response.content.readline() for _ in range(4)]
        (await upstream.next_call()).go.set()
        rest = await response.content.read()
    assert lines == [b": keep-alive\n", b"\n"] * 2
    assert b'"content":"Hi"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_empty_chunks_keep_a_stream_alive_after_its_first_token(url, upstream, session):
    """LangChain raises a timeout after 120 s without a chunk; comments do not count as chunks."""

    async def pauses(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.go.wait()
        await call.event(chunk(finish="stop"))
        await call.event(b"[DONE]")
        await call.end()

    upstream.play(pauses)
    async with session.post(f"{url}/v1/chat/completions", json=REQUEST) as response:
        received = b""
        while received.count(b'"delta":{}') < 2:
            received += await response.content.readany()
        (await upstream.next_call()).go.set()
        rest = await response.content.read()
    assert b'"finish_reason":"stop"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_failure_after_comments_is_sent_in_band(url, upstream, session):
    async def fails_late(call: Call) -> None:
        await call.go.wait()
        await answers(b'{"error": {"message": "boom"}}', status=500)(call)

    upstream.play(fails_late)
    async with session.post(f"{url}/v1/chat/completions", json=REQUEST) as response:
        assert response.status == 200
        await response.content.readline()
        (await upstream.next_call()).go.set()
        rest = await response.content.read()
    assert b'data: {"error":{"message":"boom"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
