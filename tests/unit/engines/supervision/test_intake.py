"""Requests that arrive at an engine; the engines are real processes with scripted behaviour."""

import asyncio

import pytest
from msgspec import structs
from structlog.testing import CapturingLogger

from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeKind
from tests.fakes.supervised import (
    LARGE,
    QUICK,
    TIMEOUTS,
    logged,
    message_for_callers,
    refused,
    supervised,
)
from tidegate.config.swap import SwapConfig
from tidegate.engines.base import EngineStatus
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.health_recheck import REFUSED
from tidegate.engines.supervision.intake import EngineIntake
from tidegate.engines.supervision.settings import CurrentSettings, Settings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.errors import EngineUnavailable, UpstreamFailed, UpstreamRejected
from tidegate.transport.wire import Transport


async def test_an_engine_becomes_ready_by_its_own_health():
    async with supervised(FakeKind("well")) as (supervisor, states, _):
        with pytest.raises(EngineUnavailable, match="not ready"):
            await supervisor.acquire_slot(can_wait=False)
        await states.until("ready")
        (await supervisor.acquire_slot(can_wait=False))()


async def test_a_request_waits_for_an_engine_that_starts():
    async with supervised(FakeKind("well")) as (supervisor, _, _log):
        leave = await supervisor.acquire_slot(can_wait=True)
        assert supervisor.requests.taken == 1
        leave()
        assert supervisor.requests.taken == 0


async def test_a_request_does_not_wait_for_ever():
    quick = Settings(queue_timeout_s=0.05, poll_s=0.01)
    async with supervised(FakeKind("silent"), quick) as (supervisor, _, _log):
        with pytest.raises(EngineUnavailable, match="starting"):
            await supervisor.acquire_slot(can_wait=True)


async def test_progress_is_read_from_the_output_and_shown_to_callers():
    async with supervised(FakeKind("shows_progress,silent")) as (supervisor, states, _):
        while supervisor.status.progress is None:
            await states.seen.get()
        assert supervisor.status.progress.done == 0.5
        assert supervisor.status.left_s is None  # what follows is unknown
        with pytest.raises(EngineUnavailable, match="loading 50%") as caught:
            await supervisor.acquire_slot(can_wait=False)
        assert caught.value.retry_after_s >= 1


async def test_callers_do_not_see_the_output():
    once = structs.replace(QUICK, max_crashes=1)
    async with supervised(FakeKind("broken"), once) as (supervisor, states, _log):
        reason = (await states.until("failed")).reason
        hint = "it ended with status 3 (it is not started again by itself: tidegate engines start e)"
        assert reason == f"{hint}: 0.0 E srv: cannot open the tensor file"
        assert await message_for_callers(supervisor) == f"The engine 'e' is not ready (failed): {hint}"


async def test_callers_do_not_see_an_unexpected_exception():
    class Faulty(FakeKind):
        def command(self, socket_path, api_key):
            raise ValueError("/srv/secret")

    once = structs.replace(QUICK, max_crashes=1)
    async with supervised(Faulty("well"), once) as (supervisor, states, _log):
        reason = (await states.until("failed")).reason
        assert reason.startswith("it failed unexpectedly (it is not started again by itself")
        assert reason.endswith(": ValueError: /srv/secret")
        assert "ValueError" not in await message_for_callers(supervisor)


async def test_requests_wait_while_the_engine_is_unloaded_for_another_and_until_its_next_load():
    """A request that may not wait, as it has another target, is refused."""
    allocator = GpuAllocator(SwapConfig(max_wait_s=0, min_loaded_s=0))
    lazy = Settings(starts_at_once=False, poll_s=0.01, scrape_s=0.01, queue_timeout_s=60)
    async with (
        supervised(FakeKind("well"), lazy, allocator, "a", needs=LARGE) as (first, first_states, log),
        supervised(FakeKind("well"), lazy, allocator, "b", needs=LARGE) as (second, _states, _log),
    ):
        leave = await first.acquire_slot(can_wait=True)
        waiting = asyncio.create_task(second.acquire_slot(can_wait=True))
        while first._intake.paused_for != "b":  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.001)
        assert first.status.state == "ready"
        with pytest.raises(EngineUnavailable, match="The engine 'a' is being unloaded so that another") as caught:
            await first.acquire_slot(can_wait=False)
        assert caught.value.retry_after_s >= 1
        again = asyncio.create_task(first.acquire_slot(can_wait=True))
        while not first.requests.waiting:  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.001)
        leave()
        await first_states.until("stopped")
        (await waiting)()
        (await again)()
        assert (first.status.state, second.status.state) == ("ready", "stopped")
        assert logged(log, "engine closed for another engine") == [{"engine": "a", "wanted": "b"}]


async def test_a_request_that_waits_for_a_closed_engine_does_not_wait_for_ever():
    quick = Settings(poll_s=0.01, scrape_s=0.01, queue_timeout_s=0.05)
    async with supervised(FakeKind("well"), quick) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.pause_for("b")
        with pytest.raises(EngineUnavailable, match="so that another engine can be loaded"):
            await supervisor.acquire_slot(can_wait=True)
        assert supervisor.requests.waiting == 0
        supervisor.reopen()
        (await supervisor.acquire_slot(can_wait=False))()


@pytest.mark.parametrize("sleep_level", [None, 1])
async def test_a_request_that_waits_continues_at_once_when_the_engine_reopens(sleep_level):
    kind = FakeKind("sleeps", sleep_level=sleep_level)
    async with supervised(kind) as (supervisor, states, _log):
        await states.until("ready")
        leave = await supervisor.acquire_slot(can_wait=False)
        supervisor.pause_for("b")
        waiting = asyncio.create_task(supervisor.acquire_slot(can_wait=True))
        while not supervisor.requests.waiting:  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.001)
        supervisor.reopen()
        (await waiting)()
        leave()
        assert kind.starts == 1


async def test_stopping_a_closed_engine_refuses_the_waiting_requests():
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.pause_for("b")
        waiting = asyncio.create_task(supervisor.acquire_slot(can_wait=True))
        while not supervisor.requests.waiting:  # noqa: ASYNC110 - nothing reports it
            await asyncio.sleep(0.001)
        supervisor.set_goal("stop")
        with pytest.raises(EngineUnavailable):
            await waiting
        await states.until("stopped")


NO_POLLS = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=600, queue_timeout_s=60, ending_s=0.05)


async def get_metrics(supervisor, *, times: int) -> None:
    """Get the metrics of an engine `times` times."""
    wire = Transport("http://engine", timeouts=TIMEOUTS, socket_path=supervisor.socket_path)
    for _ in range(times):
        await wire.get("/metrics")
    await wire.close()


async def test_an_engine_that_refuses_a_request_is_out_of_routing_at_once_and_back_if_it_answers_after_all():
    kind = FakeKind("well")
    async with supervised(kind, NO_POLLS) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.report_failure(refused())
        assert supervisor.status == EngineStatus("failed", REFUSED, attempts=1)
        with pytest.raises(EngineUnavailable, match="failed"):
            await supervisor.acquire_slot(can_wait=False)
        (await supervisor.acquire_slot(can_wait=True))()
        assert (kind.starts, supervisor.status) == (1, EngineStatus("ready", attempts=1))


async def test_the_engine_is_checked_before_the_next_attempt_of_a_failed_request():
    async with supervised(FakeKind("well"), NO_POLLS) as (supervisor, states, log):
        await states.until("ready")
        supervisor.report_failure(UpstreamRejected("the caller's fault"))
        assert not supervisor._status.recheck.is_due
        supervisor.report_failure(UpstreamFailed("500"))
        (await supervisor.acquire_slot(can_wait=False))()
        assert not supervisor._status.recheck.is_due
        assert logged(log, "engine failed") == []


async def test_a_dead_engine_is_found_before_the_next_attempt():
    """The failed request alone causes the check: the next poll is due in ten minutes."""
    async with supervised(FakeKind("ill", "well"), NO_POLLS) as (supervisor, states, _log):
        await states.until("ready")
        await get_metrics(supervisor, times=2)
        supervisor.report_failure(UpstreamFailed("500"))
        with pytest.raises(EngineUnavailable, match="failed"):
            await supervisor.acquire_slot(can_wait=False)


def make_access(goal, state, is_held, failed_starts=0):
    """An `EngineIntake` without an engine process, and its `GoalOwner`."""
    clock, log = FakeClock(), CapturingLogger()
    status, goal_owner = StatusOwner("e", "", clock=clock, log=log), GoalOwner(goal)
    status.now, status.failed_starts, goal_owner.is_held = EngineStatus(state), failed_starts, is_held
    return EngineIntake(
        status, goal_owner, CurrentSettings(FakeKind("well"), Settings()), clock=clock, log=log
    ), goal_owner


@pytest.mark.parametrize(
    ("goal", "state", "is_held", "failed_starts", "availability"),
    [
        ("run", "ready", False, 0, "ready"),
        ("stop", "stopped", False, 0, "unloaded"),
        ("sleep", "sleeping", False, 0, "unloaded"),
        ("run", "stopped", False, 0, "loading"),
        ("run", "starting", False, 0, "loading"),
        ("run", "failed", False, 1, "loading"),
        ("run", "failed", False, 2, "unavailable"),
        ("stop", "stopped", True, 0, "unavailable"),
        ("stop", "draining", False, 0, "unavailable"),
    ],
)
def test_the_availability_of_an_engine(goal, state, is_held, failed_starts, availability):
    intake, _ = make_access(goal, state, is_held, failed_starts)
    assert intake.availability == availability


@pytest.mark.parametrize(("is_held", "availability"), [(False, "loading"), (True, "unavailable")])
def test_a_request_loads_the_engine_unless_the_administrator_has_stopped_it(is_held, availability):
    intake, goal_owner = make_access("stop", "stopped", is_held)
    intake.request_load()
    assert (intake.availability, goal_owner.changed.is_set()) == (availability, not is_held)
