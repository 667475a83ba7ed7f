"""Engines that are made, and nothing else."""

import sys
import tempfile

import pytest
from msgspec import structs
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.config.hooks import HooksConfig
from tidegate.engines.factory import Workshop, check, going_on, treat
from tidegate.engines.gpus.allocator import Sharing
from tidegate.errors import ConfigError

from tests.fakes.clock import FakeClock

VLLM = VllmConfig(model="m", python=sys.executable, runtime_adapters=True)
HOOKS = HooksConfig(before_load="/nowhere/hook --now")
THEIRS = ExternalConfig(base_url="http://127.0.0.1:1/v1")


@pytest.fixture
def workshop():
    return Workshop(Sharing(), clock=FakeClock(), log=None, on_change=lambda _name, _status: None, gpus=())


def test_an_engine_that_is_made_and_thrown_away_leaves_nothing(workshop, tmp_path, monkeypatch):
    """So that a config can be tried."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the sockets are
    workshop.make("r1", VLLM, ())
    workshop.make("tiny", LlamaCppConfig(model="/nowhere.gguf"), ())
    workshop.make("theirs", THEIRS, ())
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_started_is_told_with_its_place_and_the_cure(workshop):
    for name, config, told in (
        ("r1", VllmConfig(model="m", python="/nowhere/python"), "there is no Python at /nowhere/python"),
        ("tiny", LlamaCppConfig(model="/nowhere.gguf"), "the model file /nowhere.gguf does not exist"),
        ("hooked", LlamaCppConfig(model="x", hooks=HOOKS), "hooks.before_load: there is no program /nowhere/hook on"),
    ):
        with pytest.raises(ConfigError, match=rf"^c\.yaml: engines\.{name}: {told}"):
            check(name, workshop.make(name, config, ()), "c.yaml")


def test_an_engine_has_the_hooks_of_its_config_and_is_known_to_sleep_where_it_can(workshop):
    """Also where it takes no share of a GPU, asleep or not."""
    made = [workshop.make("r1", structs.replace(VLLM, sleep_level=level, hooks=HOOKS), ()) for level in (None, 1)]
    assert [piece.process.settings.hooks for piece in made] == [HOOKS, HOOKS]
    assert [piece.process.needs.can_sleep for piece in made] == [False, True]


def test_nothing_is_known_against_what_somebody_else_runs(workshop):
    check("theirs", workshop.make("theirs", THEIRS, ()), "c.yaml")


def test_an_engine_that_goes_on_keeps_what_runs_and_has_the_new_word(workshop):
    old = workshop.make("r1", VLLM, ())
    new = workshop.make("r1", structs.replace(VLLM, idle_timeout_s=7, start_timeout_s=8, drain_timeout_s=9), ())
    piece = going_on(old, new)
    treat(piece)
    supervisor = piece.process.supervisor
    assert (piece.assembled.engine, piece.control, piece.wires) == (old.assembled.engine, old.control, old.wires)
    assert (supervisor, piece.assembled.adapters) == (old.assembled.engine, old.assembled.adapters)
    assert (supervisor.kind.start_timeout_s, supervisor.settings.drain_timeout_s) == (8, 9)
    assert [wire._timeouts.idle_s for wire in piece.wires] == [7, 7]


def test_the_keys_of_somebody_elses_engine_are_others_on_the_same_wires(workshop):
    piece = going_on(workshop.make("theirs", THEIRS, ["sk-old"]), workshop.make("theirs", THEIRS, ["sk-new"]))
    treat(piece)
    assert [wire.credentials.choose().shown.ready()["authorization"] for wire in piece.wires] == ["Bearer sk-new"] * 2


def test_a_command_is_asked_at_its_port_or_its_socket_by_the_name_that_it_has_for_its_model(workshop):
    for address, is_on_port in (("${PORT}", True), ("${SOCKET}", False)):
        config = CommandConfig(cmd=(sys.executable, address), model="org/m", dialect="sglang")
        piece = workshop.make("e", config, ())
        socket_path = piece.process.supervisor.socket_path
        assert [wire._socket_path for wire in piece.wires] == [None if is_on_port else socket_path] * 2
        piece.control.use_port(4711)
        urls = ["http://127.0.0.1:4711/v1", "http://127.0.0.1:4711"]
        assert [wire._base_url for wire in piece.wires] == urls or not is_on_port
        assert (piece.control._model, piece.assembled.dialect) == ("org/m", "sglang")


def test_a_program_that_is_not_here_is_told_before_it_is_started(workshop):
    piece = workshop.make("e", CommandConfig(cmd="nowhere-serve ${PORT}"), ())
    assert piece.process.refusal == "there is no program nowhere-serve: install it, or mend the key cmd"
    with pytest.raises(ConfigError, match=r"^c\.yaml: engines\.e: there is no program nowhere-serve"):
        check("e", piece, "c.yaml")


def test_replicas_are_asked_and_served_by_the_one_name(workshop):
    piece = workshop.make("r1:2", VLLM, ())
    argv = piece.process.kind.command("s", "k").argv
    assert argv[argv.index("--served-model-name") + 1] == "r1"
    assert (piece.assembled.engine.name, piece.control._model) == ("r1:2", "r1")
