"""The supervisor, with real child processes with scripted behaviour."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from msgspec import structs
from structlog.testing import CapturingLogger

from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeKind
from tests.fakes.processes import gone, is_running
from tests.fakes.supervised import LARGE, QUICK, logged, members, message_for_callers, supervised
from tidegate.config.hooks import HooksConfig
from tidegate.engines.base import EngineError, EngineStatus, PermanentEngineError
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.supervision.settings import Settings
from tidegate.engines.supervision.supervisor import Supervisor
from tidegate.errors import EngineUnavailable


async def test_an_engine_on_demand_starts_with_the_first_request():
    settings = Settings(starts_at_once=False, poll_s=0.01, scrape_s=0.01)
    kind = FakeKind("well")
    async with supervised(kind, settings) as (supervisor, _, _log):
        assert (supervisor.status.state, kind.starts) == ("stopped", 0)
        (await supervisor.acquire_slot(can_wait=True))()
        assert kind.starts == 1


async def test_the_reason_of_a_failed_start_quotes_the_output_and_the_start_is_repeated():
    async with supervised(FakeKind("broken", "well")) as (supervisor, states, log):
        status = await states.until("failed")
        assert status.reason == "it ended with status 3: 0.0 E srv: cannot open the tensor file"
        assert logged(log, "engine down") == [{"engine": "e", "reason": status.reason, "restart_in_s": 0.001}]
        ready = await states.until("ready")
        assert (ready.restarts, ready.attempts) == (0, 2)
        (await supervisor.acquire_slot(can_wait=False))()


async def test_only_an_engine_that_was_ready_is_restarted():
    """A failed start that is tried again is another attempt."""
    async with supervised(FakeKind("broken", "dies", "broken", "well")) as (_, states, _log):
        failures = [await states.until("failed") for _ in range(3)]
        assert [(status.restarts, status.attempts) for status in failures] == [(0, 1), (1, 2), (1, 3)]
        ready = await states.until("ready")
        assert (ready.restarts, ready.attempts) == (1, 4)


async def test_a_permanent_error_is_not_followed_by_another_start():
    class Missing(FakeKind):
        def command(self, socket_path, api_key):
            self.starts += 1
            raise PermanentEngineError("the model file x.gguf does not exist")

    kind = Missing("well")
    async with supervised(kind) as (supervisor, states, _log):
        reason = (await states.until("failed")).reason
        assert reason.startswith("the model file x.gguf does not exist (it is not started again by itself")
        with pytest.raises(EngineUnavailable, match=r"x\.gguf"):
            await supervisor.acquire_slot(can_wait=True)
        assert kind.starts == 1


async def test_an_engine_that_has_run_is_restarted_whatever_its_output_says():
    """The cause in its output would prevent a start, but it did not prevent this one."""

    class Misread(FakeKind):
        def explain(self, lines, *, has_run=False):
            return PermanentEngineError("an adapter has rank 64")

    async with supervised(Misread("dies", "well")) as (_, states, log):
        await states.until("ready")
        assert (await states.until("failed")).reason == "an adapter has rank 64"
        await states.until("ready")
        assert [line["restart_in_s"] for line in logged(log, "engine down")] == [0.001]


async def test_each_pause_is_longer_than_the_one_before_and_a_crash_loop_ends():
    kind = FakeKind("broken")
    async with supervised(kind) as (supervisor, states, log):
        for _ in range(QUICK.max_crashes):
            await states.until("failed")
        pauses = [line["restart_in_s"] for line in logged(log, "engine down")]
        assert pauses == [0.001, 0.002, 0.004, 0.008, None]
        assert "tidegate engines start e" in supervisor.status.reason
        supervisor.set_goal("run")
        await states.until("starting")


async def test_close_ends_the_process_and_removes_the_folder():
    async with supervised(FakeKind("well")) as (supervisor, states, log):
        await states.until("ready")
        [line] = logged(log, "engine ready")
        directory = Path(supervisor.socket_path).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        await supervisor.close()
        with pytest.raises(ProcessLookupError):
            os.kill(line["pid"], 0)
        assert not directory.exists()
        assert supervisor.status.state == "stopped"


async def test_an_engine_that_ignores_the_request_to_stop_is_killed():
    kind = FakeKind("stubborn")
    kind.stop_s = 0.1
    async with supervised(kind) as (supervisor, states, log):
        await states.until("ready")
        await supervisor.close()
        with pytest.raises(ProcessLookupError):
            os.kill(logged(log, "engine ready")[0]["pid"], 0)


async def test_two_engines_use_a_gpu_one_after_the_other():
    """The first engine is stopped for the second one, but not while it has requests."""
    allocator = GpuAllocator()
    lazy = Settings(starts_at_once=False, poll_s=0.01, scrape_s=0.01, queue_timeout_s=60)
    async with (
        supervised(FakeKind("well"), lazy, allocator, "a", needs=LARGE) as (first, first_states, _),
        supervised(FakeKind("well"), lazy, allocator, "b", needs=LARGE) as (second, _states, _log),
    ):
        leave = await first.acquire_slot(can_wait=True)
        waiting = asyncio.create_task(second.acquire_slot(can_wait=True))
        while "b" not in allocator._claims:  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0)
        assert first.status.state == "ready"
        leave()
        await first_states.until("stopped")
        (await waiting)()
        assert (first.status.state, second.status.state) == ("stopped", "ready")


async def test_an_engine_that_never_fits_is_refused_with_the_reason():
    allocator, pinned = GpuAllocator(), GpuNeeds(awake={0: 0.9}, is_pinned=True)
    lazy = Settings(starts_at_once=False, poll_s=0.01)
    async with (
        supervised(FakeKind("well"), QUICK, allocator, "a", needs=pinned) as (_, states, _log),
        supervised(FakeKind("well"), lazy, allocator, "b", needs=LARGE) as (second, _states, _log),
    ):
        await states.until("ready")
        with pytest.raises(EngineUnavailable, match="no GPU memory for b beside the pinned engines"):
            await second.acquire_slot(can_wait=True)


def hooked(**hooks) -> Settings:
    return structs.replace(QUICK, hooks=HooksConfig(**hooks))


async def test_hooks_run_before_the_process_starts_and_when_it_is_ready(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    settings = hooked(before_load=("mkdir", str(before)), after_load=("mkdir", str(after)))
    kind = FakeKind("well")
    command, seen = kind.command, []

    def recording(*parts):
        seen.append((before.exists(), after.exists()))
        return command(*parts)

    kind.command = recording
    async with supervised(kind, settings) as (_, states, _log):
        await states.until("ready")
        while not after.exists():  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.01)
        assert seen == [(True, False)]


async def test_a_hook_that_fails_before_the_load_is_a_failed_start_with_the_reason(tmp_path):
    """The next start runs the hook again."""
    folder = tmp_path / "made"
    settings = hooked(before_load=("mkdir", str(folder / "below")))
    kind = FakeKind("well")
    async with supervised(kind, settings) as (_, states, _log):
        reason = (await states.until("failed")).reason
        assert reason.startswith("hooks.before_load ended with status 1: mkdir:")
        assert kind.starts == 0
        folder.mkdir()
        await states.until("ready")


async def test_a_hook_that_fails_after_the_load_leaves_the_engine_as_it_is():
    async with supervised(FakeKind("well"), hooked(after_load="false")) as (supervisor, states, log):
        await states.until("ready")
        while not logged(log, "hook failed"):  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.01)
        assert logged(log, "hook failed") == [{"engine": "e", "reason": "hooks.after_load ended with status 1"}]
        (await supervisor.acquire_slot(can_wait=False))()


@pytest.mark.parametrize("hook", ["before_load", "after_load"])
async def test_a_hook_that_still_runs_at_the_end_is_ended(hook, tmp_path):
    path = tmp_path / "pid"
    code = f"import os, time; print(os.getpid(), file=open({str(path)!r}, 'w'), flush=True); time.sleep(1000000)"
    async with supervised(FakeKind("well"), hooked(**{hook: (sys.executable, "-c", code)})) as (_supervisor, _, _log):
        while not (path.exists() and path.read_text()):  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.01)
    await gone(int(path.read_text()))


async def test_an_engine_that_ignores_sigterm_is_stopping_until_it_is_killed():
    kind = FakeKind("stubborn")
    kind.stop_s = 0.2
    async with supervised(kind) as (supervisor, states, _log):
        await states.until("ready")
        [engine] = members(supervisor)
        supervisor.set_goal("stop")
        assert (await states.until("stopping")).reason == "it is stopping"
        assert is_running(engine)
        with pytest.raises(EngineUnavailable, match=r"\(stopping\)"):
            await supervisor.acquire_slot(can_wait=False)
        await states.until("stopped")
        await gone(engine)


async def test_an_engine_that_is_closed_while_it_is_being_killed_is_gone_afterwards():
    """Its start took too long, and it ignores SIGTERM: a reload at that moment once ended only the supervision."""
    allocator, clock = GpuAllocator(), FakeClock()
    kind = FakeKind("stubborn,shows_progress,silent", start_timeout_s=30)
    kind.stop_s = 0.3
    async with supervised(kind, allocator=allocator, needs=LARGE, clock=clock) as (supervisor, states, _log):
        while supervisor.status.progress is None:
            await states.seen.get()
        engines = members(supervisor)
        clock.advance(31)
        assert (await states.until("stopping")).reason == "no answer in 30 s, as it refuses connections: loading 0.5"
        assert (
            await message_for_callers(supervisor)
            == "The engine 'e' is not ready (stopping): no answer in 30 s, as it refuses connections"
        )
        assert allocator._states["e"] == "loaded"
        await supervisor.close()
        assert supervisor.status.state == "stopped"
        for engine in engines:
            await gone(engine)
        assert allocator._states["e"] == "out"


async def test_a_drained_engine_finishes_its_answers_and_accepts_no_requests():
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        leave = await supervisor.acquire_slot(can_wait=True)
        draining = asyncio.create_task(supervisor.drain())
        await states.until("draining")
        with pytest.raises(EngineUnavailable):
            await supervisor.acquire_slot(can_wait=True)
        assert not draining.done()
        leave()
        await draining
        assert supervisor.status.state == "stopped"


async def test_an_engine_that_is_not_ready_yet_is_drained_at_once():
    async with supervised(FakeKind("silent")) as (supervisor, states, _log):
        await states.until("starting")
        await supervisor.drain()


# --- goals that are refused; without a process --------------------------------------------------------------


@pytest.fixture
async def idle():
    """A supervisor on which `open` was not called."""
    kind = FakeKind("well")
    unopened = Supervisor("e", kind, Settings(), allocator=GpuAllocator(), clock=FakeClock(), log=CapturingLogger())
    yield unopened
    await unopened.close()


def test_an_engine_that_has_failed_is_stopped_at_once(idle):
    idle._status.now = EngineStatus("failed", "out of memory", 3)
    idle.set_goal("stop")
    assert idle.status == EngineStatus("stopped", "it was told to stop: tidegate engines start e", 3)


@pytest.mark.parametrize(
    ("level", "state", "message"),
    [(None, "ready", "has no sleep_level"), (1, "stopped", "does not run"), (2, "failed", "does not run")],
)
def test_the_goal_sleep_is_refused_where_the_engine_cannot_sleep(idle, level, state, message):
    idle.reconfigure(FakeKind("well", sleep_level=level), Settings())
    idle._status.now = EngineStatus(state)
    with pytest.raises(EngineError, match=message):
        idle.set_goal("sleep")
