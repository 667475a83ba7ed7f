"""A reload that adds, removes or changes engines while the server runs: real processes, as callers see them."""

import asyncio
import json
import os
import tempfile
from pathlib import Path

import msgspec
import openai
import pytest
import structlog

from tests.fakes.clock import FakeClock
from tests.fakes.processes import gone, is_running, until
from tests.fakes.upstream import answers
from tests.fakes.vllm_engine import running_app, text
from tests.fakes.wire import completion
from tidegate.clock import SystemClock
from tidegate.config import load
from tidegate.config.engines import VllmConfig
from tidegate.engines.assembly import Engines
from tidegate.errors import ConfigError

WHOLE = "w3 w4 w5 w6 "


def targets(*names: str) -> dict:
    return {name: {"targets": [{"engine": name}]} for name in names}


async def reload(made, engines: dict, *models: str):
    """Reload Tidegate with another config."""
    config = {"engines": engines, "models": targets(*(models or engines)), "routing": {"retry": {"repeats": 0}}}
    made.app._read_config = lambda: (load.parse(json.dumps(config), "new.yaml"), "new.yaml")
    return await made.app.reload()


def folders() -> list[str]:
    """The folders of sockets that belong to this process."""
    return [str(each) for each in Path(tempfile.gettempdir()).glob(f"tidegate-{os.getpid()}-*")]


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def leaving_engines(made):
    return made.app.engines._drainer._leaving


async def test_a_kept_engine_keeps_running_and_an_added_one_is_started(vllm, other):
    r1 = vllm.config()
    async with running_app({"r1": r1}, targets("r1")) as made:
        start = await vllm.next_start()
        await made.until("ready")
        await reload(made, {"v3": other.config(), "r1": r1})
        assert await text(made.ask("v3")) == WHOLE
        assert await text(made.ask("r1")) == WHOLE
        assert (len(vllm.starts), is_running(start.pid)) == (1, True)


async def test_a_removed_engine_finishes_its_stream_first(vllm, other):
    vllm.habits = ["holds"]
    v3 = other.config()
    async with running_app({"r1": vllm.config(), "v3": v3}, targets("r1", "v3")) as made:
        start = await vllm.next_start()
        await made.until("ready")
        await made.until("ready", "v3")
        asking = asyncio.create_task(made.ask("r1", stream=True))
        await start.until("came")
        start.steps(1)
        stream = await asking
        await reload(made, {"v3": v3})
        with pytest.raises(openai.NotFoundError):
            await made.ask("r1")
        assert is_running(start.pid)
        start.steps()
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "stop"
        await gone(start.pid, await start.core())
        await until(lambda: not leaving_engines(made))
        assert len(folders()) == 1


async def test_a_removed_engine_waits_at_most_the_drain_timeout_for_its_answers(vllm, other):
    vllm.habits = ["holds"]
    v3 = other.config()
    async with running_app({"r1": vllm.config(drain_timeout_s=0.1), "v3": v3}, targets("r1", "v3")) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask("r1"))
        await start.until("came")
        await reload(made, {"v3": v3})
        with pytest.raises(openai.APIError):
            await asking
        await gone(start.pid)


@pytest.mark.parametrize("change", ["reload", "shutdown"])
async def test_an_engine_that_ignores_sigterm_after_a_start_timeout_has_ended_when_it_counts_as_ended(
    vllm, other, change
):
    """It is already being killed when the reload removes it; the kill must not be interrupted."""
    vllm.habits = ["waits,stubborn"]
    v3, clock = other.config(), FakeClock()
    config = {"r1": vllm.config(start_timeout_s=60), "v3": v3}
    async with running_app(config, targets("r1", "v3"), clock=clock) as made:
        removed = made.engine("r1")
        removed.kind.stop_s = 0.5
        start = await vllm.next_start()
        await start.core()
        await made.until("ready", "v3")
        clock.advance(61)
        await made.until("stopping")
        if change == "reload":
            await reload(made, {"v3": v3})
            await until(lambda: not leaving_engines(made))
            await gone(start.pid, await start.core())
    assert removed.status.state == "stopped"
    await gone(start.pid, await start.core())
    assert len(vllm.starts) == 1


async def test_a_changed_engine_starts_with_its_new_flags_when_the_old_process_has_ended(vllm):
    """A request that comes meanwhile waits for it."""
    vllm.habits = ["holds", ""]
    async with running_app({"r1": vllm.config()}, targets("r1")) as made:
        first = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(text(made.ask("r1")))
        await first.until("came")
        await reload(made, {"r1": vllm.config(max_model_len=4096)})
        waiting = asyncio.create_task(text(made.ask("r1")))
        await until(lambda: "draining" in {each.entry.engine.status.state for each in leaving_engines(made).values()})
        assert (len(vllm.starts), made.engine("r1").status.state) == (1, "stopped")
        first.steps()
        assert await asking == WHOLE
        second = await vllm.next_start()
        assert not is_running(first.pid)
        assert second.flags["max-model-len"] == "4096"
        assert await waiting == WHOLE


async def test_an_engine_with_changed_settings_keeps_its_process(vllm):
    async with running_app({"r1": vllm.config()}, targets("r1")) as made:
        start = await vllm.next_start()
        await made.until("ready")
        report = await reload(made, {"r1": vllm.config(drain_timeout_s=3, pinned=True, idle_timeout_s=7)})
        keys = {line.partition(":")[0] for line in report.changed}
        assert {"engines.r1.drain_timeout_s", "engines.r1.pinned", "engines.r1.idle_timeout_s"} <= keys
        assert await text(made.ask("r1")) == WHOLE
        assert (len(vllm.starts), is_running(start.pid)) == (1, True)
        assert made.engine("r1").settings.drain_timeout_s == 3


async def test_an_engine_that_the_administrator_has_stopped_stays_stopped(vllm, other):
    r1 = vllm.config()
    async with running_app({"r1": r1}, targets("r1")) as made:
        await made.until("ready")
        made.engine("r1").set_goal("stop")
        await made.until("stopped")
        await reload(made, {"r1": r1, "v3": other.config()})
        assert await text(made.ask("v3")) == WHOLE
        with pytest.raises(openai.InternalServerError, match="it was told to stop"):
            await made.ask("r1")
        assert len(vllm.starts) == 1


async def test_of_two_quick_changes_only_the_last_one_is_started(vllm):
    """The engine of the first change is never started."""
    async with running_app({"r1": vllm.config()}, targets("r1")) as made:
        await made.until("ready")
        await reload(made, {"r1": vllm.config(max_model_len=1024)})
        await reload(made, {"r1": vllm.config(max_model_len=2048)})
        assert await text(made.ask("r1")) == WHOLE
        assert [start.flags.get("max-model-len") for start in vllm.starts] == [None, "2048"]
        await until(lambda: not leaving_engines(made))
        assert len(folders()) == 1


async def test_an_engine_that_is_removed_and_added_again_at_once_never_has_two_processes(vllm, other):
    r1, v3 = vllm.config(), other.config()
    async with running_app({"r1": r1, "v3": v3}, targets("r1", "v3")) as made:
        first = await vllm.next_start()
        await made.until("ready")
        await reload(made, {"v3": v3})
        await reload(made, {"v3": v3, "r1": r1})
        assert await text(made.ask("r1")) == WHOLE
        assert (len(vllm.starts), is_running(first.pid)) == (2, False)


async def test_a_new_engine_waits_for_the_gpu_of_a_pinned_one_that_is_removed(vllm, other):
    """Its claim does not fail because the other engine was pinned."""
    vllm.habits = ["holds"]
    share = {"gpus": [0], "gpu_memory_utilization": 0.8}
    async with running_app({"r1": vllm.config(**share, pinned=True)}, targets("r1")) as made:
        first = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(text(made.ask("r1")))
        await first.until("came")
        await reload(made, {"v3": other.config(**share)})
        await until(lambda: "v3" in made.app.engines._allocator._claims)
        assert other.starts == []
        first.steps()
        assert await asking == WHOLE
        assert await text(made.ask("v3")) == WHOLE
        assert not is_running(first.pid)


async def test_the_server_shuts_down_while_a_replaced_engine_drains(vllm, other):
    vllm.habits = ["holds"]
    async with running_app({"r1": vllm.config()}, targets("r1"), grace_s=0.05) as made:
        first = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask("r1"))
        await first.until("came")
        await reload(made, {"r1": vllm.config(max_model_len=4096), "v3": other.config()})
        second = await other.next_start()
        await made.until("ready", "v3")
    with pytest.raises(openai.APIError):
        await asking
    await gone(first.pid, second.pid)
    assert (len(vllm.starts), folders()) == (1, [])


async def test_nothing_is_left_of_engines_that_were_added_and_removed(vllm, other):
    """No process, folder, task or descriptor; without the web server, which has tasks and descriptors of its own."""
    before = descriptors(), len(asyncio.all_tasks())
    r1, changed, v3 = (
        msgspec.convert(entry, VllmConfig)
        for entry in (vllm.config(), vllm.config(max_model_len=4096), other.config(start="on_demand"))
    )
    log = structlog.get_logger("tidegate")
    engines = Engines({"r1": r1}, keys={}, clock=SystemClock(), log=log, on_change=lambda *_: None)
    engines.open()
    for configs in ({"r1": changed, "v3": v3}, {"r1": r1}, {"r1": changed, "v3": v3}, {"v3": v3}):
        for assembled in engines.by_name.values():
            (await assembled.engine.acquire_slot(can_wait=True))()
            await assembled.transport.get("/models")
        engines.apply(engines.prepare(configs, {}))
    await engines.close()
    assert [start.pid for start in vllm.starts + other.starts if is_running(start.pid)] == []
    await until(lambda: all(start.has_ended for start in vllm.starts + other.starts))
    assert folders() == []
    await until(lambda: descriptors() <= before[0] and len(asyncio.all_tasks()) <= before[1])


async def test_an_engine_that_could_not_start_is_refused_and_changes_nothing(vllm):
    r1 = vllm.config()
    async with running_app({"r1": r1}, targets("r1")) as made:
        start = await vllm.next_start()
        await made.until("ready")
        with pytest.raises(ConfigError, match=r"new\.yaml: engines\.r1: there is no Python at /nowhere"):
            await reload(made, {"r1": r1 | {"python": "/nowhere"}})
        assert await text(made.ask("r1")) == WHOLE
        assert is_running(start.pid)


@pytest.mark.parametrize("change", ["removed", "changed"])
async def test_requests_in_an_engine_that_is_removed_end_or_move_at_once(vllm, other, upstream, change):
    """Not after `idle_timeout_s`: a started stream breaks, a request without a token goes to the next target."""
    upstream.play(answers(completion("from the host")))
    vllm.habits = ["holds", ""]
    both = [{"engine": "r1"}, {"upstream": "host", "model": "there"}]
    models = {"m": {"targets": both}, "alone": targets("r1")["r1"]}
    v3, keys = other.config(), {"drain_timeout_s": 0.1, "args": {"shutdown_timeout": 0.05}}
    async with running_app({"r1": vllm.config(**keys), "v3": v3}, models, upstream=upstream) as made:
        start = await vllm.next_start()
        await made.until("ready")
        stream = asyncio.create_task(made.ask("alone", stream=True))
        await start.until("came")
        start.steps(1)
        stream, asking = await stream, [asyncio.create_task(text(made.ask("m"))) for _ in range(2)]
        await start.until("came", 3)
        left = {"r1": vllm.config(**keys, max_model_len=4096)} if change == "changed" else {}
        await reload(made, left | {"v3": v3}, "v3")
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
        assert caught.value.code == "upstream_unreachable"
        assert await asyncio.gather(*asking) == ["from the host"] * 2
        await until(lambda: not leaving_engines(made))
        await gone(start.pid, await start.core())


@pytest.mark.parametrize("change", ["removed", "changed"])
async def test_requests_that_wait_for_an_engine_that_is_removed_stop_waiting(vllm, other, upstream, change):
    upstream.play(answers(completion("from the host")))
    vllm.habits = ["holds", ""]
    hosts = [{"engine": "r1"}, {"upstream": "host", "model": "there"}]
    models = {"m": {"targets": hosts}, "local": {"targets": hosts, "policy": "local_first"}, "v3": targets("v3")["v3"]}
    v3, keys = other.config(start="on_demand"), {"concurrency": {"limit": 1, "queue_timeout_s": 600}}
    async with running_app({"r1": vllm.config(**keys), "v3": v3}, models, upstream=upstream) as made:
        start = await vllm.next_start()
        await made.until("ready")
        inside = asyncio.create_task(text(made.ask("m")))
        await start.until("came")
        queued = asyncio.create_task(text(made.ask("local")))
        await until(lambda: made.app._concurrency["r1"].waiting == 1)
        left = {"r1": vllm.config(**keys, max_model_len=4096)} if change == "changed" else {}
        await reload(made, left | {"v3": v3}, "v3")
        assert await queued == "from the host"
        assert is_running(start.pid)
        start.steps()
        assert await inside == WHOLE
