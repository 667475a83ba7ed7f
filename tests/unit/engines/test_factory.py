"""`EngineFactory`: engines are made and checked, but not started."""

import sys
import tempfile

import pytest
from msgspec import structs

from tests.fakes.clock import FakeClock
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.hooks import HooksConfig
from tidegate.engines.factory import EngineFactory, apply_settings, check, with_new_settings
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.errors import ConfigError

VLLM = VllmConfig(model="m", python=sys.executable, runtime_adapters=True)
HOOKS = HooksConfig(before_load="/nowhere/hook --now")
EXTERNAL = ExternalConfig(base_url="http://127.0.0.1:1/v1")


@pytest.fixture
def factory():
    return EngineFactory(GpuAllocator(), clock=FakeClock(), log=None, on_change=lambda _name, _status: None, gpus=())


def test_an_engine_that_is_made_and_thrown_away_leaves_nothing(factory, tmp_path, monkeypatch):
    """So a config can be checked without side effects."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the sockets are
    factory.make("r1", VLLM, ())
    factory.make("tiny", LlamaCppConfig(model="/nowhere.gguf"), ())
    factory.make("external", EXTERNAL, ())
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_cannot_start_is_refused_with_the_key_and_the_cure(factory):
    for name, config, message in (
        ("r1", VllmConfig(model="m", python="/nowhere/python"), "there is no Python at /nowhere/python"),
        ("tiny", LlamaCppConfig(model="/nowhere.gguf"), "the model file /nowhere.gguf does not exist"),
        ("hooked", LlamaCppConfig(model="x", hooks=HOOKS), "hooks.before_load: there is no program /nowhere/hook on"),
    ):
        with pytest.raises(ConfigError, match=rf"^c\.yaml: engines\.{name}: {message}"):
            check(name, factory.make(name, config, ()), "c.yaml")


def test_an_engine_has_the_hooks_of_its_config_and_can_sleep_if_it_has_a_sleep_level(factory):
    """That also holds for an engine that takes no share of a GPU."""
    all_parts = [factory.make("r1", structs.replace(VLLM, sleep_level=level, hooks=HOOKS), ()) for level in (None, 1)]
    assert [parts.process.settings.hooks for parts in all_parts] == [HOOKS, HOOKS]
    assert [parts.process.needs.can_sleep for parts in all_parts] == [False, True]


def test_an_external_engine_is_never_refused(factory):
    check("external", factory.make("external", EXTERNAL, ()), "c.yaml")


def test_a_running_engine_keeps_its_process_and_gets_the_new_settings(factory):
    old = factory.make("r1", VLLM, ())
    new = factory.make("r1", structs.replace(VLLM, idle_timeout_s=7, start_timeout_s=8, drain_timeout_s=9), ())
    parts = with_new_settings(old, new)
    apply_settings(parts)
    supervisor = parts.process.supervisor
    assert (parts.entry.engine, parts.control, parts.transports) == (
        old.entry.engine,
        old.control,
        old.transports,
    )
    assert (supervisor, parts.entry.adapters) == (old.entry.engine, old.entry.adapters)
    assert (supervisor.kind.start_timeout_s, supervisor.settings.drain_timeout_s) == (8, 9)
    assert [transport._timeouts.idle_s for transport in parts.transports] == [7, 7]


def test_new_keys_of_an_external_engine_are_used_on_the_same_transports(factory):
    parts = with_new_settings(
        factory.make("external", EXTERNAL, ["sk-old"]), factory.make("external", EXTERNAL, ["sk-new"])
    )
    apply_settings(parts)
    assert [transport.credentials.choose().auth_headers.ready()["authorization"] for transport in parts.transports] == [
        "Bearer sk-new"
    ] * 2


def test_a_command_is_reached_by_its_port_or_its_socket_and_its_served_model_name(factory):
    for address, is_on_port in (("${PORT}", True), ("${SOCKET}", False)):
        config = CommandConfig(cmd=(sys.executable, address), model="org/m", dialect="sglang")
        parts = factory.make("e", config, ())
        socket_path = parts.process.supervisor.socket_path
        assert [transport._socket_path for transport in parts.transports] == [None if is_on_port else socket_path] * 2
        parts.control.use_port(4711)
        urls = ["http://127.0.0.1:4711/v1", "http://127.0.0.1:4711"]
        assert [transport._base_url for transport in parts.transports] == urls or not is_on_port
        assert (parts.control._model, parts.entry.dialect) == ("org/m", "sglang")


def test_a_missing_program_is_refused_before_the_start(factory):
    parts = factory.make("e", CommandConfig(cmd="nowhere-serve ${PORT}"), ())
    assert parts.process.refusal == "there is no program nowhere-serve: install it, or mend the key cmd"
    with pytest.raises(ConfigError, match=r"^c\.yaml: engines\.e: there is no program nowhere-serve"):
        check("e", parts, "c.yaml")


def test_a_replica_serves_its_model_under_the_engines_name(factory):
    parts = factory.make("r1:2", VLLM, ())
    argv = parts.process.kind.command("s", "k").argv
    assert argv[argv.index("--served-model-name") + 1] == "r1"
    assert (parts.entry.engine.name, parts.control._model) == ("r1:2", "r1")
