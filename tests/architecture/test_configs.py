"""Rules of this project that no linter checks, and the example configs."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tidegate.cli.main import main
from tidegate.config.commands import split
from tidegate.config.engines import CommandConfig, VllmConfig
from tidegate.config.load import load, parse
from tidegate.engines.vllm.checkpoint import Checkpoint
from tidegate.engines.vllm.command import Machine, build_command

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "proxy").rglob("*.py"))
PACKAGES = [path for path in MODULES if path.name == "__init__.py"]

EXAMPLES = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem not in {"models", "tidegate"})


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_is_a_docstring_and_nothing_else(path):
    """Imports in a package's `__init__.py` cause most import cycles."""
    [statement] = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value.value, str)


def test_no_name_says_nothing():
    """Packages are responsibilities, modules are things."""
    empty = re.compile(r"utils?|helpers?|common|misc|managers?|handlers?|.*_?v\d+")
    assert [name_of(path) for path in MODULES if empty.fullmatch(path.stem) or empty.fullmatch(path.parent.name)] == []


def test_unit_tests_mirror_the_source():
    """`tests/unit/x/test_y.py` tests `proxy/tidegate/x/y.py`; only `test_recorded.py` tests all dialects."""
    unit = ROOT / "tests" / "unit"
    for path in sorted(unit.rglob("test_*.py")):
        source = ROOT / "proxy" / "tidegate" / path.relative_to(unit).with_name(path.name.removeprefix("test_"))
        assert source.exists() or path.name == "test_recorded.py", name_of(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=name_of)
def test_every_config_names_its_schema(path):
    """With the schema, editors can complete and check the keys."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    name = path.stem if (path.parent / f"{path.stem}.schema.json").exists() else "tidegate"
    assert first == f"# yaml-language-server: $schema=./{name}.schema.json"
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_every_example_can_be_used_as_it_stands(path):
    """Only keys, models and GPUs, which this machine lacks, are not tested."""
    config = load(path)
    for name, engine in config.engines.items():
        if isinstance(engine, VllmConfig):
            machine = Machine(python="python")
            build_command(name, engine, Checkpoint(name=engine.model), machine, socket_path="/s", api_key="k")


def test_what_the_readme_shows_is_a_config():
    samples = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert samples
    assert all(parse(sample, "README.md").engines for sample in samples)


def make_program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o700)


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_tidegate_check_takes_every_example(path, tmp_path):
    """It only reports what this machine lacks for each engine, and notes; the test creates the files that are named."""
    make_program(tmp_path / "vllm/bin/python")
    checkpoint = tmp_path / "models/DeepSeek-V3.1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    for engine in load(path).engines.values():
        if isinstance(engine, CommandConfig):
            for word in (split(engine.cmd)[0], engine.model or ""):
                if word.startswith("~/"):
                    make_program(tmp_path / word.removeprefix("~/"))
    keys = dict.fromkeys(re.findall(r"env:(\w+)", path.read_text(encoding="utf-8")), "sk-example-key")
    done = CliRunner().invoke(main, ["check", str(path)], env={**keys, "HOME": str(tmp_path)})
    assert done.exit_code == 0, done.stderr
    assert parse(done.stdout, "printed") == load(path)
    assert all(": not on this machine: " in line or ": note: " in line for line in done.stderr.splitlines())


# The documented flags of the programs in the examples, as far as they are used. Sources: llama-server's README
# (llama.cpp, tools/server), SGLang's page on server arguments, trtllm-serve's page of TensorRT-LLM 1.0, the man pages
# docker-run and podman-run, vLLM's CLI reference.
DOCUMENTED = {
    "llama-server": "--host --port --model --alias --metrics --mmproj --n-gpu-layers --ctx-size --parallel",
    "sglang": "--model-path --host --port --tp --mem-fraction-static --reasoning-parser --tool-call-parser "
    "--enable-metrics --enable-memory-saver",
    "trtllm-serve": "--host --port --backend --tp_size --max_batch_size --kv_cache_free_gpu_memory_fraction",
    "docker": "--rm --name --gpus --ipc --publish --volume --env --entrypoint",
    "podman": "--rm --name --device --security-opt --publish --volume",
    "vllm": "--host --port --gpu-memory-utilization --reasoning-parser --enable-auto-tool-choice --tool-call-parser",
}
PROGRAMS = {  # by engine of the examples: its program, and the program in its container if it is one
    "vision": ["llama-server"],
    "coder": ["llama-server"],
    "v32": ["sglang"],
    "llama": ["trtllm-serve"],
    "qwen": ["docker", "vllm"],
    "gguf": ["podman", "llama-server"],
}


@pytest.mark.parametrize("name", ["llama-server", "sglang", "tensorrt-llm", "docker"])
def test_the_commands_of_the_examples_have_flags_that_their_programs_document(name):
    for engine, config in load(ROOT / "configs" / f"{name}.yaml").engines.items():
        known = {flag for program in PROGRAMS[engine] for flag in DOCUMENTED[program].split()}
        used = {word.partition("=")[0] for word in split(config.cmd) if word.startswith("-")} - {"-m"}
        assert used <= known, engine


UNEXPLAINED = {"kind", "model", "python", "base_url", "targets", "args", "dialect", "max_model_len", "cmd"}


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_every_example_says_why(path):
    """Each key has a comment where it first appears in the file; later ones need none."""
    told = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.strip().partition(":")[0]
        if "#" in line:
            told.add(key)
        elif re.match(r" {4,}\w+:", line):
            assert key in told | UNEXPLAINED
