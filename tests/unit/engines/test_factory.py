"""Engines that are made, and nothing else."""

import sys
import tempfile

import pytest
from msgspec import structs
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.hooks import HooksConfig
from tidegate.engines.factory import EngineFactory, check, going_on, treat
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.errors import ConfigError

from tests.fakes.clock import FakeClock

VLLM = VllmConfig(model="m", python=sys.executable, runtime_adapters=True)
HOOKS = HooksConfig(before_load="/nowhere/hook --now")
THEIRS = ExternalConfig(base_url="http://127.0.0.1:1/v1")


@pytest.fixture
def factory():
    return EngineFactory(GpuAllocator(), clock=FakeClock(), log=None, on_change=lambda _name, _status: None, gpus=())


def test_an_engine_that_is_made_and_thrown_away_leaves_nothing(factory, tmp_path, monkeypatch):
    """So that a config can be tried."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the sockets are
    factory.make("r1", VLLM, ())
    factory.make("tiny", LlamaCppConfig(model="/nowhere.gguf"), ())
    factory.make("theirs", THEIRS, ())
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_started_is_told_with_its_place_and_the_cure(factory):
    for name, config, told in (
        ("r1", VllmConfig(model="m", python="/nowhere/python"), "there is no Python at /nowhere/python"),
        ("tiny", LlamaCppConfig(model="/nowhere.gguf"), "the model file /nowhere.gguf does not exist"),
        ("hooked", LlamaCppConfig(model="x", hooks=HOOKS), "hooks.before_load: there is no program /nowhere/hook on"),
    ):
        with pytest.raises(ConfigError, match=rf"^c\.yaml: engines\.{name}: {told}"):
            check(name, factory.make(name, config, ()), "c.yaml")


def test_an_engine_has_the_hooks_of_its_config_and_is_known_to_sleep_where_it_can(factory):
    """Also where it takes no share of a GPU, asleep or not."""
    made = [factory.make("r1", structs.replace(VLLM, sleep_level=level, hooks=HOOKS), ()) for level in (None, 1)]
    assert [parts.process.settings.hooks for parts in made] == [HOOKS, HOOKS]
    assert [parts.process.needs.can_sleep for parts in made] == [False, True]


def test_nothing_is_known_against_what_somebody_else_runs(factory):
    check("theirs", factory.make("theirs", THEIRS, ()), "c.yaml")


def test_an_engine_that_goes_on_keeps_what_runs_and_has_the_new_word(factory):
    old = factory.make("r1", VLLM, ())
    new = factory.make("r1", structs.replace(VLLM, idle_timeout_s=7, start_timeout_s=8, drain_timeout_s=9), ())
    parts = going_on(old, new)
    treat(parts)
    supervisor = parts.process.supervisor
    assert (parts.connected.engine, parts.control, parts.wires) == (old.connected.engine, old.control, old.wires)
    assert (supervisor, parts.connected.adapters) == (old.connected.engine, old.connected.adapters)
    assert (supervisor.kind.start_timeout_s, supervisor.settings.drain_timeout_s) == (8, 9)
    assert [wire._timeouts.idle_s for wire in parts.wires] == [7, 7]


def test_the_keys_of_somebody_elses_engine_are_others_on_the_same_wires(factory):
    parts = going_on(factory.make("theirs", THEIRS, ["sk-old"]), factory.make("theirs", THEIRS, ["sk-new"]))
    treat(parts)
    assert [wire.credentials.choose().auth_headers.ready()["authorization"] for wire in parts.wires] == [
        "Bearer sk-new"
    ] * 2


def test_a_command_is_asked_at_its_port_or_its_socket_by_the_name_that_it_has_for_its_model(factory):
    for address, is_on_port in (("${PORT}", True), ("${SOCKET}", False)):
        config = CommandConfig(cmd=(sys.executable, address), model="org/m", dialect="sglang")
        parts = factory.make("e", config, ())
        socket_path = parts.process.supervisor.socket_path
        assert [wire._socket_path for wire in parts.wires] == [None if is_on_port else socket_path] * 2
        parts.control.use_port(4711)
        urls = ["http://127.0.0.1:4711/v1", "http://127.0.0.1:4711"]
        assert [wire._base_url for wire in parts.wires] == urls or not is_on_port
        assert (parts.control._model, parts.connected.dialect) == ("org/m", "sglang")


def test_a_program_that_is_not_here_is_told_before_it_is_started(factory):
    parts = factory.make("e", CommandConfig(cmd="nowhere-serve ${PORT}"), ())
    assert parts.process.refusal == "there is no program nowhere-serve: install it, or mend the key cmd"
    with pytest.raises(ConfigError, match=r"^c\.yaml: engines\.e: there is no program nowhere-serve"):
        check("e", parts, "c.yaml")


def test_replicas_are_asked_and_served_by_the_one_name(factory):
    parts = factory.make("r1:2", VLLM, ())
    argv = parts.process.kind.command("s", "k").argv
    assert argv[argv.index("--served-model-name") + 1] == "r1"
    assert (parts.connected.engine.name, parts.control._model) == ("r1:2", "r1")
