"""Engines that are made, and nothing else."""

import sys
import tempfile

import pytest
from msgspec import structs

from proxy.config.engines import ExternalConfig, LlamaCppConfig, VllmConfig
from proxy.engines.sharing import Sharing
from proxy.engines.workshop import Workshop, check, going_on, treat
from proxy.errors import ConfigError
from tests.fakes.clock import FakeClock

VLLM = VllmConfig(model="m", python=sys.executable, runtime_adapters=True)
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
    ):
        with pytest.raises(ConfigError, match=rf"^c\.yaml: engines\.{name}: {told}"):
            check(name, workshop.make(name, config, ()), "c.yaml")


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
    assert (supervisor.kind.start_timeout_s, supervisor._settings.drain_timeout_s) == (8, 9)
    assert [wire._timeouts.idle_s for wire in piece.wires] == [7, 7]


def test_the_keys_of_somebody_elses_engine_are_others_on_the_same_wires(workshop):
    piece = going_on(workshop.make("theirs", THEIRS, ["sk-old"]), workshop.make("theirs", THEIRS, ["sk-new"]))
    treat(piece)
    assert [wire.credentials.choose().shown.ready()["authorization"] for wire in piece.wires] == ["Bearer sk-new"] * 2


def test_replicas_are_asked_and_served_by_the_one_name(workshop):
    piece = workshop.make("r1:2", VLLM, ())
    argv = piece.process.kind.command("s", "k").argv
    assert argv[argv.index("--served-model-name") + 1] == "r1"
    assert (piece.assembled.engine.name, piece.control._model) == ("r1:2", "r1")
