"""Engines that a killed Tidegate has left: real processes, whose marks have a pid namespace invented by the test."""

import asyncio
import os
import secrets
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from structlog.testing import CapturingLogger

from tests.fakes.processes import gone, is_running
from tidegate.engines.base import Command
from tidegate.engines.process import orphans
from tidegate.engines.process.orphans import (
    VARIABLE,
    Mark,
    find_orphans,
    kill_orphans_blocking,
    make_mark,
    open_pipe,
    read_marks,
)
from tidegate.engines.process.process import EngineProcess

# a Tidegate: starts an engine in a new session, through a leader that may be killed, and prints the pids
TIDEGATE = """
import os, signal, subprocess, sys
from tidegate.engines.process.orphans import VARIABLE, Mark, make_mark, open_pipe
from msgspec import structs
namespace, engine = int(sys.argv[1]), sys.argv[2]
mark = structs.replace(make_mark("r1"), namespace=namespace)
reading, writing = open_pipe(mark)
leader = "import subprocess, sys; engine = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); engine.wait()"
child = subprocess.Popen([sys.executable, "-c", leader, engine], stdout=writing, start_new_session=True,
                         env=os.environ | {VARIABLE: str(mark)})
os.set_blocking(reading, True)
output = open(reading)
print(child.pid, int(output.readline()), flush=True)
signal.pause()
"""
PLAIN = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
# overwrites its environment, as setproctitle does
RETITLED = """
import ctypes, os, signal
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 0, end - start)
print(os.getpid(), flush=True)
signal.pause()
"""
# writes its output to another file
SILENT = """
import os, signal
print(os.getpid(), flush=True)
null = os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1)
os.dup2(null, 2)
signal.pause()
"""


@asynccontextmanager
async def tidegate(engine: str):
    """Another Tidegate with an engine: its process, the engine's leader and pid, and the namespace of the marks."""
    namespace = secrets.randbits(48)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TIDEGATE, str(namespace), engine, stdout=asyncio.subprocess.PIPE
    )
    leader, pid = map(int, (await process.stdout.readline()).split())
    try:
        yield process, leader, pid, namespace
    finally:
        for each in (process.pid, leader, pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        await process.wait()


@pytest.mark.parametrize("engine", [PLAIN, RETITLED, SILENT], ids=["plain", "another title", "another output"])
async def test_engines_of_a_killed_tidegate_and_killed_warden_are_ended(engine):
    async with tidegate(engine) as (process, leader, pid, namespace):
        process.kill()
        os.kill(leader, signal.SIGKILL)
        await process.wait()
        await gone(leader)
        assert is_running(pid)
        ended = await asyncio.to_thread(kill_orphans_blocking, namespace)
        assert [(orphan.pid, orphan.session, orphan.mark.name) for orphan in ended] == [(pid, leader, "r1")]
        await gone(pid)
        assert find_orphans(namespace) == []


async def test_engines_of_a_running_tidegate_are_not_touched():
    async with tidegate(PLAIN) as (_, _leader, pid, namespace):
        assert kill_orphans_blocking(namespace) == []
        assert is_running(pid)


async def test_a_tidegate_that_is_a_zombie_does_not_run():
    """Zombies stay in a container whose first process does not wait for its children."""
    async with tidegate(PLAIN) as (process, leader, pid, namespace):
        os.kill(process.pid, signal.SIGKILL)
        while is_running(process.pid):  # no await: the event loop would wait for the child
            pass
        assert {orphan.pid for orphan in find_orphans(namespace)} == {leader, pid}


async def test_marks_of_another_namespace_are_ignored():
    """For example those of a container, whose pids are other numbers here."""
    async with tidegate(PLAIN) as (process, _leader, pid, _namespace):
        process.kill()
        await process.wait()
        assert pid not in {orphan.pid for orphan in find_orphans()}


async def test_a_reused_pid_does_not_count_as_the_owner():
    own = make_mark("r1")
    namespace = secrets.randbits(48)
    for started, is_orphan in ((own.started, False), (own.started - 1, True)):
        mark = Mark(own.pid, started, namespace, "r1")
        child = await asyncio.create_subprocess_exec("sleep", "1000000", env=os.environ | {VARIABLE: str(mark)})
        try:
            assert bool(find_orphans(namespace)) == is_orphan
        finally:
            child.kill()
            await child.wait()


async def test_each_process_of_an_engine_carries_our_mark():
    first_line = asyncio.get_running_loop().create_future()
    process = EngineProcess(first_line.set_result, "r1")
    code = f"import os; print(os.environ['{VARIABLE}'], os.readlink('/proc/self/fd/1'))"
    await process.start(Command((sys.executable, "-c", code)))
    variable, link, *_ = (await first_line).split()
    [mark] = read_marks(variable)
    assert mark == structs.replace(make_mark("r1"), start=mark.start)
    assert str(mark) == variable
    assert Path(link).name.startswith(f"{variable}~")
    assert not Path(link).exists()  # noqa: ASYNC240 - no file
    await process.end(1)


async def test_each_orphaned_engine_is_logged():
    log = CapturingLogger()
    async with tidegate(PLAIN) as (process, leader, pid, namespace):
        process.kill()
        await process.wait()
        await orphans.kill_and_log_orphans(log, namespace)
    [call] = log.calls
    assert call.args == ("orphaned engine killed",)
    assert call.kwargs == {"engine": "r1", "pids": sorted((leader, pid)), "owner": process.pid}


def test_without_a_usable_mark_the_pipe_has_no_name():
    for mark in (None, structs.replace(make_mark("r1"), name="x" * 300)):
        reading, writing = open_pipe(mark)
        os.write(writing, b"1")
        assert os.read(reading, 10) == b"1"
        os.close(reading)
        os.close(writing)


NUMBERS = st.integers(0, 2**63)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
STARTS = st.just("") | st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


@given(st.builds(Mark, NUMBERS, NUMBERS, NUMBERS, NAMES, STARTS))
def test_a_mark_is_read_as_it_was_written(mark):
    assert list(read_marks(f"{VARIABLE}={mark}")) == [mark]
    assert list(read_marks(f"/tmp/{mark}~pipe0f (deleted)")) == [mark]


@given(st.text())
def test_any_text_is_read(text):
    assert list(read_marks(text)) == []
