"""Which failures of a request may mean that its engine is dead, and the wait for the health check."""

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
    due_check = DueCheck()
    await due_check.wait_closed()  # nothing to wait for
    due_check.open()
    due_check.open()
    waiting = asyncio.create_task(due_check.wait_closed())
    await asyncio.sleep(0)
    assert due_check.is_open
    due_check.close()
    due_check.close()
    await waiting
    assert not due_check.is_open


async def test_a_request_waits_at_most_a_second_for_a_health_check():
    due_check = DueCheck()
    due_check.open()
    await asyncio.wait_for(due_check.wait_closed(), 60)
    assert due_check.is_open
