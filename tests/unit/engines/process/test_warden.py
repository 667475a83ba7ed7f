"""The warden, the process between Tidegate and an engine; run as a real process."""

import asyncio
import mmap
import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.processes import gone
from tidegate.engines.process import warden

WARDEN = (sys.executable, "-I", "-S", warden.__file__, sys.executable, "-c")
# starts a child that ignores SIGTERM, and prints its pid
CHILD = """
import signal, subprocess, sys
code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


async def start(code: str, *stop: str):
    return await asyncio.create_subprocess_exec(
        *WARDEN,
        code,
        env=os.environ | warden.stop_variable(stop),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
    ],
)
async def test_it_ends_with_the_engines_status(code, status):
    process = await start(code)
    assert await process.wait() == status


async def test_sigterm_goes_to_the_engine_alone():
    exits_7 = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    process = await start(f"{exits_7}\n{CHILD}\nsignal.pause()")
    child = int(await process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 7
    await gone(child)


async def test_processes_that_the_engine_leaves_are_killed():
    process = await start(CHILD + "sys.exit(1)")
    child = int(await process.stdout.readline())
    assert await process.wait() == 1
    await gone(child)


async def test_all_processes_are_killed_when_its_standard_input_ends():
    process = await start(CHILD + "signal.pause()")
    child = int(await process.stdout.readline())
    process.stdin.close()
    await process.wait()
    await gone(child)


async def test_a_session_is_killed_without_its_leader():
    """The id of a session stays in use while one of its processes runs."""
    process = await start(CHILD + "signal.pause()")
    child = int(await process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    await gone(process.pid)
    warden.kill_session(process.pid)
    await gone(child)
    process.stdin.close()
    await process.wait()


# an engine that ends only by SIGINT, with status 7, and prints whether it has the variable of the stop command
ENGINE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
print("TIDEGATE_STOP" in os.environ, flush=True)
"""


async def test_an_engine_with_a_stop_command_is_ended_by_it():
    process = await start(ENGINE + "signal.pause()", "sh", "-c", "echo ending; kill -INT ${PID}")
    assert await process.stdout.readline() == b"False\n"
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 7
    assert await process.stdout.read() == b"ending\n"


@pytest.mark.parametrize(
    ("stop", "message"),
    [(("sh", "-c", "exit 3"), b"cmd_stop: it ended with status 3"), (("/nowhere/stop",), b"cmd_stop: ")],
)
async def test_after_a_failed_stop_command_the_engine_gets_sigterm(stop, message):
    process = await start("print(1, flush=True)\nimport signal; signal.pause()", *stop)
    await process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 128 + signal.SIGTERM
    assert (await process.stdout.read()).startswith(message)


async def test_the_stop_command_runs_after_an_engine_has_ended_by_itself(tmp_path):
    """It runs once, and only if it does not contain the pid, which another process may have by now.

    Its output is discarded, so that the engine's last lines stay the last ones.
    """
    engine = "print('my reason', flush=True); raise SystemExit(3)"
    process = await start(engine, "sh", "-c", f"echo x >> {tmp_path}/stopped; echo no such container; exit 1")
    assert await process.wait() == 3
    assert await process.stdout.read() == b"my reason\n"
    assert (tmp_path / "stopped").read_text() == "x\n"
    process = await start("raise SystemExit(3)", "sh", "-c", f"echo ${{PID}} >> {tmp_path}/by_pid")
    assert await process.wait() == 3
    assert not (tmp_path / "by_pid").exists()


async def test_the_stop_command_runs_when_the_wardens_standard_input_ends(tmp_path):
    """Tidegate was killed, and a container would keep running."""
    process = await start(CHILD + "signal.pause()", "sh", "-c", f"echo x >> {tmp_path}/stopped")
    child = int(await process.stdout.readline())
    process.stdin.close()
    await process.wait()
    await gone(child)
    assert (tmp_path / "stopped").read_text() == "x\n"


def test_killing_a_session_that_does_not_exist_is_no_error():
    warden.kill_session(2**22 + 1)


# --- shared memory ------------------------------------------------------------------------------------------------

# starts a child that maps the shared memory file of the first argument, and prints 1 when it is mapped
MAPS_FILE = """
import os, mmap, signal, subprocess, sys
code = "import mmap, os, signal; file = os.open(sys.argv[1], os.O_RDWR); kept = mmap.mmap(file, 0); os.close(file); "
code = "import sys; " + code + "print(1, flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(1, flush=True)
signal.pause()
"""
USES_TRACKER = """
import signal
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=64)
print("/dev/shm/" + memory.name, flush=True)
signal.pause()
"""


@pytest.fixture
def shared_file():
    """A function that creates a shared memory file, which is removed after the test."""
    paths = []

    def make(name: str, mode: int = 0o600) -> Path:
        path = Path("/dev/shm") / name
        path.write_bytes(bytes(64))
        path.chmod(mode)
        paths.append(path)
        return path

    yield make
    for path in paths:
        path.unlink(missing_ok=True)


def random_name() -> str:
    return f"psm_{secrets.token_hex(4)}"


async def holding(path: Path):
    process = await asyncio.create_subprocess_exec(
        *WARDEN, MAPS_FILE, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert await process.stdout.readline() == b"1\n"
    return process


def engine_of(process) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


@pytest.mark.parametrize("ends_by", ["the engine's end", "the end of Tidegate"])
async def test_shared_memory_of_killed_processes_is_removed(shared_file, ends_by):
    path = shared_file(random_name())
    process = await holding(path)
    if ends_by == "the engine's end":
        os.kill(engine_of(process), signal.SIGKILL)
    else:
        process.stdin.close()
    await process.wait()
    assert not path.exists()


async def test_shared_memory_of_an_engine_that_has_ended_is_removed_by_pythons_tracker():
    """The engine has ended before the warden could list its files."""
    process = await start(USES_TRACKER)
    path = Path((await process.stdout.readline()).decode().strip())
    assert path.exists()  # noqa: ASYNC240 - no file
    os.kill(engine_of(process), signal.SIGKILL)
    await process.wait()
    assert not path.exists()  # noqa: ASYNC240 - no file


async def test_shared_memory_that_another_program_has_open_stays(shared_file):
    path = shared_file(random_name())
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        process = await holding(path)
        os.kill(engine_of(process), signal.SIGKILL)
        await process.wait()
        assert path.exists()


@pytest.mark.parametrize(("name", "mode"), [("weights", 0o600), (None, 0o666)], ids=["a user's", "open to others"])
async def test_files_that_other_programs_may_use_are_kept(shared_file, name, mode):
    """Users store weights in /dev/shm too, as they are read quickly from there."""
    path = shared_file(random_name() if name is None else f"{name}-{secrets.token_hex(4)}", mode)
    process = await holding(path)
    os.kill(engine_of(process), signal.SIGKILL)
    await process.wait()
    assert path.exists()


@pytest.mark.parametrize(
    ("command_line", "state", "expected"),
    [
        (b"python\0-c\0from multiprocessing.resource_tracker import main;main(5)\0", "S", True),
        (b"vllm\0serve\0", "S", False),
        (b"", "R", True),  # during execve: the process may become a tracker
        (b"", "D", True),
        (b"", "Z", False),  # has ended, and its parent has not waited for it
        (b"", "X", False),
    ],
)
def test_a_tracker_is_recognised_by_its_command_line_once_it_has_one(command_line, state, expected):
    assert warden.is_tracker(command_line, f"71 (a ) Z name) {state} 1 71 71 0".encode()) is expected


async def test_a_tracker_that_does_not_end_is_killed(with_tracker):
    process, tracker = with_tracker
    process.stdin.close()
    await process.wait()
    await gone(tracker)


@pytest.fixture
async def with_tracker():
    """A warden whose engine has a child that looks like Python's tracker, and the child's pid."""
    code = (
        "import subprocess, sys, signal; child = subprocess.Popen([sys.executable, '-c', "
        "'import signal; signal.pause()  # multiprocessing.resource_tracker']); print(child.pid, flush=True); "
        "signal.pause()"
    )
    process = await start(code)
    yield process, int(await process.stdout.readline())
    with suppress(ProcessLookupError):
        process.kill()
