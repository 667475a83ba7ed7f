"""Runs `tests.gpu.run`, which is made for a GPU, with vLLM's CPU build: it measures, and tests sleep and wake."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from tests.fakes import proxy

_ROOT = Path(__file__).parents[2]
_CELL = r" [\d,.]+ \|"


async def test_the_script_measures_vllm_alone_and_through_tidegate(tiny_deepseek):
    command = (sys.executable, "-m", "tests.gpu.run", "--cpu")
    script = await asyncio.create_subprocess_exec(
        *command, cwd=_ROOT, env=proxy.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await script.communicate()
    output = out.decode()
    assert script.returncode == 0, output
    rows = re.findall(rf"^\| (\d+) \| (\w+) \|(?:{_CELL}){{5}}$", output, re.MULTILINE)
    assert rows == [("1", "vLLM"), ("1", "Tidegate"), ("4", "vLLM"), ("4", "Tidegate")]
    assert re.search(r"^\| [\d.]+ s \| [\d.]+ s \| [\d,]+ MiB \| [\d,]+ MiB \| -?[\d,]+ MiB \|$", output, re.MULTILINE)
