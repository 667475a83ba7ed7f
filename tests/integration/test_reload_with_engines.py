"""A config that is read again whole: what its engines do, seen through the app (`test_engines_reload.py`: the rest)."""

import asyncio
import json

import msgspec
import pytest
from tidegate.config import load
from tidegate.errors import ConfigError

from tests.fakes.processes import gone, is_running
from tests.fakes.vllm_engine import running_app

WHOLE = "w3 w4 w5 w6 "


def serve(made, **engines):
    """Have the next reload read these engines."""
    models = {"m": {"targets": [{"engine": next(iter(engines))}]}}
    config = load.parse(json.dumps({"engines": engines, "models": models}), "new.yaml")
    made.app._read_config = lambda: (msgspec.structs.replace(config, routing=made.app.config.routing), "new.yaml")


async def said(made):
    return (await made.ask()).choices[0].message.content


async def test_an_engine_that_is_kept_is_not_touched(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        engine = made.engine()
        serve(made, r1=vllm.config(queue_timeout_s=7))
        report = await made.app.reload()
        assert report.changed == ["engines.r1.queue_timeout_s: 30.0 -> 7.0"]
        assert made.engine() is engine
        assert is_running(start.pid)
        assert await said(made) == WHOLE
        assert len(vllm.starts) == 1


async def test_an_engine_that_changes_ends_its_answers_and_starts_anew(vllm):
    """The old one ends first: both might not fit."""
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        stream = await made.ask(stream=True)
        chunks = [await anext(stream)]
        serve(made, r1=vllm.config(max_model_len=4096))
        await made.app.reload()
        chunks += [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
        again = await vllm.next_start()
        assert (start.flags.get("max-model-len"), again.flags["max-model-len"]) == (None, "4096")
        await gone(start.pid)
        await made.until("ready")
        assert await said(made) == WHOLE


async def test_an_engine_that_is_removed_is_gone_and_one_that_is_added_starts(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        serve(made, r2=vllm.config())
        report = await made.app.reload()
        assert [line for line in report.changed if line.startswith("engines.")] == [
            "engines.r2: added",
            "engines.r1: removed",
        ]
        assert list(made.app.engines.by_name) == ["r2"]
        await gone(start.pid)
        again = await vllm.next_start()
        await made.until("ready", "r2")
        assert again.pid != start.pid
        assert await said(made) == WHOLE


async def test_an_engine_that_could_not_start_leaves_the_old_one(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        serve(made, r1=vllm.config(model="/nowhere/at/all"))
        with pytest.raises(ConfigError, match=r"engines\.r1: "):
            await made.app.reload()
        assert is_running(start.pid)
        assert await said(made) == WHOLE


async def test_what_is_on_its_way_out_ends_with_tidegate(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        serve(made, r1=vllm.config(max_model_len=4096))
        reloading = asyncio.create_task(made.app.reload())
        await reloading
    await gone(start.pid, *(each.pid for each in vllm.starts))
