"""The process of an engine: its output is read in lines, and it ends with all that it has started."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.processes import gone, is_running
from tidegate.engines.base import Command
from tidegate.engines.process.process import EngineProcess


async def output_of(code: str, environment=None) -> tuple[int, list[str]]:
    lines = []
    process = EngineProcess(lines.append)
    await process.start(Command((sys.executable, "-c", code), environment or {}))
    status = await process.wait()
    await process.read_rest()
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
async def test_a_carriage_return_ends_a_line_too(written, lines):
    assert await output_of(f"import sys; sys.stdout.write('{written}')") == (0, lines)


async def test_secrets_are_masked_in_its_output():
    """They are masked in the callback and in the kept lines."""
    lines = []
    process = EngineProcess(lines.append)
    code = "print('key sk-0123456789abcdef, and more')"
    await process.start(Command((sys.executable, "-c", code), secrets=["sk-0123456789abcdef"]))
    await process.wait()
    await process.read_rest()
    await process.end(1)
    assert lines == list(process.lines.last) == ["key ***, and more"]


async def test_bytes_that_are_not_utf_8_are_replaced():
    assert await output_of("import os; os.write(2, b'\\xff!\\n')") == (0, ["\N{REPLACEMENT CHARACTER}!"])


async def test_a_line_without_end_is_cut():
    _, [line] = await output_of("import sys; sys.stdout.write('x' * 1_000_000)")
    assert line == "x" * 4096


async def test_the_environment_is_added_to_that_of_tidegate():
    _, [line] = await output_of(
        "import os; print(os.environ['MINE'], os.environ['PATH'] == os.environ['OURS'])",
        {"MINE": "1", "OURS": os.environ["PATH"]},
    )
    assert line == "1 True"


async def test_its_end_is_noticed_while_a_child_holds_its_output():
    """A child of the engine that keeps the pipe open must not hide that the engine has ended."""
    process = EngineProcess(lambda _: None)
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    await process.start(Command((sys.executable, "-c", code)))
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    await process.end(1)


async def test_no_descriptor_is_open_after_the_end():
    before = open_files()
    await output_of("print(1)")
    assert open_files() <= before


# starts a session of its own and redirects its output, as a daemon does
DAEMON = """
import os, signal, sys
output = os.dup(1)
reading, writing = os.pipe()
if os.fork():
    os.close(writing)
    os.read(reading, 1)
    signal.pause() if sys.argv[1] == "stays" else os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1), os.dup2(null, 2)
os.write(output, b"%d\\n" % os.getpid())
os.close(output), os.close(writing)
signal.pause()
"""


@pytest.mark.parametrize("parent", ["stays", "ends"])
async def test_a_process_that_has_left_the_session_is_ended_too(parent):
    first_line = asyncio.get_running_loop().create_future()
    process, other = (
        EngineProcess(lambda line: first_line.set_result(int(line)), "r1"),
        EngineProcess(lambda _: None, "r1"),
    )
    await process.start(Command((sys.executable, "-c", DAEMON, parent)))
    await other.start(Command(("sleep", "1000000")))
    daemon = await first_line
    if parent == "ends":
        await process.wait()
        assert is_running(daemon)
    await process.end(1)
    assert not is_running(daemon)
    assert not other.has_ended
    await other.end(1)


@pytest.mark.parametrize("steps", range(6))
async def test_a_start_that_is_cancelled_leaves_nothing(steps):
    """Cancelled at any await, it leaves no open descriptor, and no process after `end`."""
    before, others = open_files(), children()
    process = EngineProcess(lambda _: None)
    starting = asyncio.create_task(process.start(Command(("sleep", "1000000"))))
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await process.end(0)
    assert open_files() <= before
    assert children() <= others


async def test_the_end_right_after_the_start_leaves_nothing_open():
    before = open_files()
    process = EngineProcess(lambda _: None)
    await process.start(Command(("sleep", "1000000")))
    await process.end(0)
    assert open_files() <= before


@pytest.mark.parametrize("steps", range(4))
async def test_cancelling_a_caller_of_end_does_not_stop_the_end(steps):
    """A second call waits for the same end: of an engine that ignores SIGTERM, by SIGKILL."""
    others = children()
    process, engine = await stubborn()
    ending = asyncio.create_task(process.end(0.2))
    for _ in range(steps):
        await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    await process.end(0.2)
    await gone(engine)
    assert process.has_ended
    assert children() <= others


async def test_an_engine_does_not_outlive_an_event_loop_that_is_closed_while_it_is_ending():
    """When the loop is closed, every task is cancelled and does not run again after that."""
    process, engine = await stubborn()
    ending = asyncio.create_task(process.end(3600))
    for _ in range(3):
        await asyncio.sleep(0)
    process._ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    await gone(engine)


async def test_reading_goes_on_after_a_line_whose_callback_raises():
    """Otherwise the pipe would fill up, and the engine would block."""
    seen = []

    def read(line: str) -> None:
        seen.append(line)
        raise ValueError(line)

    loop, failures = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    process = EngineProcess(read)
    await process.start(
        Command((sys.executable, "-c", "import os; [os.write(1, b'x' * 4000 + b'\\n') for _ in range(99)]"))
    )
    assert await process.wait() == 0
    await process.end(1)
    assert len(failures) == len(seen) > 1


async def stubborn() -> tuple[EngineProcess, int]:
    """A started process whose engine ignores SIGTERM, and the engine's pid."""
    first_line = asyncio.get_running_loop().create_future()
    process = EngineProcess(lambda line: first_line.set_result(int(line)))
    code = "import os, signal; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
    await process.start(Command((sys.executable, "-c", code)))
    return process, await first_line


def children() -> set[int]:
    """The process ids of this process's children, zombies included."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
    return found


async def test_a_missing_program_is_reported_in_the_output():
    lines = []
    process = EngineProcess(lines.append)
    await process.start(Command(("/no/such/program",)))
    assert await process.wait() != 0
    await process.read_rest()
    assert any("No such file" in line for line in lines)
    await process.end(1)
