"""The wire to one upstream; most of it is tested with real hosts in tests/integration."""

import pytest

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
