"""The small process between us and an engine, run for real."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from proxy.engines import warden

WARDEN = (sys.executable, "-I", "-S", warden.__file__, sys.executable, "-c")
# a child that heeds no SIGTERM, and whose pid is told
CHILD = """
import signal, subprocess, sys
code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


async def start(code: str):
    return await asyncio.create_subprocess_exec(
        *WARDEN,
        code,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


def is_running(pid: int) -> bool:
    """What has ended, but was not waited for, does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    while is_running(pid):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
    ],
)
async def test_it_ends_by_the_engines_status(code, status):
    process = await start(code)
    assert await process.wait() == status


async def test_sigterm_goes_to_the_engine_alone():
    heeds = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    process = await start(f"{heeds}\n{CHILD}\nsignal.pause()")
    child = int(await process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 7
    await gone(child)


async def test_what_the_engine_leaves_behind_goes_with_it():
    process = await start(CHILD + "sys.exit(1)")
    child = int(await process.stdout.readline())
    assert await process.wait() == 1
    await gone(child)


async def test_everything_goes_when_the_other_end_of_its_input_is_gone():
    process = await start(CHILD + "signal.pause()")
    child = int(await process.stdout.readline())
    process.stdin.close()
    await process.wait()
    await gone(child)


async def test_a_session_is_killed_without_its_leader():
    """Its id lives on while a member does."""
    process = await start(CHILD + "signal.pause()")
    child = int(await process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    await gone(process.pid)
    warden.kill_session(process.pid)
    await gone(child)
    process.stdin.close()
    await process.wait()


def test_a_session_that_is_nobodys_is_no_error():
    warden.kill_session(2**22 + 1)
