"""Whether an engine makes progress, as its callers notice it; its health route says 200 all the time."""

import asyncio
import socket

import openai
import pytest

from proxy.engines.watch import SECOND_LOOK_S
from proxy.errors import UpstreamTimeout
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import answers
from tests.fakes.vllm_engine import house
from tests.fakes.wire import completion

WHOLE = "w3 w4 w5 w6 "


async def test_a_hung_engine_is_out_of_routing_within_a_minute_and_comes_back(vllm, upstream):
    """A second target takes over meanwhile; those who were in it are told."""
    upstream.play(answers(completion("from the host")))
    vllm.habits = ["holds", ""]
    clock = FakeClock()
    async with house({"r1": vllm.config(args={"shutdown_timeout": 0.05})}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask(stream=True))
        await start.until("came")
        start.steps(1)
        stream = await asking
        await start.looks(2)
        still_s = 0
        while made.engine().status.state == "ready":
            clock.advance(1)
            still_s += 1
            await start.looks(1)
        assert still_s <= 60
        assert made.engine().status.reason.startswith("it has work, but has not made a step for")
        assert await made.app.engines._pieces["r1"].control.answers()
        assert (await made.ask()).choices[0].message.content == "from the host"
        clock.advance(SECOND_LOOK_S)
        with pytest.raises(openai.APIError) as told:
            [chunk async for chunk in stream]
        assert told.value.code == "upstream_unreachable"
        await vllm.next_start()
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE


async def test_an_engine_that_is_only_slow_keeps_its_callers_for_ten_minutes(vllm, upstream):
    """39 seconds for each token, and others are sent to it all the while."""
    vllm.habits = ["holds"]
    clock = FakeClock()
    async with house({"r1": vllm.config()}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask(max_tokens=16))
        await start.until("came")
        start.steps(1)
        for _ in range(15):
            for _ in range(3):
                await start.looks(2)
                clock.advance(13)
                assert made.engine().status.state == "ready"
            start.steps(1)
            await start.looks(2)
        assert (await asking).usage.completion_tokens == 16
        assert (made.engine().status.restarts, upstream.calls) == (0, [])


async def test_an_engine_without_work_may_stand_still(vllm):
    clock = FakeClock()
    async with house({"r1": vllm.config()}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        for _ in range(10):
            clock.advance(600)
            await start.looks(1)
        assert made.engine().status.state == "ready"


async def test_an_engine_that_takes_no_more_connections_is_slow_and_not_dead(vllm, upstream):
    """Its socket is full, so that nobody gets in, and those who come go on to the next target at once."""
    upstream.play(answers(completion("from the host")))
    clock = FakeClock()
    async with house({"r1": vllm.config()}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE
        start.tell("deaf")
        await start.until("deaf")
        crowd = fill(made.engine().socket_path)
        start.tell("hang_up")  # a look that takes too long loses its connection too
        while (await made.ask()).choices[0].message.content == WHOLE:
            pass
        for _ in range(10):
            with pytest.raises(UpstreamTimeout, match="no room"):
                await made.app.engines._pieces["r1"].control.load()
            assert (await made.ask()).choices[0].message.content == "from the host"
        assert made.engine().status.state == "ready"
        start.tell("hear")
        for each in crowd:
            each.close()
        while (await made.ask()).choices[0].message.content != WHOLE:
            clock.advance(1)  # it was left out for a while, and comes back by and by
        assert made.engine().status.restarts == 0


async def test_an_engine_that_closes_its_socket_some_time_before_it_ends_says_why_it_ended(vllm):
    """Refused connections alone would only say that it is dead."""
    vllm.habits = ["", "waits"]
    async with house({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        start.tell("say", line="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        start.tell("quit", status=1)
        await made.until("failed")
        assert made.engine().status.reason.startswith("the GPU's memory is full")


def fill(path: str) -> list[socket.socket]:
    """Connections, until there is no room for another."""
    crowd = []
    while True:
        crowd.append(socket.socket(socket.AF_UNIX))
        crowd[-1].setblocking(False)  # noqa: FBT003 - the socket module's way
        try:
            crowd[-1].connect(path)
        except BlockingIOError:
            return crowd
