"""Engines put together: what they tell under `/metrics`, and which cannot run on this machine."""

import sys
from contextlib import asynccontextmanager

import pytest

from proxy.config.engines import ExternalConfig, VllmConfig
from proxy.engines.assembly import Engines
from proxy.engines.base import EngineStatus
from proxy.engines.gpus import Gpu
from tests.fakes.clock import FakeClock

THEIRS = ExternalConfig(base_url="http://127.0.0.1:1/v1")


class Log:
    """Nobody reads it."""

    def info(self, event, **fields):
        """Nothing."""

    error = warning = info


@asynccontextmanager
async def assembled(gpus=(), **configs):
    engines = Engines(configs, keys={}, clock=FakeClock(), log=Log(), on_change=lambda _name, _status: None, gpus=gpus)
    yield engines
    await engines.close()


async def test_only_engines_that_run_tell_their_metrics():
    async with assembled(a=THEIRS, b=THEIRS, c=THEIRS) as engines:
        for name, state in (("a", "ready"), ("b", "draining"), ("c", "failed")):
            engines._controls[name].metrics = b"steps 1\n"
            engines.by_name[name].engine.status = EngineStatus(state)
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
    async with assembled(theirs=ExternalConfig(base_url=base_url)) as engines:
        assert engines._controls["theirs"]._root._base_url == root


async def test_the_adapters_of_the_config_can_be_asked_for_and_those_that_were_loaded(tmp_path):
    fixed = VllmConfig(model="m", python=sys.executable, start="on_demand", adapters={"sql": "/a"})
    loose = VllmConfig(model="m", python=sys.executable, start="on_demand", runtime_adapters=True)
    async with assembled(fixed=fixed, loose=loose, theirs=THEIRS) as engines:
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
    async with assembled(gpus=[Gpu(index=0)], fits=fits, large=large, absent=absent, theirs=THEIRS) as engines:
        assert engines._sharing._needs["fits"].awake == {0: 0.92}
        assert list(engines.refusals) == ["large", "absent"]
        assert "needs 2 GPUs, and the machine has 1" in engines.refusals["large"]
        assert "there is no Python at" in engines.refusals["absent"]
