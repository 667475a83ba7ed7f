"""Which failures of a request may mean that its engine is dead, and the wait for the health check."""

import asyncio

import pytest

from tidegate.engines.supervision.health_recheck import HealthRecheck, is_refusal, may_be_dead
from tidegate.errors import (
    EngineStalled,
    EngineUnavailable,
    StreamBroken,
    ToolCallUnparsable,
    UpstreamFailed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)


def unconnected(error):
    error.is_unconnected = True
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (unconnected(UpstreamUnreachable("refused")), (True, True)),
        (UpstreamUnreachable("broke"), (True, False)),
        (UpstreamFailed("EngineCore encountered an issue."), (True, False)),
        (StreamBroken("no end"), (True, False)),
        (unconnected(UpstreamTimeout("no room")), (False, False)),
        (EngineStalled("moved"), (False, False)),
        (UpstreamRateLimited("full"), (False, False)),
        (UpstreamRejected("bad prompt"), (False, False)),
        (ToolCallUnparsable("what the model wrote"), (False, False)),
        (EngineUnavailable("loading"), (False, False)),
    ],
)
def test_which_failures_may_mean_a_dead_engine(error, expected):
    assert (may_be_dead(error), is_refusal(error)) == expected


async def test_requests_wait_until_the_health_check_has_been_made():
    recheck = HealthRecheck()
    await recheck.wait_closed()  # nothing to wait for
    recheck.request()
    recheck.request()
    waiting = asyncio.create_task(recheck.wait_closed())
    await asyncio.sleep(0)
    assert recheck.is_due
    recheck.finish()
    recheck.finish()
    await waiting
    assert not recheck.is_due


async def test_a_request_waits_at_most_a_second_for_a_health_check():
    recheck = HealthRecheck()
    recheck.request()
    await asyncio.wait_for(recheck.wait_closed(), 60)
    assert recheck.is_due
