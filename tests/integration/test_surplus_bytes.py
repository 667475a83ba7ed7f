"""Surplus bytes of a host are never read as the answer to a request: the connection is closed and not reused.

RFC 9112, 6.3 and 9.2. The host uses a real socket. It writes the surplus bytes before the next request is sent, so a
client can notice them only if it checks the connection before each request.
"""

import asyncio
import select
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.fakes import certificates, proxy
from tests.fakes.upstream import SSE_HEAD, Call, ScenarioUpstream, Script, answers, streams
from tests.fakes.wire import completion, text_stream
from tidegate.transport.wire import Timeouts, Transport

TIMEOUTS = Timeouts(connect_s=30, first_byte_s=30, answer_s=30, idle_s=30)
LIMIT_S = 30
KEEPALIVE_S = 3600.0  # so long that no connection is closed because of its age
PATH = "/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STOLEN = completion("STOLEN")
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(STOLEN) + STOLEN
SURPLUS = {
    "a whole answer": WHOLE,
    "two answers": WHOLE * 2,
    "an answer without its end": WHOLE[:-5],
    "a stream": SSE_HEAD + b"e\r\ndata: STOLEN\n\n\r\n",
    "half a head": HEAD,
    "one byte of a status line": b"H",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "an error": b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n",
}
JUNK = {"an empty line": b"\r\n", "no HTTP": b"\x00\xff", "an SSE comment": b": keep-alive\n\n"}
STREAM = b"".join(text_stream("mine"))
MINE = completion("mine")
# by what ends an answer: the bytes before the end, and the bytes of the end
ENDS = {
    "content-length": (HEAD + b"content-length: %d\r\n\r\n" % len(MINE) + MINE[:9], MINE[9:]),
    "chunked": (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(MINE), MINE), b"0\r\n\r\n"),
    "a trailer": (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(MINE), MINE), b"0\r\nx: y\r\n\r\n"),
    "[DONE]": (SSE_HEAD + b"%x\r\n%b\r\n" % (len(STREAM), STREAM), b"0\r\n\r\n"),
    "an error": (b"HTTP/1.1 400 X\r\ncontent-length: 4\r\n\r\nmi", b"ne"),
    "an error without a body": (b"HTTP/1.1 503 X\r\n", b"content-length: 0\r\n\r\n"),
    "no content": (b"HTTP/1.1 204 No Content\r\n", b"\r\n"),
}


def answer_in_two_parts(begin: bytes, end: bytes) -> Script:
    """Return a script that writes `begin`, waits until the test sets `call.go`, and writes `end`."""

    async def script(call: Call) -> None:
        await call.write(begin)
        await call.go.wait()
        await call.write(end)

    return script


def then_wait_until_closed(script: Script) -> Script:
    """Return a script that runs `script` and then waits until the connection is closed (`call.gone`)."""

    async def staying(call: Call) -> None:
        await script(call)
        await call.gone.wait()

    return staying


@asynccontextmanager
async def host_at(place: str, folder):
    """Run a host; yield it and a transport that is connected to it."""
    host = ScenarioUpstream()
    path = str(folder / "s") if place == "Unix socket" else None
    async with host.running(path=path):
        wire = Transport(host.url, timeouts=TIMEOUTS, socket_path=path, keepalive_s=KEEPALIVE_S)
        try:
            yield host, wire
        finally:
            await wire.close()


async def read(wire: Transport, host: ScenarioUpstream | None = None) -> bytes:
    """Read one answer as the pipeline does: an error by `read_error_body`, a stream up to its `[DONE]`.

    If `host` is given, its script is resumed (`call.go`) when it has received the request.
    """
    request = asyncio.create_task(wire.post(PATH, b"{}", is_stream=True))
    if host is not None:
        (await host.next_call()).go.set()
    response = await request
    body = b""
    try:
        if response.status != 200:
            return await response.read_error_body()
        if response.headers["content-type"] == "application/json":
            return await response.read_all()
        while b"[DONE]" not in body and (piece := await response.read_some()):
            body += piece
        response.expect_end()
        return body
    finally:
        response.close()


@pytest.mark.parametrize("place", ["TCP", "Unix socket"])
@pytest.mark.parametrize("surplus", [*SURPLUS.values(), *JUNK.values()], ids=[*SURPLUS, *JUNK])
@pytest.mark.parametrize("end", ENDS)
async def test_bytes_on_an_idle_connection_answer_no_request(tmp_path, place, end, surplus):
    async with host_at(place, tmp_path) as (host, wire):
        host.play(then_wait_until_closed(answer_in_two_parts(*ENDS[end])), answers(b'"second"'))
        first = await read(wire, host)
        assert b"STOLEN" not in first
        call = host.calls[0]
        await wait_until_drained(wire)
        call.writer.write(surplus)  # they are in the kernel, unread, when the next request is sent
        assert await read(wire) == b'"second"'
        assert host.connections == 2
        async with asyncio.timeout(LIMIT_S):
            await call.gone.wait()


@pytest.mark.parametrize("surplus", [*SURPLUS.values(), *JUNK.values()], ids=[*SURPLUS, *JUNK])
async def test_a_byte_on_an_idle_connection_closes_it(tmp_path, surplus):
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(then_wait_until_closed(answers(b'"first"')), answers(b'"second"'))
        assert await read(wire) == b'"first"'
        call = host.calls[0]
        call.writer.write(surplus)
        async with asyncio.timeout(LIMIT_S):
            await call.gone.wait()
        assert await read(wire) == b'"second"'


@pytest.mark.parametrize("surplus", SURPLUS)
@pytest.mark.parametrize("end", ENDS)
async def test_surplus_bytes_in_one_read_with_the_end_of_an_answer_answer_no_request(tmp_path, end, surplus):
    begin, rest = ENDS[end]
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(answer_in_two_parts(begin, rest + SURPLUS[surplus]), answers(b'"second"'))
        assert b"STOLEN" not in await read(wire, host)
        await wait_until_drained(wire)
        assert await read(wire) == b'"second"'
        assert host.connections == 2


@pytest.mark.parametrize("surplus", SURPLUS)
async def test_surplus_bytes_in_one_read_with_a_whole_answer_answer_no_request(tmp_path, surplus):
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(answer_in_two_parts(b"", b"".join(ENDS["content-length"]) + SURPLUS[surplus]), answers(b'"second"'))
        assert await read(wire, host) == MINE
        assert await read(wire) == b'"second"'
        assert host.connections == 2


@pytest.mark.parametrize("place", ["TCP", "Unix socket"])
async def test_bytes_between_taking_a_connection_and_writing_to_it_answer_no_request(tmp_path, place):
    async with host_at(place, tmp_path) as (host, wire):
        for yields in range(20):
            host.play(then_wait_until_closed(answers(b'"first"')), answers(b'"second"'))
            assert await read(wire) == b'"first"'
            call = host.calls[-1]
            request = asyncio.create_task(read(wire))
            for _ in range(yields):
                await asyncio.sleep(0)
            if is_readable(call):  # the request has been written
                request.cancel()
                break
            call.writer.write(WHOLE)
            assert await request == b'"second"', yields
        assert yields > 1


def is_readable(call: Call) -> bool:
    return bool(select.select([call.writer.get_extra_info("socket").fileno()], [], [], 0)[0])


async def test_a_connection_without_surplus_bytes_is_reused(tmp_path):
    async with host_at("TCP", tmp_path) as (host, wire):
        for begin, end in ENDS.values():
            host.play(answer_in_two_parts(begin, end), answers(b'"next"'))
            await read(wire, host)
            await wait_until_drained(wire)
            assert await read(wire, host) == b'"next"'
        assert host.connections == 1


async def test_a_connection_that_the_host_has_closed_is_not_reused(tmp_path):
    """The FIN is in the kernel, unread; no request is sent on the connection."""
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(answers(b'"first"'), answers(b'"second"'))
        assert await read(wire) == b'"first"'
        host.calls[0].writer.close()
        assert await read(wire) == b'"second"'
        assert (host.connections, len(host.calls)) == (2, 2)


async def wait_until_drained(wire: Transport) -> None:
    """Wait until the answers that are read to their ends in the background have ended."""
    await asyncio.gather(*wire._draining)


# --- Tidegate as a whole ------------------------------------------------------------------------------------------


async def send_request(session: aiohttp.ClientSession, url: str, *, stream: bool) -> bytes:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return await answer.read()


def host_of(*, stream: bool) -> tuple[Script, Script]:
    """Return the scripts of a first and a second answer."""
    if stream:
        return streams(*text_stream("first")), streams(*text_stream("second"))
    return answers(completion("first")), answers(completion("second"))


@pytest.mark.parametrize("surplus", ["a whole answer", "an answer without its end", "half a head"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_next_caller_gets_an_answer_of_its_own(url, upstream, stream, surplus):
    upstream.play(*host_of(stream=stream))
    async with aiohttp.ClientSession() as session:
        assert b"first" in await send_request(session, url, stream=stream)
        upstream.calls[0].writer.write(SURPLUS[surplus])
        body = await send_request(session, url, stream=stream)
    assert b"second" in body
    assert b"STOLEN" not in body


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_surplus_bytes_over_tls_close_the_connection(tmp_path, stream):
    contexts = certificates.make(tmp_path / "authority.pem")
    host = ScenarioUpstream()
    first, second = host_of(stream=stream)
    host.play(then_wait_until_closed(first), second)
    async with host.running(tls=contexts["good"]):
        (tmp_path / "tidegate.yaml").write_text(f"""
upstreams: {{host: {{base_url: "{host.url}", keepalive_s: {KEEPALIVE_S}}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
""")
        variables = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        async with (
            proxy.process("--config", str(tmp_path / "tidegate.yaml"), **variables) as running,
            aiohttp.ClientSession() as session,
        ):
            assert b"first" in await send_request(session, running.url, stream=stream)
            host.calls[0].writer.write(WHOLE)
            async with asyncio.timeout(LIMIT_S):
                await host.calls[0].gone.wait()
            assert b"second" in await send_request(session, running.url, stream=stream)
    assert host.connections == 2
