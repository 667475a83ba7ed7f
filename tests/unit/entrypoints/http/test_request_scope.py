"""`RequestScope` ends the work for a request on a disconnect, and `RunningRequests` when the server shuts down."""

import asyncio

import pytest

from tidegate.clock import SystemClock
from tidegate.entrypoints.http.exchange import Exchange
from tidegate.entrypoints.http.request_scope import RequestScope, RunningRequests
from tidegate.errors import ShuttingDown


class Caller:
    """Sends nothing after the body, and disconnects when `leaves` is set."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive(self):
        if self.messages:
            return self.messages.pop()
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        raise AssertionError("nothing may be sent")


def exchange_of(caller: Caller) -> Exchange:
    scope = {"method": "POST", "headers": []}
    return Exchange(scope, caller.receive, caller.send, endpoint="chat", clock=SystemClock())


async def work(exchange: Exchange, running: RunningRequests, begun: asyncio.Event, outcome: list[str]) -> None:
    async with RequestScope(exchange, running, asyncio.get_running_loop()) as scope:
        scope.watch()
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise


async def test_a_disconnect_cancels_the_work_and_raises_nothing():
    caller, running, begun, outcome = Caller(), RunningRequests(), asyncio.Event(), []
    exchange = exchange_of(caller)
    task = asyncio.create_task(work(exchange, running, begun, outcome))
    await begun.wait()
    caller.leaves.set()
    await task
    assert outcome == ["cancelled"]
    assert exchange.context.is_client_gone
    assert await running.drain(0) == 0


async def test_a_cancellation_from_outside_is_raised():
    caller, running, begun, outcome = Caller(), RunningRequests(), asyncio.Event(), []
    task = asyncio.create_task(work(exchange_of(caller), running, begun, outcome))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await running.drain(0) == 0


async def test_the_end_of_the_grace_time_raises_an_error_for_the_caller():
    caller, running, begun, outcome = Caller(), RunningRequests(), asyncio.Event(), []
    exchange = exchange_of(caller)
    task = asyncio.create_task(work(exchange, running, begun, outcome))
    await begun.wait()
    assert await running.drain(0) == 1
    with pytest.raises(ShuttingDown):
        await task
    assert exchange.context.is_aborted
    assert running.is_draining


async def test_draining_ends_as_soon_as_the_last_request_has_ended():
    caller, running, begun, outcome = Caller(), RunningRequests(), asyncio.Event(), []
    task = asyncio.create_task(work(exchange_of(caller), running, begun, outcome))
    await begun.wait()
    draining = asyncio.create_task(running.drain(3600))
    caller.leaves.set()
    assert await draining == 0
    await task
