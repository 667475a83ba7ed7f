"""Bytes that belong to no request never answer one: their connection is closed and not reused.

RFC 9112, 6.3 and 9.2. The host is real and on a real socket; what it writes too much is written before the next request
leaves, so that only a client that looks can know.
"""

import asyncio
import select
from contextlib import asynccontextmanager

import aiohttp
import pytest
from tidegate.transport.wire import Timeouts, Transport

from tests.fakes import certificates, proxy
from tests.fakes.upstream import SSE_HEAD, Call, ScenarioUpstream, Script, answers, streams
from tests.fakes.wire import completion, text_stream

TIMEOUTS = Timeouts(connect_s=30, first_byte_s=30, answer_s=30, idle_s=30)
LIMIT_S = 30
KEPT_S = 3600.0  # no connection is closed for its age
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
# by how an answer ends: the bytes of all but its end, and of its end
ENDS = {
    "content-length": (HEAD + b"content-length: %d\r\n\r\n" % len(MINE) + MINE[:9], MINE[9:]),
    "chunked": (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(MINE), MINE), b"0\r\n\r\n"),
    "a trailer": (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(MINE), MINE), b"0\r\nx: y\r\n\r\n"),
    "[DONE]": (SSE_HEAD + b"%x\r\n%b\r\n" % (len(STREAM), STREAM), b"0\r\n\r\n"),
    "an error": (b"HTTP/1.1 400 X\r\ncontent-length: 4\r\n\r\nmi", b"ne"),
    "an error without a body": (b"HTTP/1.1 503 X\r\n", b"content-length: 0\r\n\r\n"),
    "no content": (b"HTTP/1.1 204 No Content\r\n", b"\r\n"),
}


def ends(begin: bytes, end: bytes) -> Script:
    """An answer; its end is written when the test says `go`, after its beginning has been read."""

    async def script(call: Call) -> None:
        await call.write(begin)
        await call.go.wait()
        await call.write(end)

    return script


def stays(script: Script) -> Script:
    """Like that, then wait until the connection is closed (`call.gone`)."""

    async def staying(call: Call) -> None:
        await script(call)
        await call.gone.wait()

    return staying


@asynccontextmanager
async def host_at(place: str, folder):
    """A host, and a wire to it."""
    host = ScenarioUpstream()
    path = str(folder / "s") if place == "Unix socket" else None
    async with host.running(path=path):
        wire = Transport(host.url, timeouts=TIMEOUTS, socket_path=path, keepalive_s=KEPT_S)
        try:
            yield host, wire
        finally:
            await wire.close()


async def read(wire: Transport, host: ScenarioUpstream | None = None) -> bytes:
    """One answer, as the pipeline reads it: errors by `read_complaint`, a stream up to its [DONE].

    With `host`, its script may go on when the request has come.
    """
    asking = asyncio.create_task(wire.post(PATH, b"{}", is_stream=True))
    if host is not None:
        (await host.next_call()).go.set()
    response = await asking
    body = b""
    try:
        if response.status != 200:
            return await response.read_complaint()
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
        host.play(stays(ends(*ENDS[end])), answers(b'"second"'))
        first = await read(wire, host)
        assert b"STOLEN" not in first
        call = host.calls[0]
        await settled(wire)
        call.writer.write(surplus)  # in the kernel, unread, when the next request goes out
        assert await read(wire) == b'"second"'
        assert host.connections == 2
        async with asyncio.timeout(LIMIT_S):
            await call.gone.wait()


@pytest.mark.parametrize("surplus", [*SURPLUS.values(), *JUNK.values()], ids=[*SURPLUS, *JUNK])
async def test_a_byte_on_an_idle_connection_closes_it(tmp_path, surplus):
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(stays(answers(b'"first"')), answers(b'"second"'))
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
        host.play(ends(begin, rest + SURPLUS[surplus]), answers(b'"second"'))
        assert b"STOLEN" not in await read(wire, host)
        await settled(wire)
        assert await read(wire) == b'"second"'
        assert host.connections == 2


@pytest.mark.parametrize("surplus", SURPLUS)
async def test_surplus_bytes_in_one_read_with_a_whole_answer_answer_no_request(tmp_path, surplus):
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(ends(b"", b"".join(ENDS["content-length"]) + SURPLUS[surplus]), answers(b'"second"'))
        assert await read(wire, host) == MINE
        assert await read(wire) == b'"second"'
        assert host.connections == 2


@pytest.mark.parametrize("place", ["TCP", "Unix socket"])
async def test_bytes_between_taking_a_connection_and_writing_to_it_answer_no_request(tmp_path, place):
    async with host_at(place, tmp_path) as (host, wire):
        for turns in range(20):
            host.play(stays(answers(b'"first"')), answers(b'"second"'))
            assert await read(wire) == b'"first"'
            call = host.calls[-1]
            asking = asyncio.create_task(read(wire))
            for _ in range(turns):
                await asyncio.sleep(0)
            if is_readable(call):  # the request has been written
                asking.cancel()
                break
            call.writer.write(WHOLE)
            assert await asking == b'"second"', turns
        assert turns > 1


def is_readable(call: Call) -> bool:
    return bool(select.select([call.writer.get_extra_info("socket").fileno()], [], [], 0)[0])


async def test_a_connection_that_keeps_quiet_is_used_again(tmp_path):
    async with host_at("TCP", tmp_path) as (host, wire):
        for begin, end in ENDS.values():
            host.play(ends(begin, end), answers(b'"next"'))
            await read(wire, host)
            await settled(wire)
            assert await read(wire, host) == b'"next"'
        assert host.connections == 1


async def test_a_connection_that_the_host_has_closed_is_not_used_again(tmp_path):
    """The FIN is unread in the kernel; no request is sent on the connection."""
    async with host_at("TCP", tmp_path) as (host, wire):
        host.play(answers(b'"first"'), answers(b'"second"'))
        assert await read(wire) == b'"first"'
        host.calls[0].writer.close()
        assert await read(wire) == b'"second"'
        assert (host.connections, len(host.calls)) == (2, 2)


async def settled(wire: Transport) -> None:
    """What was read to its end in the background has ended."""
    await asyncio.gather(*wire._draining)


# --- Tidegate as a whole ------------------------------------------------------------------------------------------


async def ask(session: aiohttp.ClientSession, url: str, *, stream: bool) -> bytes:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return await answer.read()


def host_of(*, stream: bool) -> tuple[Script, Script]:
    """Scripts of a first and a second answer."""
    if stream:
        return streams(*text_stream("first")), streams(*text_stream("second"))
    return answers(completion("first")), answers(completion("second"))


@pytest.mark.parametrize("surplus", ["a whole answer", "an answer without its end", "half a head"])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_next_caller_gets_an_answer_of_its_own(url, upstream, stream, surplus):
    upstream.play(*host_of(stream=stream))
    async with aiohttp.ClientSession() as session:
        assert b"first" in await ask(session, url, stream=stream)
        upstream.calls[0].writer.write(SURPLUS[surplus])
        told = await ask(session, url, stream=stream)
    assert b"second" in told
    assert b"STOLEN" not in told


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_surplus_bytes_over_tls_close_the_connection(tmp_path, stream):
    contexts = certificates.make(tmp_path / "authority.pem")
    host = ScenarioUpstream()
    first, second = host_of(stream=stream)
    host.play(stays(first), second)
    async with host.running(tls=contexts["good"]):
        (tmp_path / "tidegate.yaml").write_text(f"""
upstreams: {{host: {{base_url: "{host.url}", keepalive_s: {KEPT_S}}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
""")
        variables = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        async with (
            proxy.process("--config", str(tmp_path / "tidegate.yaml"), **variables) as running,
            aiohttp.ClientSession() as session,
        ):
            assert b"first" in await ask(session, running.url, stream=stream)
            host.calls[0].writer.write(WHOLE)
            async with asyncio.timeout(LIMIT_S):
                await host.calls[0].gone.wait()
            assert b"second" in await ask(session, running.url, stream=stream)
    assert host.connections == 2
