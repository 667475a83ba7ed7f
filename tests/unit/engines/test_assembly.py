"""`Engines`: metrics, adapters, refusals, changes to the engines of a new config, and replicas."""

import asyncio
import sys
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from tests.fakes.clock import FakeClock
from tidegate.config.engines import ExternalConfig, VllmConfig
from tidegate.config.replicas import expand
from tidegate.engines.assembly import Engines
from tidegate.engines.base import EngineStatus
from tidegate.engines.gpus.devices import Gpu
from tidegate.errors import ConfigError

EXTERNAL = ExternalConfig(base_url="http://127.0.0.1:1/v1")


class Log:
    """A log that discards every event."""

    def info(self, event, **fields):
        """Discard the event."""

    error = warning = info


@asynccontextmanager
async def entry(gpus=(), **configs):
    engines = Engines(configs, keys={}, clock=FakeClock(), log=Log(), on_change=lambda _name, _status: None, gpus=gpus)
    yield engines
    await engines.close()


async def until_drained(engines) -> None:
    """Wait until all engines that are being drained have ended."""
    while engines._drainer._leaving:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0)


async def test_metrics_are_those_of_engines_that_run():
    async with entry(a=EXTERNAL, b=EXTERNAL, c=EXTERNAL) as engines:
        for name, state in (("a", "ready"), ("b", "draining"), ("c", "failed")):
            engines._parts[name].control.metrics = b"steps 1\n"
            engines.by_name[name].engine._status.now = EngineStatus(state)
        assert engines.metrics() == b'steps{engine="a"} 1\nsteps{engine="b"} 1\n'


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("http://h:1/v1", "http://h:1"),
        ("http://h/v1/", "http://h"),
        ("http://h/team/llm/v1", "http://h/team/llm"),
        ("http://h/team", "http://h/team"),
    ],
)
async def test_health_and_metrics_are_beside_v1_wherever_that_is(base_url, root):
    """Ray Serve and gateways have several servers behind one address, each under its own path."""
    async with entry(external=ExternalConfig(base_url=base_url)) as engines:
        assert engines._parts["external"].control._root._base_url == root


async def test_adapter_names_are_those_of_the_config_and_those_loaded_at_run_time(tmp_path):
    fixed = VllmConfig(model="m", python=sys.executable, start="on_demand", adapters={"sql": "/a"})
    loose = VllmConfig(model="m", python=sys.executable, start="on_demand", runtime_adapters=True)
    async with entry(fixed=fixed, loose=loose, external=EXTERNAL) as engines:
        assert engines.adapter_names() == ["fixed/sql"]
        engines.by_name["loose"].adapters._paths["law"] = "/b"
        assert engines.adapter_names() == ["fixed/sql", "loose/law"]


async def test_an_engine_that_cannot_run_on_this_machine_has_a_refusal_and_the_others_run(tmp_path):
    """The GPUs belong to the machine: the config may be right for another machine, so it is not refused."""
    (tmp_path / "lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    fits = VllmConfig(model="m", python=str(python), start="on_demand")
    large = VllmConfig(model="m", python=str(python), start="on_demand", tensor_parallel_size=2)
    absent = VllmConfig(model="m", python=str(tmp_path / "nowhere"), start="on_demand")
    async with entry(gpus=[Gpu(index=0)], fits=fits, large=large, absent=absent, external=EXTERNAL) as engines:
        assert engines._parts["fits"].process.needs.awake == {0: 0.92}
        assert list(engines.refusals) == ["large", "absent"]
        assert "needs 2 GPUs, and the machine has 1" in engines.refusals["large"]
        assert "there is no Python at" in engines.refusals["absent"]


# --- another config -----------------------------------------------------------------------------------------------


async def test_a_new_config_keeps_an_equal_engine_and_adds_and_removes_others():
    async with entry(a=EXTERNAL, b=EXTERNAL) as engines:
        engines.open()
        kept, removed = engines.by_name["a"], engines.by_name["b"].engine
        engines.apply(engines.prepare({"c": EXTERNAL, "a": EXTERNAL}, {}))
        assert list(engines.by_name) == ["c", "a"]
        assert engines.by_name["a"] is kept
        assert [engine.name for engine in engines.all] == ["c", "a"]
        await until_drained(engines)
        assert removed.status.state == "stopped"


async def test_a_new_address_is_watched_at_once_while_answers_run_at_the_old_one():
    """An external engine takes no GPU of this machine, so the new one need not wait for the old one."""
    async with entry(a=EXTERNAL) as engines:
        engines.open()
        old = engines.by_name["a"].engine
        old.requests.take()
        engines.apply(engines.prepare({"a": ExternalConfig(base_url="http://127.0.0.1:2/v1")}, {}))
        new = engines.by_name["a"].engine
        assert new is not old
        assert (new._task is not None, len(engines._drainer._leaving)) == (True, 1)
        old.requests.release()
        await until_drained(engines)


async def test_a_rotated_key_does_not_replace_the_engine():
    async with entry(a=EXTERNAL) as engines:
        before = engines.by_name["a"]
        prepared = engines.prepare({"a": EXTERNAL}, {"a": ["sk-new"]})
        assert (prepared.changes.kept, prepared.changes.adjusted) == ((), ("a",))
        engines.apply(prepared)
        assert engines.by_name["a"].transport is before.transport
        assert list(before.transport.secrets) == ["sk-new"]
        assert engines.prepare({"a": EXTERNAL}, {"a": ["sk-new"]}).changes.kept == ("a",)


async def test_engines_prepared_before_another_change_are_refused():
    async with entry(a=EXTERNAL) as engines:
        first, second = engines.prepare({}, {}), engines.prepare({"a": EXTERNAL, "b": EXTERNAL}, {})
        engines.apply(first)
        with pytest.raises(ConfigError, match="changed meanwhile"):
            engines.apply(second)
        assert list(engines.by_name) == []


async def test_engines_cannot_be_changed_after_close():
    async with entry(a=EXTERNAL) as engines:
        prepared = engines.prepare({"b": EXTERNAL}, {})
        await engines.close()
        with pytest.raises(ConfigError, match="shutting down"):
            engines.apply(prepared)


async def test_a_new_engine_that_cannot_start_refuses_the_whole_config():
    """An engine that is in the old config too, and cannot start either, does not refuse it."""
    absent = VllmConfig(model="m", python="/nowhere/python", start="on_demand")
    async with entry(a=EXTERNAL, old=absent) as engines:
        with pytest.raises(ConfigError, match=r"^c\.yaml: engines\.new: there is no Python"):
            engines.prepare({"old": absent, "new": absent}, {}, source="c.yaml")
        engines.apply(engines.prepare({"old": absent}, {}))
        assert list(engines.by_name) == ["old"]


async def test_a_status_of_a_replaced_engine_is_not_passed_on():
    reported = []
    engines = Engines(
        {"a": EXTERNAL}, keys={}, clock=FakeClock(), log=Log(), on_change=lambda *change: reported.append(change)
    )
    engines.open()
    old = engines.by_name["a"].engine
    engines.apply(engines.prepare({"a": ExternalConfig(base_url="http://127.0.0.1:2/v1")}, {}))
    old._status.move("stop", "of the old one")
    assert [status.reason for _, status in reported] == []
    await engines.close()


# --- replicas -----------------------------------------------------------------------------------------------------


def replicated(count, **fields):
    config = VllmConfig(model="m", python=sys.executable, start="on_demand", replicas=count, **fields)
    return expand({"gpu": config})


async def test_an_adapter_of_several_replicas_is_listed_once():
    async with entry(**replicated(2, adapters={"sql": "org/sql"})) as engines:
        assert engines.adapter_names() == ["gpu/sql"]


async def test_a_new_replica_has_the_adapters_that_were_loaded_into_the_others():
    """With another number of replicas, or with another config of the replicas."""
    async with entry(**replicated(2, runtime_adapters=True)) as engines:
        for one in engines.by_name.values():
            one.adapters._paths["law"] = "/b"
        engines.apply(engines.prepare(replicated(3, runtime_adapters=True), {}))
        assert list(engines.by_name["gpu:3"].adapters.names) == ["law"]
        engines.by_name["gpu:2"].engine._status.now = EngineStatus("ready")
        engines.apply(engines.prepare(replicated(3, runtime_adapters=True, max_model_len=2048), {}))
        assert [list(one.adapters.names) for one in engines.by_name.values()] == [["law"]] * 3


async def test_a_replica_for_which_no_gpus_are_left_has_a_refusal_and_the_others_run(tmp_path):
    (tmp_path / "lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    config = VllmConfig(model="m", python=str(python), start="on_demand", replicas=2, tensor_parallel_size=2)
    async with entry(gpus=[Gpu(index=index) for index in range(3)], **expand({"gpu": config})) as engines:
        assert list(engines._parts["gpu:1"].process.needs.awake) == [0, 1]
        assert list(engines.refusals) == ["gpu:2"]
        assert "replica 2 by tensor_parallel_size 2 needs 4 GPUs" in engines.refusals["gpu:2"]


async def test_replicas_that_answer_are_replaced_one_at_a_time():
    reported = []
    engines = Engines(
        replicated(2),
        keys={},
        clock=FakeClock(),
        log=Log(),
        on_change=lambda *_: None,
        on_replaced=lambda: reported.append(list(engines.by_name)),
        gpus=(),
    )
    for entry in engines.by_name.values():
        entry.engine._status.now = EngineStatus("ready")
    first, second = (entry.engine for entry in engines.by_name.values())
    prepared = engines.prepare(replicated(2, max_model_len=2048), {})
    assert engines.is_current(prepared)
    engines.apply(prepared)
    assert not engines.is_current(prepared)
    assert engines.by_name["gpu:1"].engine is not first
    assert engines.by_name["gpu:2"].engine is second
    assert (reported, engines.by_name["gpu:1"].engine.availability) == ([], "loading")
    engines.by_name["gpu:1"].engine._status.now = EngineStatus("ready")
    engines._replace_next()
    assert engines.by_name["gpu:2"].engine is not second
    assert reported == [["gpu:1", "gpu:2"]]
    await engines.close()


async def test_a_new_replica_waits_for_the_gpus_of_a_replica_that_is_retired_later():
    """One replica on GPU 0 becomes two: that on GPU 1 starts first, the other when the old one is retired."""
    alone = VllmConfig(model="m", python=sys.executable, start="on_demand", gpus=(0,))
    async with entry(gpu=alone) as engines:
        engines.open()
        while engines._waiting:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
        engines.by_name["gpu"].engine._status.now = EngineStatus("ready")
        pair = {name: structs.replace(config, start="eager") for name, config in replicated(2, gpus=(0, 1)).items()}
        engines.apply(engines.prepare(pair, {}))
        assert list(engines.by_name) == ["gpu:1", "gpu:2", "gpu"]
        assert engines._waiting == ["gpu:1"]
        engines.by_name["gpu:2"].engine._status.move("start", "")
        engines.by_name["gpu:2"].engine._status.move("answers", "")
        assert list(engines.by_name) == ["gpu:1", "gpu:2"]
