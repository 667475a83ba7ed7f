"""The process of an engine, and why it has ended; the engines are real processes with scripted behaviour."""

import asyncio
import os
import signal

import pytest

from tests.fakes.engine import FakeKind
from tests.fakes.processes import gone
from tests.fakes.supervised import members, supervised
from tidegate.engines.base import EngineError
from tidegate.engines.process import warden


async def test_the_reason_names_the_cause_of_an_end_and_the_remedy():
    async with supervised(FakeKind("dies", "well")) as (_, states, _log):
        await states.until("ready")
        assert (await states.until("failed")).reason == "out of memory; take a smaller model"
        await states.until("ready")


async def test_an_engine_that_ends_by_itself_has_crashed_whatever_its_exit_status():
    """VLLM ends with 0 when its engine core has died."""
    async with supervised(FakeKind("exits0", "well")) as (_, states, _log):
        assert (await states.until("failed")).reason.startswith("it ended with status 0")
        assert (await states.until("ready")).attempts == 2


async def test_the_output_of_a_killed_engine_is_not_the_reason_for_its_end():
    async with supervised(FakeKind("shows_progress,silent")) as (supervisor, states, _log):
        supervisor.kind.explain = lambda _lines, **_: EngineError("out of memory")
        while supervisor.status.progress is None:
            await states.seen.get()
        leader = supervisor._child.pid
        [engine] = [pid for pid in warden._members(leader) if pid != leader]
        os.kill(engine, signal.SIGKILL)
        assert (await states.until("failed")).reason.startswith("it was killed (SIGKILL): by another program")


@pytest.mark.parametrize(
    ("number", "reason_start"),
    [
        (signal.SIGKILL, "it was killed (SIGKILL): by another program, or by the kernel"),
        (signal.SIGINT, "it was told to end by another program (SIGINT)"),
        (signal.SIGSEGV, "it crashed (SIGSEGV)"),
        (signal.SIGABRT, "it crashed (SIGABRT)"),
        (signal.SIGBUS, "it crashed (SIGBUS)"),
    ],
)
async def test_the_reason_names_a_signal_that_tidegate_did_not_send(number, reason_start):
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        await states.until("ready")
        [engine] = members(supervisor)
        os.kill(engine, number)
        assert (await states.until("failed")).reason.startswith(reason_start)


async def test_output_before_the_last_good_health_check_is_no_reason():
    """For example the error of a request that failed an hour ago; only later lines count."""
    explained = []

    class Recording(FakeKind):
        def explain(self, lines, *, has_run=False):
            explained.append((list(lines), has_run))

    async with supervised(Recording("well")) as (supervisor, states, _log):
        await states.until("ready")
        kept = supervisor._child.lines
        supervisor._child.read_line("ValueError: of a request")
        kept.add("ValueError: of a request")
        while kept.since_healthy:  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.001)
        [engine] = members(supervisor)
        os.kill(engine, signal.SIGABRT)
        assert "of a request" not in (await states.until("failed")).reason
    assert explained == [([], True)]


async def test_the_whole_start_counts_until_the_first_answer():
    explained = []

    class Recording(FakeKind):
        def explain(self, lines, *, has_run=False):
            explained.append((list(lines), has_run))

    async with supervised(Recording("broken", "well")) as (_, states, _log):
        await states.until("ready")
    [(lines, has_run)] = explained
    assert lines[0] == "loading 0.1"
    assert not has_run


async def test_the_output_of_an_engine_that_had_requests_is_not_quoted():
    """A line may hold a caller's text, and other callers see the reason."""
    async with supervised(FakeKind("dies", "well")) as (supervisor, states, _log):
        supervisor.kind.explain = lambda _lines, **_: None
        await states.until("ready")
        reason = (await states.until("failed")).reason
        assert reason == "it ended with status 9; see tidegate engines logs e"
        await states.until("ready")
        assert "out of memory" in supervisor.lines


@pytest.mark.parametrize("habits", ["leaves_child", "leaves_child,dies"])
async def test_processes_that_an_engine_has_started_end_with_it(habits):
    """VLLM's EngineCore holds the GPU's memory, whether its parent was stopped or has crashed."""
    async with supervised(FakeKind(habits, "well")) as (supervisor, states, _log):
        await states.until("ready")
        [child] = [int(line.split()[1]) for line in supervisor.lines if line.startswith("child ")]
        if "dies" in habits:
            await states.until("failed")
        else:
            supervisor.set_goal("stop")
            await states.until("stopped")
        await gone(child)


async def test_an_engine_that_writes_without_end_becomes_ready():
    async with supervised(FakeKind("floods")) as (supervisor, states, _log):
        await states.until("ready")
        assert sum(map(len, supervisor.lines)) < 4_000_000
