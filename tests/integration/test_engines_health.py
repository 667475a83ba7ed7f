"""Hung and slow engines as callers notice them; the health route answers 200 all the time."""

import asyncio
import socket

import openai
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.processes import until
from tests.fakes.upstream import answers, streams
from tests.fakes.vllm_engine import running_app
from tests.fakes.wire import completion, text_stream
from tidegate.engines.supervision.watch import CONFIRM_S
from tidegate.errors import UpstreamTimeout

WHOLE = "w3 w4 w5 w6 "


async def test_a_hung_engine_gets_no_requests_after_a_minute_and_is_restarted(vllm, upstream):
    """A second target answers meanwhile; requests that were in the engine get an error."""
    upstream.play(answers(completion("from the host")))
    vllm.habits = ["holds", ""]
    clock = FakeClock()
    async with running_app(
        {"r1": vllm.config(args={"shutdown_timeout": 0.05})}, upstream=upstream, clock=clock
    ) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask(stream=True))
        await start.until("came")
        start.steps(1)
        stream = await asking
        await start.looks(2)
        waited_s = 0
        while made.engine().status.state == "ready":
            clock.advance(1)
            waited_s += 1
            await start.looks(1)
        assert waited_s <= 60
        assert made.engine().status.reason.startswith("it has work, but has not made a step for")
        assert await made.app.engines._parts["r1"].control.answers()
        assert (await made.ask()).choices[0].message.content == "from the host"
        clock.advance(CONFIRM_S)
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
        assert caught.value.code == "upstream_unreachable"
        await vllm.next_start()
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE


async def test_an_engine_that_is_only_slow_keeps_its_requests_for_ten_minutes(vllm, upstream):
    """Each token takes 39 seconds, and the engine still gets requests."""
    vllm.habits = ["holds"]
    clock = FakeClock()
    async with running_app({"r1": vllm.config()}, upstream=upstream, clock=clock) as made:
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


async def test_an_engine_without_work_need_not_make_steps(vllm):
    clock = FakeClock()
    async with running_app({"r1": vllm.config()}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        for _ in range(10):
            clock.advance(600)
            await start.looks(1)
        assert made.engine().status.state == "ready"


async def test_an_engine_that_accepts_no_more_connections_is_slow_and_not_dead(vllm, upstream):
    """Its socket accepts no connection, and requests go to the next target at once."""
    upstream.play(answers(completion("from the host")))
    clock = FakeClock()
    async with running_app({"r1": vllm.config()}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE
        start.tell("deaf")
        await start.until("deaf")
        connections = fill(made.engine().socket_path)
        start.tell("hang_up")  # a poll that takes too long loses its connection too
        while (await made.ask()).choices[0].message.content == WHOLE:
            pass
        for _ in range(10):
            with pytest.raises(UpstreamTimeout, match="does not accept another connection"):
                await made.app.engines._parts["r1"].control.load()
            assert (await made.ask()).choices[0].message.content == "from the host"
        assert made.engine().status.state == "ready"
        start.tell("hear")
        for each in connections:
            each.close()
        while (await made.ask()).choices[0].message.content != WHOLE:
            clock.advance(1)  # it was left out for a while, and gets requests again gradually
        assert made.engine().status.restarts == 0


async def test_the_reason_is_known_of_an_engine_that_closes_its_socket_before_it_ends(vllm):
    """Refused connections alone would not show the reason."""
    vllm.habits = ["", "waits"]
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        start.tell("say", line="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        start.tell("quit", status=1)
        await until(lambda: made.engine().status.reason.startswith("the GPU's memory is full"))
        assert made.engine().status.state == "failed"


def fill(path: str) -> list[socket.socket]:
    """Open connections until the socket accepts no more; returns them."""
    connections = []
    while True:
        connections.append(socket.socket(socket.AF_UNIX))
        connections[-1].setblocking(False)  # noqa: FBT003 - the signature of the socket module
        try:
            connections[-1].connect(path)
        except BlockingIOError:
            return connections


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "unary"])
async def test_requests_without_a_first_token_move_when_their_engine_is_suspected(vllm, upstream, stream):
    """All of them, also when the budget for retries is small; a request without another target keeps waiting."""
    upstream.play(streams(*text_stream("from the host")) if stream else answers(completion("from the host")))
    vllm.habits = ["holds"]
    clock = FakeClock()
    both = [{"engine": "r1"}, {"upstream": "host", "model": "there"}]
    models = {"m": {"targets": both}, "alone": {"targets": both[:1]}}
    async with running_app({"r1": vllm.config()}, models, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        first = asyncio.create_task(made.ask("alone", max_tokens=1))
        await start.until("came")
        start.steps(1)
        await first
        alone = asyncio.create_task(made.ask("alone"))
        asking = [asyncio.create_task(text_of(made, stream=stream)) for _ in range(30)]
        await start.until("came", 32)
        while made.engine().status.state == "ready":
            clock.advance(1)
            await start.looks(1)
        assert await asyncio.gather(*asking) == ["from the host"] * 30
        await start.until("left", 30)
        assert made.engine().requests.taken == 1
        start.steps()
        assert (await alone).choices[0].message.content == WHOLE
        await made.until("ready")
        assert made.engine().status.restarts == 0
        assert (await made.ask("alone")).choices[0].message.content == WHOLE


async def text_of(made, *, stream: bool) -> str:
    answer = await made.ask(stream=stream)
    if not stream:
        return answer.choices[0].message.content
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


async def test_a_hang_while_idle_is_found_without_a_request(vllm):
    vllm.habits = ["holds", ""]
    clock = FakeClock()
    keys = {"idle_canary_s": 60, "args": {"shutdown_timeout": 0.05}}
    async with running_app({"r1": vllm.config(**keys)}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        start.steps(1)
        clock.advance(61)
        await start.until("came")  # the first canary is answered
        await start.until("stepped")
        used_s = made.engine().requests.last_used_s
        clock.advance(61)
        await start.until("came", 2)
        while made.engine().status.state == "ready":
            clock.advance(1)
            await start.looks(1)
        assert made.engine().status.reason.startswith("it has work, but has not made a step for")
        assert made.engine().requests.last_used_s == used_s
        clock.advance(CONFIRM_S)
        await vllm.next_start()
        await made.until("ready")


async def test_a_canary_neither_keeps_an_idle_engine_awake_nor_wakes_it(vllm):
    vllm.habits = ["holds"]
    clock = FakeClock()
    keys = {"idle_canary_s": 60, "idle_unload_s": 100, "sleep_level": 1}
    async with running_app({"r1": vllm.config(**keys)}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        clock.advance(61)
        await start.until("came")
        clock.advance(41)
        await made.until("sleeping")
        await start.until("left")  # it was still running
        clock.advance(600)
        await start.until("told")
        made.engine().set_goal("run")
        await made.until("ready")
        assert [line["path"] for line in start.all("told")] == ["/sleep?level=1", "/wake_up"]
        assert len(start.all("came")) == 1
