"""`tests.gpu.run`, which wants a GPU, on the CPU build: it measures both ways, lets the engine sleep and wakes it."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from tests.fakes import proxy

_ROOT = Path(__file__).parents[2]
_CELL = r" [\d,.]+ \|"


async def test_it_measures_vllm_by_itself_and_through_tidegate(tiny_deepseek):
    command = (sys.executable, "-m", "tests.gpu.run", "--cpu")
    script = await asyncio.create_subprocess_exec(
        *command, cwd=_ROOT, env=proxy.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await script.communicate()
    told = out.decode()
    assert script.returncode == 0, told
    rows = re.findall(rf"^\| (\d+) \| (\w+) \|(?:{_CELL}){{5}}$", told, re.MULTILINE)
    assert rows == [("1", "vLLM"), ("1", "Tidegate"), ("4", "vLLM"), ("4", "Tidegate")]
    assert re.search(r"^\| [\d.]+ s \| [\d.]+ s \| [\d,]+ MiB \| [\d,]+ MiB \| -?[\d,]+ MiB \|$", told, re.MULTILINE)
