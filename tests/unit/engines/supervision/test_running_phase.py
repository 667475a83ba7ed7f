"""A started engine until it is to stop; the engines are real processes with scripted behaviour."""

import asyncio

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeKind
from tests.fakes.processes import is_running
from tests.fakes.supervised import logged, refused, supervised
from tidegate.engines.supervision.hang_detector import FIRST_STEP_S
from tidegate.engines.supervision.health_recheck import UNHEALTHY
from tidegate.engines.supervision.settings import Settings
from tidegate.engines.supervision.watch import CONFIRM_S
from tidegate.errors import EngineUnavailable


async def test_an_engine_that_never_answers_is_given_up():
    async with supervised(FakeKind("silent", start_timeout_s=0.2)) as (_, states, _log):
        assert "no answer in 0.2 s" in (await states.until("failed")).reason


async def test_an_idle_engine_sleeps_and_the_next_request_wakes_it():
    settings = Settings(idle_unload_s=0.05, poll_s=0.01, scrape_s=0.01)
    kind = FakeKind("sleeps", sleep_level=1)
    async with supervised(kind, settings) as (supervisor, states, _log):
        await states.until("sleeping")
        (await supervisor.acquire_slot(can_wait=True))()
        assert kind.starts == 1


async def test_an_idle_engine_that_cannot_sleep_is_stopped_and_started_again():
    settings = Settings(idle_unload_s=0.05, poll_s=0.01, scrape_s=0.01)
    kind = FakeKind("well")
    async with supervised(kind, settings) as (supervisor, states, _log):
        await states.until("ready")
        await states.until("stopped")
        (await supervisor.acquire_slot(can_wait=True))()
        assert kind.starts == 2


async def test_running_answers_may_finish_when_an_engine_is_to_stop():
    async with supervised(FakeKind("well")) as (supervisor, states, _log):
        await states.until("ready")
        leave = await supervisor.acquire_slot(can_wait=False)
        supervisor.set_goal("stop")
        await states.until("draining")
        with pytest.raises(EngineUnavailable, match="draining"):
            await supervisor.acquire_slot(can_wait=False)
        leave()
        await states.until("stopped")
        with pytest.raises(EngineUnavailable):
            await supervisor.acquire_slot(can_wait=True)
        supervisor.set_goal("run")
        await states.until("ready")


async def test_an_engine_that_is_stopped_while_it_drains_for_sleep_does_not_wait_for_requests():
    """The time for running requests was over already."""
    brief = Settings(poll_s=0.01, scrape_s=0.01, drain_timeout_s=0.05)
    async with supervised(FakeKind("sleeps", sleep_level=1), brief) as (supervisor, states, _log):
        leave = await supervisor.acquire_slot(can_wait=True)
        supervisor.unload()
        await states.until("draining")
        await supervisor.drain()
        assert supervisor.status.state == "stopped"
        leave()


async def wait_for_metrics(supervisor) -> None:
    while supervisor.scraped_load.load.steps is None:  # noqa: ASYNC110 - nothing reports it
        await asyncio.sleep(0.001)


POLLING = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=0.005, queue_timeout_s=60)


async def test_a_hung_engine_gets_no_requests_and_is_restarted():
    """Its health route answers 200 all the time, but no token comes."""
    clock = FakeClock()
    async with supervised(FakeKind("hangs", "well"), POLLING, clock=clock) as (supervisor, states, _log):
        await states.until("ready")
        leave = await supervisor.acquire_slot(can_wait=False)
        await wait_for_metrics(supervisor)
        clock.advance(FIRST_STEP_S + 1)
        draining = await states.until("draining")
        assert draining.reason.startswith("it has work, but has not made a step for")
        clock.advance(CONFIRM_S)
        failed = await states.until("failed")
        assert failed.reason.endswith("and it generates nothing")
        leave()
        await states.until("ready")


async def test_an_engine_that_only_seems_to_hang_gets_requests_again():
    """The metrics showed no step, but a token comes."""
    clock = FakeClock()
    kind = FakeKind("well")
    async with supervised(kind, POLLING, clock=clock) as (supervisor, states, log):
        await states.until("ready")
        leave = await supervisor.acquire_slot(can_wait=False)
        await wait_for_metrics(supervisor)
        clock.advance(FIRST_STEP_S + 1)
        await states.until("draining")
        await states.until("ready")
        leave()
        assert kind.starts == 1
        assert len(logged(log, "engine suspected")) == 1


async def test_a_slow_engine_is_not_suspected():
    """In ten minutes each step takes 20 seconds."""
    clock = FakeClock()
    kind = FakeKind("slow")
    async with supervised(kind, POLLING, clock=clock) as (supervisor, states, log):
        await states.until("ready")
        leave = await supervisor.acquire_slot(can_wait=False)
        for _ in range(30):
            before = supervisor.scraped_load.load.steps
            clock.advance(20)
            while supervisor.scraped_load.load.steps == before:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.001)
        leave()
        assert supervisor.status.state == "ready"
        assert logged(log, "engine suspected") == []


async def test_an_engine_whose_health_route_reports_a_failure_is_restarted():
    """Its process does not end by itself; requests wait for the next process."""
    kind = FakeKind("ill,stubborn", "well")
    settings = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=0.01, queue_timeout_s=60, ending_s=0.05)
    async with supervised(kind, settings) as (supervisor, states, _log):
        status = await states.until("failed")
        assert status.reason == UNHEALTHY
        pid = supervisor._child.pid
        (await supervisor.acquire_slot(can_wait=True))()
        assert (kind.starts, supervisor.status.restarts, is_running(pid)) == (2, 1, False)


async def test_an_engine_that_has_failed_can_be_stopped_before_its_process_has_ended():
    slow = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=600, ending_s=600)
    async with supervised(FakeKind("well"), slow) as (supervisor, states, _log):
        await states.until("ready")
        supervisor.report_failure(refused())
        supervisor.set_goal("stop")
        await states.until("stopped")
