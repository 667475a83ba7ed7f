"""Engines that do not fit together while both get requests all the time; as their callers see it."""

import asyncio
import json

import openai
import pytest

from tests.fakes.processes import gone, until
from tests.fakes.upstream import answers
from tests.fakes.vllm_engine import BOTH, running_app, sharing_gpu, text
from tests.fakes.wire import completion
from tidegate.config import load
from tidegate.engines.supervision.settings import Settings

WHOLE = "w3 w4 w5 w6 "
SOON = {"max_wait_s": 0.05, "min_loaded_s": 0}
EXCLUSIVE = SOON | {"exclusive": [["r1", "v3"]]}


async def start_stream(made, vllm):
    """The start of `r1`, and a stream that has begun and ends only when the test calls `steps`."""
    asking = asyncio.create_task(made.ask("r1", stream=True))
    start = await vllm.next_start()
    await start.until("came")
    start.steps(1)
    return start, await asking


async def until_closed_for(made, other: str, name="r1") -> None:
    await until(lambda: made.engine(name)._intake.paused_for == other)


@pytest.mark.parametrize("level", [None, 1])
async def test_an_engine_that_is_never_idle_is_evicted_and_loaded_again(vllm, other, level):
    """Its running answer is completed; requests that come meanwhile wait for its next load."""
    vllm.habits = ["holds", ""]
    keys = {} if level is None else {"sleep_level": level}
    async with running_app(sharing_gpu(vllm, other, **keys), BOTH, swap=SOON) as made:
        waking = asyncio.create_task(made.ask("r1", max_tokens=1))
        start = await vllm.next_start()
        await start.until("came")
        start.steps(1)
        await waking
        asking = asyncio.create_task(made.ask("r1", stream=True))
        await start.until("came", 2)
        start.steps(1)
        stream = await asking
        waiting = asyncio.create_task(text(made.ask("v3")))
        await until_closed_for(made, "v3")
        late = asyncio.create_task(text(made.ask("r1")))
        await until(lambda: made.engine().requests.waiting == 1)
        assert (made.engine().status.state, len(start.all("came")), other.starts) == ("ready", 2, [])
        start.steps()
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"
        assert await asyncio.gather(waiting, late) == [WHOLE, WHOLE]
    assert (len(vllm.starts), len(other.starts)) == (2 if level is None else 1, 1)


async def test_a_request_with_another_target_does_not_wait(vllm, other, upstream):
    vllm.habits = ["holds", ""]
    upstream.scripts = [answers(completion("from the host"))]
    targets = BOTH | {"m": {"targets": [{"engine": "r1"}, {"upstream": "host", "model": "there"}]}}
    async with running_app(sharing_gpu(vllm, other), targets, upstream=upstream, swap=SOON) as made:
        start, stream = await start_stream(made, vllm)
        waiting = asyncio.create_task(text(made.ask("v3")))
        await until_closed_for(made, "v3")
        assert await text(made.ask("m")) == "from the host"
        start.steps()
        assert [chunk async for chunk in stream]
        assert await waiting == WHOLE


async def test_a_request_that_waits_too_long_for_a_closed_engine_gets_retry_after(vllm, other):
    vllm.habits = ["holds", ""]
    engines = sharing_gpu(vllm, other)
    async with running_app(engines, BOTH, swap=SOON) as made:
        start, stream = await start_stream(made, vllm)
        waiting = asyncio.create_task(text(made.ask("v3")))
        await until_closed_for(made, "v3")
        engine = made.engine()
        engine.reconfigure(engine.kind, Settings(queue_timeout_s=0.05, scrape_s=0.02, poll_s=0.01))
        with pytest.raises(openai.InternalServerError) as caught:
            await text(made.ask("r1"))
        assert (caught.value.status_code, int(caught.value.response.headers["retry-after"]) >= 1) == (503, True)
        start.steps()
        assert [chunk async for chunk in stream]
        assert await waiting == WHOLE


async def test_the_loaded_engine_reopens_when_the_waiting_request_is_cancelled(vllm, other):
    vllm.habits = ["holds", ""]
    async with running_app(sharing_gpu(vllm, other), BOTH, swap=SOON) as made:
        start, stream = await start_stream(made, vllm)
        client = made.another_client()
        messages = [{"role": "user", "content": "Hi"}]
        waiting = asyncio.create_task(client.chat.completions.create(model="v3", messages=messages))
        await until_closed_for(made, "v3")
        waiting.cancel()
        await client.close()
        await until(lambda: made.engine()._intake.paused_for is None)
        start.steps()
        assert await text(made.ask("r1")) == WHOLE
        assert [chunk async for chunk in stream]
    assert len(vllm.starts) == 1


async def test_requests_for_both_engines_without_a_pause_are_all_answered(vllm, other):
    """Requests come while an engine is closed, put to sleep, asleep and woken."""
    engines = sharing_gpu(vllm, other, sleep_level=1)

    async def ask_often(made, name: str) -> list[str]:
        return [await text(made.ask(name)) for _ in range(3)]

    async with running_app(engines, BOTH, swap=SOON) as made:
        answered = await asyncio.gather(*(ask_often(made, name) for name in ("r1", "v3") * 3))
    assert answered == [[WHOLE] * 3] * 6
    assert (len(vllm.starts), len(other.starts)) == (1, 1)


async def test_exclusive_engines_on_the_cpu_are_never_loaded_together(vllm, other):
    """They take no share of a GPU."""
    engines = {"r1": vllm.config(start="on_demand"), "v3": other.config(start="on_demand")}
    async with running_app(engines, BOTH, swap=EXCLUSIVE) as made:
        assert made.app.engines._parts["r1"].process.needs.awake == {}
        assert await text(made.ask("r1")) == WHOLE
        first = await vllm.next_start()
        assert await text(made.ask("v3")) == WHOLE
        await gone(first.pid, await first.core())
        assert made.engine("r1").status.state == "stopped"
        requests = [text(made.ask(name)) for _ in range(5) for name in ("r1", "v3")]
        assert await asyncio.gather(*requests) == [WHOLE] * 10


async def test_a_reload_changes_the_rules_and_touches_no_engine(vllm, other):
    engines = {"r1": vllm.config(start="on_demand"), "v3": other.config(start="on_demand")}
    async with running_app(engines, BOTH) as made:
        assert [await text(made.ask(name)) for name in BOTH] == [WHOLE, WHOLE]
        assert [made.engine(name).status.state for name in BOTH] == ["ready", "ready"]
        engines["v3"] |= {"hooks": {"after_load": "true"}}
        config = json.dumps({"engines": engines, "models": BOTH, "swap": EXCLUSIVE})
        made.app._read_config = lambda: (load.parse(config, "new.yaml"), "new.yaml")
        report = await made.app.reload()
        assert "engines.v3.hooks.after_load: changed" in report.changed
        assert 'swap.exclusive: [] -> [["r1","v3"]]' in report.changed
        assert report.needs_restart == []
        assert [made.engine(name).status.state for name in BOTH] == ["ready", "ready"]
        made.engine("r1").set_goal("stop")
        await made.until("stopped", "r1")
        made.engine("r1").set_goal("run")
        await made.until("stopped", "v3")
        await made.until("ready", "r1")
    assert (len(vllm.starts), len(other.starts)) == (2, 1)


async def test_a_hook_of_the_config_runs_and_its_failure_is_the_reason(vllm):
    async with running_app({"r1": vllm.config(hooks={"before_load": "false"})}) as made:
        await until(lambda: made.engine().status.reason.startswith("hooks.before_load ended with status 1"))
    assert vllm.starts == []
