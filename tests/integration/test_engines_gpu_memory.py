"""Engines that use one GPU in turn, sleep, or are unloaded when idle; as their callers see it."""

import asyncio

import openai
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.processes import gone, until
from tests.fakes.vllm_engine import BOTH, running_app, sharing_gpu, text

WHOLE = "w3 w4 w5 w6 "


async def test_two_engines_use_one_gpu_one_after_the_other(vllm, other):
    """The requested engine is loaded after the other one has ended."""
    async with running_app(sharing_gpu(vllm, other), BOTH) as made:
        assert await text(made.ask("r1")) == WHOLE
        first = await vllm.next_start()
        assert await text(made.ask("v3")) == WHOLE
        await gone(first.pid, await first.core())
        assert made.engine("r1").status.state == "stopped"
        second = await other.next_start()
        assert await text(made.ask("r1")) == WHOLE
        await gone(second.pid, await second.core())


async def test_an_engine_with_requests_is_not_evicted(vllm, other):
    """A request for the other engine waits until the last of its answers has ended."""
    vllm.habits = ["holds"]
    async with running_app(sharing_gpu(vllm, other), BOTH) as made:
        asking = asyncio.create_task(made.ask("r1", stream=True))
        start = await vllm.next_start()
        await start.until("came")
        start.steps(1)
        stream = await asking
        waiting = asyncio.create_task(text(made.ask("v3")))
        await until(lambda: "v3" in made.app.engines._allocator._claims)
        await start.looks(20)
        assert (made.engine("r1").status.state, other.starts) == ("ready", [])
        start.steps()
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"
        assert await waiting == WHOLE
        assert made.engine("r1").status.state == "stopped"


async def test_many_requests_for_both_engines_are_all_answered(vllm, other):
    async with running_app(sharing_gpu(vllm, other), BOTH) as made:
        answers = [text(made.ask(name)) for _ in range(10) for name in ("r1", "v3")]
        assert await asyncio.gather(*answers) == [WHOLE] * 20


@pytest.mark.parametrize("level", [1, 2])
async def test_an_engine_that_can_sleep_is_put_to_sleep_for_another_and_woken_by_a_request(vllm, other, level):
    """Its process keeps running; after level 2 its weights are read again."""
    async with running_app(sharing_gpu(vllm, other, sleep_level=level), BOTH) as made:
        assert await text(made.ask("r1")) == WHOLE
        first = await vllm.next_start()
        assert await text(made.ask("v3")) == WHOLE
        assert first.all("told")[0]["path"] == f"/sleep?level={level}"
        assert made.engine("r1").status.state == "sleeping"
        assert await text(made.ask("r1")) == WHOLE
        assert made.engine("v3").status.state == "sleeping"
    assert (len(vllm.starts), len(other.starts)) == (1, 1)


async def test_a_pinned_engine_stays_and_the_other_one_fails_with_the_reason(vllm, other):
    engines = sharing_gpu(vllm, other)
    engines["r1"] |= {"pinned": True}
    async with running_app(engines, BOTH | {"m": {"targets": [{"engine": "v3"}, {"engine": "r1"}]}}) as made:
        assert await text(made.ask("r1")) == WHOLE
        assert await text(made.ask("m")) == WHOLE  # answered by the pinned engine
        await made.until("failed", "v3")
        assert "no GPU memory for v3 beside the pinned engines" in made.engine("v3").status.reason
    assert other.starts == []


@pytest.mark.parametrize(("keys", "state"), [({}, "stopped"), ({"sleep_level": 1}, "sleeping")])
async def test_an_idle_engine_is_unloaded_and_loaded_again_by_a_request(vllm, keys, state):
    clock = FakeClock()
    async with running_app({"r1": vllm.config(idle_unload_s=900, **keys)}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        clock.advance(800)
        assert await text(made.ask()) == WHOLE
        clock.advance(800)
        await start.looks(3)
        assert made.engine().status.state == "ready"
        clock.advance(101)
        await made.until(state)
        assert await text(made.ask()) == WHOLE
    assert len(vllm.starts) == (2 if state == "stopped" else 1)


async def test_an_engine_is_not_idle_while_it_answers(vllm):
    vllm.habits = ["holds"]
    clock = FakeClock()
    async with running_app({"r1": vllm.config(idle_unload_s=20)}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(text(made.ask()))
        await start.until("came")
        clock.advance(30)
        await start.looks(3)
        assert made.engine().status.state == "ready"
        start.steps()
        assert await asking == WHOLE


async def test_an_engine_that_ends_while_asleep_is_started_by_the_next_request(vllm):
    clock = FakeClock()
    async with running_app({"r1": vllm.config(idle_unload_s=900, sleep_level=1)}, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        clock.advance(901)
        await made.until("sleeping")
        start.tell("exit", status=0)
        await made.until("failed")
        assert await text(made.ask()) == WHOLE
    assert len(vllm.starts) == 2


async def test_an_engine_that_cannot_be_woken_is_started_again_and_answers(vllm):
    vllm.habits = ["dies_awake", ""]
    clock = FakeClock()
    async with running_app({"r1": vllm.config(idle_unload_s=900, sleep_level=1)}, clock=clock) as made:
        await made.until("ready")
        clock.advance(901)
        await made.until("sleeping")
        assert await text(made.ask()) == WHOLE
    assert len(vllm.starts) == 2


async def test_an_engine_that_is_to_sleep_stays_awake_if_a_request_does_not_end(vllm):
    vllm.habits = ["holds"]
    async with running_app({"r1": vllm.config(sleep_level=1, drain_timeout_s=0.05)}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(text(made.ask()))
        await start.until("came")
        made.engine().set_goal("sleep")
        await made.until("draining")
        late = asyncio.create_task(text(made.ask()))  # a request that comes meanwhile is accepted
        await made.until("ready")
        start.steps()
        assert await asyncio.gather(asking, late) == [WHOLE, WHOLE]
        made.engine().set_goal("sleep")
        await made.until("sleeping")
    assert len(vllm.starts) == 1


@pytest.mark.parametrize("state", ["starting", "draining", "sleeping"])
async def test_tidegate_ends_well_whatever_its_engine_does(vllm, state):
    """A running request gets an error."""
    vllm.habits = ["waits" if state == "starting" else "holds"]
    config = vllm.config(sleep_level=1, args={"shutdown_timeout": 0.05})
    async with running_app({"r1": config}, grace_s=0.05) as made:
        start = await vllm.next_start()
        client = made.another_client()
        if state != "starting":
            await made.until("ready")
        messages = [{"role": "user", "content": "Hi"}]
        asking = asyncio.create_task(client.chat.completions.create(model="m", messages=messages))
        if state != "starting":
            await start.until("came")
            made.engine().set_goal("sleep")
        if state == "sleeping":
            start.steps()
        await until(lambda: state != "starting" or bool(made.app.running._scopes))
        await made.until(state)
    async with client:
        if state == "sleeping":
            assert await text(asking) == WHOLE
        else:
            with pytest.raises(openai.InternalServerError) as caught:
                await asking
            assert caught.value.code == "shutting_down"
    await gone(start.pid, await start.core())
