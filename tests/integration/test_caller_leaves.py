"""A caller that disconnects ends the upstream's work; one that stops reading costs no memory."""

import asyncio
import json
import time

import pytest

from tests.fakes.upstream import SSE_HEAD, Call, hangs
from tests.fakes.wire import chunk

_TRIES = 5


@pytest.fixture
def config(upstream):
    """The host stays silent, so that only the disconnect of the caller ends the request in time."""
    waits = ", ".join(f"{wait}_timeout_s: 3600" for wait in ("first_byte", "answer", "idle"))
    return f"""
server: {{comment_every_s: 3600, empty_chunk_every_s: 3600}}
upstreams: {{host: {{base_url: "{upstream.url}", {waits}}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""


def request_bytes(*, stream: bool) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def starts_and_hangs(call: Call) -> None:
    await call.write(SSE_HEAD)
    await call.event(chunk({"role": "assistant", "content": ""}))
    await call.event(chunk({"content": "Hi"}))
    await call.gone.wait()


@pytest.mark.parametrize(
    ("script", "stream", "waits_for"),
    [(hangs, True, None), (hangs, False, None), (starts_and_hangs, True, b'"Hi"')],
    ids=["prefill", "unary", "mid-stream"],
)
async def test_a_caller_who_leaves_closes_the_upstream(url, upstream, script, stream, waits_for, record_property):
    """The delay is recorded (50 ms are allowed) but not asserted, as a busy machine would decide."""
    upstream.play(script)
    took_s = []
    for _ in range(_TRIES):
        reader, writer = await connect(url)
        writer.write(request_bytes(stream=stream))
        call = await upstream.next_call()
        if waits_for is not None:
            await reader.readuntil(waits_for)
        left_at = time.perf_counter()
        writer.close()
        await call.gone.wait()
        took_s.append(time.perf_counter() - left_at)
    record_property("left_ms", [round(each * 1000, 1) for each in took_s])


async def test_a_caller_who_stops_reading_stops_the_upstream(url, upstream):
    """The bytes in flight are bounded by buffers, not by the length of the answer; then the stream continues."""
    text = "~" * 1000
    sent = 0
    total = 50_000
    stalled = asyncio.Event()

    async def floods(call: Call) -> None:
        nonlocal sent
        await call.write(SSE_HEAD)
        payload = chunk({"content": text})
        for _ in range(total):
            sending = asyncio.ensure_future(call.event(payload))
            done, _ = await asyncio.wait((sending,), timeout=None if stalled.is_set() else 1)
            if not done:
                stalled.set()
            await sending
            sent += 1
        await call.event(chunk(finish="stop"))
        await call.event(b"[DONE]")
        await call.end()

    upstream.play(floods)
    reader, writer = await connect(url)
    writer.write(request_bytes(stream=True))
    await stalled.wait()
    assert sent * len(text) < 32 * 1024 * 1024
    received = 0
    while data := await reader.read(1 << 20):
        received += data.count(b"~")
        if b"[DONE]" in data:
            break
    writer.close()
    assert sent == total
    assert received == total * len(text)
