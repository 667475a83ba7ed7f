"""The wire to one upstream; most of it is tested with real hosts in tests/integration."""

import asyncio
import socket

import pytest
import uvloop
from tidegate.errors import UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.wire import Timeouts, Transport

from tests.fakes.resolver import FakeResolver
from tests.fakes.upstream import SSE_HEAD, ScenarioUpstream, answers

TIMEOUTS = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)
BRIEF = Timeouts(connect_s=0.05, first_byte_s=60, answer_s=60, idle_s=60)


@pytest.fixture
async def transport():
    host = ScenarioUpstream()
    host.play(answers(b"{}"))
    async with host.running():
        made = Transport(host.url, timeouts=TIMEOUTS)
        yield made
        await made.close()


async def test_paths_that_callers_choose_are_not_all_kept(transport):
    """One of Azure's names a deployment, which may be any model that is asked for."""
    for path in [f"/{number}" for number in range(300)] + ["/" + "x" * 1000]:
        response = await transport.post(path, b"{}", is_stream=False)
        await response.read_all()
        response.close()
    assert len(transport._urls) <= 256
    assert max(map(len, transport._urls)) < 256


async def test_finding_the_address_is_a_part_of_connecting():
    resolver = FakeResolver("127.0.0.1")
    resolver.go.clear()
    transport = Transport("http://host.test/v1", timeouts=BRIEF, resolver=resolver)
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


async def test_many_who_look_for_a_host_that_moves_all_find_it_or_are_told():
    """Forgetting an address must not trip those who have just waited for it."""
    resolver = FakeResolver("127.0.0.2")
    host = ScenarioUpstream()
    host.play(answers(b"{}"))
    async with host.running():
        transport = Transport(f"http://host.test:{host.port}/v1", timeouts=TIMEOUTS, resolver=resolver)
        for address in ("127.0.0.2", "127.0.0.1", "127.0.0.2"):
            resolver.addresses = (address,)
            told = await asyncio.gather(*(transport.get("/models") for _ in range(50)), return_exceptions=True)
            assert {type(each) for each in told} <= {bytes, UpstreamUnreachable}
        await transport.close()


async def get(path: str) -> None:
    transport = Transport("http://engine", timeouts=TIMEOUTS, socket_path=path)
    try:
        await transport.get("/metrics")
    finally:
        await transport.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_socket_without_room_is_slow_and_one_that_nobody_listens_on_is_dead(tmp_path, loop):
    """The two loops have their own ways to say so."""
    path = str(tmp_path / "s")
    with asyncio.Runner(loop_factory=loop) as runner, socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with pytest.raises(UpstreamUnreachable):
            runner.run(get(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(UpstreamTimeout, match="no room"):
                runner.run(get(path))


async def test_a_wire_that_was_closed_opens_no_connection_any_more(transport):
    """Whoever comes late tries the next target."""
    await transport.get("/models")
    await transport.close()
    with pytest.raises(UpstreamUnreachable) as told:
        await transport.get("/models")
    assert (told.value.is_unconnected, transport._session) == (True, None)


async def test_requests_go_to_the_port_that_holds_when_they_begin(transport):
    """An engine has another one at each start; the path stays."""
    await transport.get("/models")
    host = ScenarioUpstream()
    host.play(answers(b'{"from": "the other"}'))
    async with host.running():
        transport.use_port(host.port)
        assert await transport.get("/models") == b'{"from": "the other"}'
        assert transport._base_url == host.url


async def begins(call) -> None:
    await call.write(SSE_HEAD)
    await call.event(b"1")
    await call.gone.wait()


async def never(call) -> None:
    await call.gone.wait()


@pytest.mark.parametrize("script", [never, begins], ids=["head", "body"])
async def test_a_read_that_waits_ends_when_the_wire_is_closed(script):
    """Not when the time for an answer is over, as aiohttp says nothing."""
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
        asking = asyncio.create_task(read())
        await host.next_call()
        if script is begins:
            await reading.wait()
        await transport.close()
        with pytest.raises(UpstreamUnreachable, match="were closed"):
            await asyncio.wait_for(asking, TIMEOUTS.idle_s / 2)


async def test_a_read_after_the_wire_was_closed_fails():
    host = ScenarioUpstream()
    host.play(begins)
    async with host.running():
        transport = Transport(host.url, timeouts=TIMEOUTS)
        response = await transport.post("/a", b"{}", is_stream=True)
        await response.read_some()
        await transport.close()
        with pytest.raises(UpstreamUnreachable, match="were closed"):
            await asyncio.wait_for(response.read_some(), TIMEOUTS.idle_s / 2)
        response.close()


async def test_requests_have_the_times_that_hold_when_they_begin(transport):
    before = await transport.post("/a", b"{}", is_stream=False)
    transport.use_timeouts(BRIEF)
    after = await transport.post("/a", b"{}", is_stream=False)
    assert (before._timeouts, after._timeouts) == (TIMEOUTS, BRIEF)
    for response in (before, after):
        await response.read_all()
        response.close()
