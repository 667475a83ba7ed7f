"""Engines put together: what they tell, which cannot run on this machine, and another set of them."""

import asyncio
import sys
from contextlib import asynccontextmanager

import pytest
from msgspec import structs
from tidegate.config.engines import ExternalConfig, VllmConfig
from tidegate.config.replicas import expand
from tidegate.engines.assembly import Engines
from tidegate.engines.base import EngineStatus
from tidegate.engines.gpus.devices import Gpu
from tidegate.errors import ConfigError

from tests.fakes.clock import FakeClock

THEIRS = ExternalConfig(base_url="http://127.0.0.1:1/v1")


class Log:
    """Nobody reads it."""

    def info(self, event, **fields):
        """Nothing."""

    error = warning = info


@asynccontextmanager
async def connected(gpus=(), **configs):
    engines = Engines(configs, keys={}, clock=FakeClock(), log=Log(), on_change=lambda _name, _status: None, gpus=gpus)
    yield engines
    await engines.close()


async def left(engines) -> None:
    """Wait until those that go have gone."""
    while engines._drainer._leaving:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


async def test_only_engines_that_run_tell_their_metrics():
    async with connected(a=THEIRS, b=THEIRS, c=THEIRS) as engines:
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
    """Ray Serve and gateways have several servers behind one address."""
    async with connected(theirs=ExternalConfig(base_url=base_url)) as engines:
        assert engines._parts["theirs"].control._root._base_url == root


async def test_the_adapters_of_the_config_can_be_asked_for_and_those_that_were_loaded(tmp_path):
    fixed = VllmConfig(model="m", python=sys.executable, start="on_demand", adapters={"sql": "/a"})
    loose = VllmConfig(model="m", python=sys.executable, start="on_demand", runtime_adapters=True)
    async with connected(fixed=fixed, loose=loose, theirs=THEIRS) as engines:
        assert engines.adapter_names() == ["fixed/sql"]
        engines.by_name["loose"].adapters._paths["law"] = "/b"
        assert engines.adapter_names() == ["fixed/sql", "loose/law"]


async def test_what_cannot_run_on_this_machine_is_told_and_the_others_go_on(tmp_path):
    """GPUs are facts of the machine: the config is right, perhaps for another."""
    (tmp_path / "lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    fits = VllmConfig(model="m", python=str(python), start="on_demand")
    large = VllmConfig(model="m", python=str(python), start="on_demand", tensor_parallel_size=2)
    absent = VllmConfig(model="m", python=str(tmp_path / "nowhere"), start="on_demand")
    async with connected(gpus=[Gpu(index=0)], fits=fits, large=large, absent=absent, theirs=THEIRS) as engines:
        assert engines._parts["fits"].process.needs.awake == {0: 0.92}
        assert list(engines.refusals) == ["large", "absent"]
        assert "needs 2 GPUs, and the machine has 1" in engines.refusals["large"]
        assert "there is no Python at" in engines.refusals["absent"]


# --- another config -----------------------------------------------------------------------------------------------


async def test_a_kept_engine_is_the_same_one_and_the_others_come_and_go():
    async with connected(a=THEIRS, b=THEIRS) as engines:
        engines.open()
        kept, leaving = engines.by_name["a"], engines.by_name["b"].engine
        engines.apply(engines.prepare({"c": THEIRS, "a": THEIRS}, {}))
        assert list(engines.by_name) == ["c", "a"]
        assert engines.by_name["a"] is kept
        assert [engine.name for engine in engines.all] == ["c", "a"]
        await left(engines)
        assert leaving.status.state == "stopped"


async def test_another_address_is_watched_at_once_though_answers_go_on_at_the_old_one():
    """Nobody's GPU is in the way."""
    async with connected(a=THEIRS) as engines:
        engines.open()
        old = engines.by_name["a"].engine
        old.slots.take()
        engines.apply(engines.prepare({"a": ExternalConfig(base_url="http://127.0.0.1:2/v1")}, {}))
        new = engines.by_name["a"].engine
        assert new is not old
        assert (new._task is not None, len(engines._drainer._leaving)) == (True, 1)
        old.slots.leave()
        await left(engines)


async def test_a_rotated_key_is_no_reason_for_another_engine():
    async with connected(a=THEIRS) as engines:
        before = engines.by_name["a"]
        prepared = engines.prepare({"a": THEIRS}, {"a": ["sk-new"]})
        assert (prepared.changes.kept, prepared.changes.adjusted) == ((), ("a",))
        engines.apply(prepared)
        assert engines.by_name["a"].transport is before.transport
        assert list(before.transport.secrets) == ["sk-new"]
        assert engines.prepare({"a": THEIRS}, {"a": ["sk-new"]}).changes.kept == ("a",)


async def test_what_was_prepared_for_another_set_is_refused():
    async with connected(a=THEIRS) as engines:
        first, second = engines.prepare({}, {}), engines.prepare({"a": THEIRS, "b": THEIRS}, {})
        engines.apply(first)
        with pytest.raises(ConfigError, match="changed meanwhile"):
            engines.apply(second)
        assert list(engines.by_name) == []


async def test_no_engine_comes_when_all_have_been_closed():
    async with connected(a=THEIRS) as engines:
        prepared = engines.prepare({"b": THEIRS}, {})
        await engines.close()
        with pytest.raises(ConfigError, match="going down"):
            engines.apply(prepared)


async def test_an_engine_that_could_not_start_refuses_the_whole_set():
    """But one that is there already, and could not either, is no reason."""
    absent = VllmConfig(model="m", python="/nowhere/python", start="on_demand")
    async with connected(a=THEIRS, old=absent) as engines:
        with pytest.raises(ConfigError, match=r"^c\.yaml: engines\.new: there is no Python"):
            engines.prepare({"old": absent, "new": absent}, {}, source="c.yaml")
        engines.apply(engines.prepare({"old": absent}, {}))
        assert list(engines.by_name) == ["old"]


async def test_what_an_engine_says_whose_name_another_one_has_is_not_passed_on():
    told = []
    engines = Engines({"a": THEIRS}, keys={}, clock=FakeClock(), log=Log(), on_change=lambda *said: told.append(said))
    engines.open()
    old = engines.by_name["a"].engine
    engines.apply(engines.prepare({"a": ExternalConfig(base_url="http://127.0.0.1:2/v1")}, {}))
    old._status.move("stop", "of the old one")
    assert [status.reason for _, status in told] == []
    await engines.close()


# --- replicas -----------------------------------------------------------------------------------------------------


def replicated(count, **fields):
    config = VllmConfig(model="m", python=sys.executable, start="on_demand", replicas=count, **fields)
    return expand({"gpu": config})


async def test_adapters_of_replicas_are_told_once_by_the_one_name():
    async with connected(**replicated(2, adapters={"sql": "org/sql"})) as engines:
        assert engines.adapter_names() == ["gpu/sql"]


async def test_a_new_replica_has_the_adapters_that_were_loaded_into_the_others():
    """Of another number of replicas, or of another config."""
    async with connected(**replicated(2, runtime_adapters=True)) as engines:
        for one in engines.by_name.values():
            one.adapters._paths["law"] = "/b"
        engines.apply(engines.prepare(replicated(3, runtime_adapters=True), {}))
        assert list(engines.by_name["gpu:3"].adapters.names) == ["law"]
        engines.by_name["gpu:2"].engine._status.now = EngineStatus("ready")
        engines.apply(engines.prepare(replicated(3, runtime_adapters=True, max_model_len=2048), {}))
        assert [list(one.adapters.names) for one in engines.by_name.values()] == [["law"]] * 3


async def test_gpus_are_dealt_out_and_a_replica_without_says_why_while_the_others_go_on(tmp_path):
    (tmp_path / "lib/python3.12/site-packages/vllm-0.33.0.dist-info").mkdir(parents=True)
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    config = VllmConfig(model="m", python=str(python), start="on_demand", replicas=2, tensor_parallel_size=2)
    async with connected(gpus=[Gpu(index=index) for index in range(3)], **expand({"gpu": config})) as engines:
        assert list(engines._parts["gpu:1"].process.needs.awake) == [0, 1]
        assert list(engines.refusals) == ["gpu:2"]
        assert "replica 2 by tensor_parallel_size 2 needs 4 GPUs" in engines.refusals["gpu:2"]


async def test_of_replicas_that_answer_one_is_replaced_and_the_others_stand_there_until_its_turn():
    told = []
    engines = Engines(
        replicated(2),
        keys={},
        clock=FakeClock(),
        log=Log(),
        on_change=lambda *_: None,
        on_replaced=lambda: told.append(list(engines.by_name)),
        gpus=(),
    )
    for connected in engines.by_name.values():
        connected.engine._status.now = EngineStatus("ready")
    first, second = (connected.engine for connected in engines.by_name.values())
    prepared = engines.prepare(replicated(2, max_model_len=2048), {})
    assert engines.is_current(prepared)
    engines.apply(prepared)
    assert not engines.is_current(prepared)
    assert engines.by_name["gpu:1"].engine is not first
    assert engines.by_name["gpu:2"].engine is second
    assert (told, engines.by_name["gpu:1"].engine.availability) == ([], "loading")
    engines.by_name["gpu:1"].engine._status.now = EngineStatus("ready")
    engines._continue()
    assert engines.by_name["gpu:2"].engine is not second
    assert told == [["gpu:1", "gpu:2"]]
    await engines.close()


async def test_a_replica_whose_gpus_one_has_that_is_to_go_later_waits_for_that():
    """One engine on GPU 0 becomes two: the one on GPU 1 comes first, the other when the old one has gone."""
    alone = VllmConfig(model="m", python=sys.executable, start="on_demand", gpus=(0,))
    async with connected(gpu=alone) as engines:
        engines.open()
        while engines._waiting:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        engines.by_name["gpu"].engine._status.now = EngineStatus("ready")
        pair = {name: structs.replace(config, start="eager") for name, config in replicated(2, gpus=(0, 1)).items()}
        engines.apply(engines.prepare(pair, {}))
        assert list(engines.by_name) == ["gpu:1", "gpu:2", "gpu"]
        assert engines._waiting == ["gpu:1"]
        engines.by_name["gpu:2"].engine._status.move("start", "")
        engines.by_name["gpu:2"].engine._status.move("answers", "")
        assert list(engines.by_name) == ["gpu:1", "gpu:2"]
