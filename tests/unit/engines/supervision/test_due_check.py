"""Which failures of a request may mean that its engine is dead, and the wait for the look that tells."""

import asyncio

import pytest
from tidegate.engines.supervision.due_check import DueCheck, is_refusal, may_be_dead
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
    doubt = DueCheck()
    await doubt.settled()  # nothing to wait for
    doubt.open()
    doubt.open()
    waiting = asyncio.create_task(doubt.settled())
    await asyncio.sleep(0)
    assert doubt.is_open
    doubt.close()
    doubt.close()
    await waiting
    assert not doubt.is_open


async def test_a_request_waits_at_most_a_second_for_a_health_check():
    doubt = DueCheck()
    doubt.open()
    await asyncio.wait_for(doubt.settled(), 60)
    assert doubt.is_open
