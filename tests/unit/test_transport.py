"""The wire to one upstream; most of it is tested with real hosts in tests/integration."""

import asyncio
import socket

import pytest
import uvloop

from proxy.errors import UpstreamTimeout, UpstreamUnreachable
from proxy.transport import Timeouts, Transport
from tests.fakes.upstream import ScenarioUpstream, answers

TIMEOUTS = Timeouts(connect_s=1, first_byte_s=5, answer_s=5, idle_s=5)


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
