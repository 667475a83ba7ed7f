"""One engine's process: its output is read in lines, and it ends with all that it has started."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from proxy.engines.base import Command
from proxy.engines.process import EngineProcess


async def output_of(code: str, environment=None) -> tuple[int, list[str]]:
    lines = []
    process = EngineProcess(lines.append)
    await process.start(Command((sys.executable, "-c", code), environment or {}))
    status = await process.wait()
    await process.read_out()
    await process.end(1)
    return status, lines


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("a\\nb\\n", ["a", "b"]),
        ("a\\r\\nb", ["a", "b"]),
        ("10%\\r20%\\r30%\\ndone", ["10%", "20%", "30%", "done"]),
        ("\\n\\n  \\nx\\n", ["x"]),
        ("", []),
    ],
)
async def test_lines_end_as_progress_bars_end_them(written, lines):
    assert await output_of(f"import sys; sys.stdout.write('{written}')") == (0, lines)


async def test_bytes_that_are_no_text_are_shown_as_such():
    assert await output_of("import os; os.write(2, b'\\xff!\\n')") == (0, ["\N{REPLACEMENT CHARACTER}!"])


async def test_a_line_without_end_is_cut():
    _, [line] = await output_of("import sys; sys.stdout.write('x' * 1_000_000)")
    assert line == "x" * 4096


async def test_the_environment_comes_on_top_of_ours():
    _, [line] = await output_of(
        "import os; print(os.environ['MINE'], os.environ['PATH'] == os.environ['OURS'])",
        {"MINE": "1", "OURS": os.environ["PATH"]},
    )
    assert line == "1 True"


async def test_its_end_is_told_though_another_holds_its_output():
    """A child of the engine's that goes on writing must not hide that the engine has gone."""
    process = EngineProcess(lambda _: None)
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    await process.start(Command((sys.executable, "-c", code)))
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    await process.end(1)


async def test_nothing_is_held_open_after_the_end():
    before = open_files()
    await output_of("print(1)")
    assert open_files() <= before


async def test_what_cannot_be_started_says_so_in_its_output():
    lines = []
    process = EngineProcess(lines.append)
    await process.start(Command(("/no/such/program",)))
    assert await process.wait() != 0
    await process.read_out()
    assert any("No such file" in line for line in lines)
    await process.end(1)
