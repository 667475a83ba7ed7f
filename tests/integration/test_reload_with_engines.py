"""What a reload of the whole config does to engines; `test_engines_reload.py` tests single changes to engines."""

import asyncio
import json

import msgspec
import pytest

from tests.fakes.processes import gone, is_running
from tests.fakes.vllm_engine import running_app
from tidegate.config import load
from tidegate.errors import ConfigError

WHOLE_ANSWER = "w3 w4 w5 w6 "


def serve(stage, **engines):
    """Make the next reload read a config with these engines."""
    models = {"m": {"targets": [{"engine": next(iter(engines))}]}}
    config = load.parse(json.dumps({"engines": engines, "models": models}), "new.yaml")
    stage.app._read_config = lambda: (msgspec.structs.replace(config, routing=stage.app.config.routing), "new.yaml")


async def answer_text(stage):
    return (await stage.ask()).choices[0].message.content


async def test_an_engine_whose_process_settings_are_unchanged_is_not_restarted(vllm):
    async with running_app({"r1": vllm.config()}) as stage:
        start = await vllm.next_start()
        await stage.until("ready")
        engine = stage.engine()
        serve(stage, r1=vllm.config(queue_timeout_s=7))
        report = await stage.app.reload()
        assert report.changed == ["engines.r1.queue_timeout_s: 30.0 -> 7.0"]
        assert stage.engine() is engine
        assert is_running(start.pid)
        assert await answer_text(stage) == WHOLE_ANSWER
        assert len(vllm.starts) == 1


async def test_a_changed_engine_completes_its_answers_and_is_restarted(vllm):
    """The old process ends first, because both might not fit into the GPU's memory."""
    async with running_app({"r1": vllm.config()}) as stage:
        start = await vllm.next_start()
        await stage.until("ready")
        stream = await stage.ask(stream=True)
        chunks = [await anext(stream)]
        serve(stage, r1=vllm.config(max_model_len=4096))
        await stage.app.reload()
        chunks += [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE_ANSWER
        second_start = await vllm.next_start()
        assert (start.flags.get("max-model-len"), second_start.flags["max-model-len"]) == (None, "4096")
        await gone(start.pid)
        await stage.until("ready")
        assert await answer_text(stage) == WHOLE_ANSWER


async def test_a_removed_engine_is_stopped_and_an_added_one_is_started(vllm):
    async with running_app({"r1": vllm.config()}) as stage:
        start = await vllm.next_start()
        await stage.until("ready")
        serve(stage, r2=vllm.config())
        report = await stage.app.reload()
        assert [line for line in report.changed if line.startswith("engines.")] == [
            "engines.r2: added",
            "engines.r1: removed",
        ]
        assert list(stage.app.engines.by_name) == ["r2"]
        await gone(start.pid)
        second_start = await vllm.next_start()
        await stage.until("ready", "r2")
        assert second_start.pid != start.pid
        assert await answer_text(stage) == WHOLE_ANSWER


async def test_the_reload_is_refused_if_a_changed_engine_could_not_start(vllm):
    async with running_app({"r1": vllm.config()}) as stage:
        start = await vllm.next_start()
        await stage.until("ready")
        serve(stage, r1=vllm.config(model="/nowhere/at/all"))
        with pytest.raises(ConfigError, match=r"engines\.r1: "):
            await stage.app.reload()
        assert is_running(start.pid)
        assert await answer_text(stage) == WHOLE_ANSWER


async def test_an_engine_that_is_being_stopped_ends_with_tidegate(vllm):
    async with running_app({"r1": vllm.config()}) as stage:
        start = await vllm.next_start()
        await stage.until("ready")
        serve(stage, r1=vllm.config(max_model_len=4096))
        reloading = asyncio.create_task(stage.app.reload())
        await reloading
    await gone(start.pid, *(each.pid for each in vllm.starts))
