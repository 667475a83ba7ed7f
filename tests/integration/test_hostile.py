"""Hostile and broken peers: what they try, and what they get. Each of these was a fault once."""

import asyncio
import json
import signal

import aiohttp
import openai
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import PAUSE, SSE_HEAD, Call, answers, streams
from tests.fakes.wire import chunk, event

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as made:
        yield made


async def test_what_came_with_an_error_is_told_before_it(client, upstream):
    """Ten texts and an error in one read: all ten reach the caller."""
    texts = [event(chunk({"content": str(number)})) for number in range(10)]
    upstream.play(
        streams(event(chunk({"content": "x"})), PAUSE, b"".join(texts) + event(b'{"error": {"message": "boom"}}'))
    )
    heard = []
    with pytest.raises(openai.APIError, match="boom"):
        async for piece in await client.chat.completions.create(**ASK, stream=True):
            heard.append(piece.choices[0].delta.content)
            upstream.calls[-1].go.set()
    assert "".join(text for text in heard if text) == "x0123456789"


async def test_silence_after_the_last_finish_reason_is_the_end(upstream):
    """Only `[DONE]` and the end of the body are missing."""
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", idle_timeout_s: 0.1}}}}'

    async def hangs_after_finish(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.event(chunk(finish="stop"))
        await call.gone.wait()

    upstream.play(hangs_after_finish)
    async with (
        proxy.serving(config) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        answer = await client.chat.completions.create(**ASK | {"model": "host/x"}, stream=True)
        assert "".join([piece.choices[0].delta.content or "" async for piece in answer]) == "Hi"


@pytest.mark.parametrize("begins", [False, True], ids=["before the first event", "in the middle"])
async def test_comments_alone_do_not_keep_an_answer_waiting_for_ever(upstream, begins):
    config = f"""
upstreams:
  host: {{base_url: "{upstream.url}", first_byte_timeout_s: 0.2, answer_timeout_s: 0.4, idle_timeout_s: 0.3}}
"""

    async def only_comments(call: Call) -> None:
        await call.write(SSE_HEAD)
        if begins:
            await call.event(chunk({"content": "Hi"}))
        while not call.gone.is_set():
            await call.chunk(b": still here\n\n")
            await asyncio.wait((asyncio.ensure_future(call.gone.wait()),), timeout=0.02)

    upstream.play(only_comments)
    async with (
        proxy.serving(config) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client.chat.completions.create(**ASK | {"model": "host/x"}, stream=True):
                pass
    assert caught.value.code == "upstream_timeout"
    assert hasattr(caught.value, "status_code") is not begins


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "\\ud800 bad", "param": "\\ud800"}}',
        b'{"error": {"message": "' + b"x" * 100_000 + b'", "code": "' + b"y" * 100_000 + b'"}}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ],
    ids=["surrogates", "huge", "deep", "no UTF-8", "empty"],
)
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_an_error_in_any_bytes_is_an_openai_error_of_sane_size(url, upstream, session, body, status):
    upstream.play(answers(body, status=status))
    async with session.post(f"{url}/v1/chat/completions", json=ASK) as response:
        told = await response.read()
    error = json.loads(told)["error"]
    assert response.status == (400 if status == 400 else 502)
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(told) < 4096


async def test_our_key_is_not_shown_in_the_hosts_words(upstream, session, tmp_path):
    (tmp_path / "key").write_text("sk-our-own-secret")
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", api_keys: [file:{tmp_path}/key]}}}}'
    body = b'{"error": {"message": "Bad key sk-our-own-secret!", "param": "sk-our-own-secret"}}'
    async with proxy.serving(config) as url:
        for status in (200, 400, 429, 500):
            upstream.play(answers(body, status=status))
            async with session.post(f"{url}/v1/chat/completions", json=ASK | {"model": "host/x"}) as response:
                told = await response.text()
            assert "Bad key ***!" in told
            assert "sk-our-own-secret" not in told


async def test_a_flood_of_tool_calls_is_a_failure_and_no_standstill(client, upstream):
    calls = [{"index": index, "function": {"name": "f", "arguments": ""}} for index in range(50_000)]
    upstream.play(streams(event(chunk({"tool_calls": calls}))))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**ASK, stream=True)
    assert caught.value.code == "upstream_failed"


async def test_a_whole_answer_in_endless_events_is_given_up(client, upstream):
    payload = chunk({"content": "x" * 500_000})

    async def endless(call: Call) -> None:
        await call.write(SSE_HEAD)
        while not call.gone.is_set():
            await call.event(payload)

    upstream.play(endless)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**ASK)
    assert "over" in caught.value.message


@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_event_without_an_end_is_given_up(client, upstream, is_stream):
    """The upstream's connection is closed, and the caller gets a status: nothing has left yet."""

    async def endless(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.chunk(b"data: ")
        while not call.gone.is_set():
            await call.chunk(b"x" * 65536)

    upstream.play(endless)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**ASK, stream=is_stream)
    assert "event of more than" in caught.value.message


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
async def test_without_keys_a_page_that_points_its_name_here_gets_nothing(url, upstream, session, host):
    async with session.post(f"{url}/v1/chat/completions", json=ASK, headers={"host": host}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (403, "not_permitted")
    assert upstream.calls == []
    async with session.get(f"{url}/metrics", headers={"host": host}) as response:
        assert response.status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "192.168.0.7"])
async def test_an_address_or_localhost_is_answered_to(url, session, host):
    async with session.get(f"{url}/v1/models/m", headers={"host": host}) as response:
        assert response.status == 200


async def test_a_caller_who_never_reads_does_not_hold_up_the_end(upstream, tmp_path):
    path = tmp_path / "tidegate.yaml"
    path.write_text(f"""
server: {{shutdown_grace_s: 0.2}}
upstreams: {{host: {{base_url: "{upstream.url}"}}}}
""")

    async def floods(call: Call) -> None:
        await call.write(SSE_HEAD)
        while not call.gone.is_set():
            await call.event(chunk({"content": "x" * 100_000}))

    upstream.play(floods)
    body = json.dumps(ASK | {"model": "host/x", "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    async with proxy.process("--config", str(path)) as running:
        host, _, port = running.url.removeprefix("http://").rpartition(":")
        _, never_reads = await asyncio.open_connection(host, int(port), limit=1024)
        never_reads.write(head.encode() + body)
        _, half_a_head = await asyncio.open_connection(host, int(port))
        half_a_head.write(b"GET /livez HT")
        await half_a_head.drain()
        await upstream.next_call()
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.process.wait(), 15) == 0
        never_reads.close()
        half_a_head.close()
