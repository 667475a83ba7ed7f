"""`Transport` and `Response`; most of them is tested in tests/integration."""

import asyncio
import socket

import pytest
import uvloop

from tests.fakes.resolver import FakeResolver
from tests.fakes.upstream import SSE_HEAD, ScenarioUpstream, answers
from tidegate.errors import UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.wire import Timeouts, Transport

TIMEOUTS = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)
SHORT = Timeouts(connect_s=0.05, first_byte_s=60, answer_s=60, idle_s=60)


@pytest.fixture
async def transport():
    host = ScenarioUpstream()
    host.play(answers(b"{}"))
    async with host.running():
        transport = Transport(host.url, timeouts=TIMEOUTS)
        yield transport
        await transport.close()


async def test_the_cache_of_urls_is_limited(transport):
    """A path at Azure holds the deployment's name, which may be any model name that a caller sends."""
    for path in [f"/{number}" for number in range(300)] + ["/" + "x" * 1000]:
        response = await transport.post(path, b"{}", is_stream=False)
        await response.read_all()
        response.close()
    assert len(transport._urls) <= 256
    assert max(map(len, transport._urls)) < 256


async def test_the_time_limit_for_connecting_includes_name_resolution():
    resolver = FakeResolver("127.0.0.1")
    resolver.go.clear()
    transport = Transport("http://host.test/v1", timeouts=SHORT, resolver=resolver)
    with pytest.raises(UpstreamTimeout, match="could not be connected to"):
        await transport.get("/models")
    resolver.go.set()
    await transport.close()


async def test_an_address_that_fails_is_not_remembered():
    resolver = FakeResolver("127.0.0.2")
    host = ScenarioUpstream()
    host.play(answers(b"{}"))
    async with host.running():
        transport = Transport(f"http://host.test:{host.port}/v1", timeouts=TIMEOUTS, resolver=resolver)
        with pytest.raises(UpstreamUnreachable):
            await transport.get("/models")
        resolver.addresses = ("127.0.0.1",)
        assert await transport.get("/models") == b"{}"
        await transport.close()


async def test_requests_to_a_host_whose_address_changes_succeed_or_get_an_upstream_error():
    """When one request clears the DNS cache, another that waits for the addresses must not fail with a KeyError."""
    resolver = FakeResolver("127.0.0.2")
    host = ScenarioUpstream()
    host.play(answers(b"{}"))
    async with host.running():
        transport = Transport(f"http://host.test:{host.port}/v1", timeouts=TIMEOUTS, resolver=resolver)
        for address in ("127.0.0.2", "127.0.0.1", "127.0.0.2"):
            resolver.addresses = (address,)
            results = await asyncio.gather(*(transport.get("/models") for _ in range(50)), return_exceptions=True)
            assert {type(each) for each in results} <= {bytes, UpstreamUnreachable}
        await transport.close()


async def get(path: str) -> None:
    transport = Transport("http://engine", timeouts=TIMEOUTS, socket_path=path)
    try:
        await transport.get("/metrics")
    finally:
        await transport.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_full_unix_socket_is_a_timeout_and_one_without_a_server_is_unreachable(tmp_path, loop):
    """The event loops of asyncio and uvloop raise different exceptions for it."""
    path = str(tmp_path / "s")
    with asyncio.Runner(loop_factory=loop) as runner, socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with pytest.raises(UpstreamUnreachable):
            runner.run(get(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(UpstreamTimeout, match="does not accept another connection"):
                runner.run(get(path))


async def test_a_closed_transport_opens_no_connection(transport):
    """The error says that nothing was sent, so the request can go to the next target."""
    await transport.get("/models")
    await transport.close()
    with pytest.raises(UpstreamUnreachable) as caught:
        await transport.get("/models")
    assert (caught.value.is_unconnected, transport._session) == (True, None)


async def test_a_request_is_sent_to_the_port_that_was_set_last(transport):
    """An engine gets another port at each start; the path stays the same."""
    await transport.get("/models")
    host = ScenarioUpstream()
    host.play(answers(b'{"from": "the other"}'))
    async with host.running():
        transport.use_port(host.port)
        assert await transport.get("/models") == b'{"from": "the other"}'
        assert transport._base_url == host.url


async def begins_an_answer(call) -> None:
    await call.write(SSE_HEAD)
    await call.event(b"1")
    await call.gone.wait()


async def never_answers(call) -> None:
    await call.gone.wait()


@pytest.mark.parametrize("script", [never_answers, begins_an_answer], ids=["head", "body"])
async def test_a_waiting_read_ends_at_once_when_the_transport_is_closed(script):
    """The reader is not woken by aiohttp; without `Deadlines.close` the read would wait until its time limit."""
    host = ScenarioUpstream()
    host.play(script)
    async with host.running():
        transport = Transport(host.url, timeouts=TIMEOUTS)

        async def read() -> None:
            response = await transport.post("/a", b"{}", is_stream=True)
            try:
                assert await response.read_some() == b"data: 1\n\n"
                reading.set()
                await response.read_some()
            finally:
                response.close()

        reading = asyncio.Event()
        request = asyncio.create_task(read())
        await host.next_call()
        if script is begins_an_answer:
            await reading.wait()
        await transport.close()
        with pytest.raises(UpstreamUnreachable, match="were closed"):
            await asyncio.wait_for(request, TIMEOUTS.idle_s / 2)


async def test_a_read_after_the_transport_was_closed_fails():
    host = ScenarioUpstream()
    host.play(begins_an_answer)
    async with host.running():
        transport = Transport(host.url, timeouts=TIMEOUTS)
        response = await transport.post("/a", b"{}", is_stream=True)
        await response.read_some()
        await transport.close()
        with pytest.raises(UpstreamUnreachable, match="were closed"):
            await asyncio.wait_for(response.read_some(), TIMEOUTS.idle_s / 2)
        response.close()


async def test_a_request_has_the_timeouts_that_were_set_when_it_began(transport):
    before = await transport.post("/a", b"{}", is_stream=False)
    transport.use_timeouts(SHORT)
    after = await transport.post("/a", b"{}", is_stream=False)
    assert (before._timeouts, after._timeouts) == (TIMEOUTS, SHORT)
    for response in (before, after):
        await response.read_all()
        response.close()
