"""`ExternalEngine`: an engine that Tidegate watches but does not start."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.control import FakeControl, working
from tidegate.engines.base import EngineError, EngineStatus
from tidegate.engines.external import ExternalEngine
from tidegate.engines.supervision.health_recheck import REFUSED
from tidegate.errors import EngineUnavailable, UpstreamFailed, UpstreamRejected, UpstreamUnreachable


class Log:
    """A log that keeps the name of each event."""

    def __init__(self):
        self.events = []

    def info(self, event, **_fields):
        self.events.append(event)

    error = warning = exception = info


class Host:
    """An external engine, a double of its control, and a queue of every status that it had."""

    def __init__(self):
        self.clock = FakeClock()
        self.steps = 1
        self.answer = None
        self.control = FakeControl(self.clock, self._load, token=lambda: self.token)
        self.token = FakeControl.NEVER
        self.statuses = asyncio.Queue()
        self.log = Log()
        self.engine = ExternalEngine(
            "external", clock=self.clock, log=self.log, on_change=self.statuses.put_nowait, check_interval_s=0
        )

    def _load(self):
        return self.answer or working(self.steps)

    async def until(self, state):
        while (status := await asyncio.wait_for(self.statuses.get(), 60)).state != state:
            pass
        return status


@asynccontextmanager
async def opened(host):
    host.engine.open(host.control)
    try:
        yield host
    finally:
        await host.engine.close()


async def test_an_external_engine_is_ready_once_it_answers():
    host = Host()
    host.control.is_up = False
    with pytest.raises(EngineUnavailable, match="it has not been checked yet"):
        await host.engine.acquire_slot(can_wait=True)
    async with opened(host):
        await host.until("starting")
        with pytest.raises(EngineUnavailable, match=r"not ready \(starting\): it does not answer"):
            await host.engine.acquire_slot(can_wait=True)
        host.control.is_up = True
        await host.until("ready")
        leave = await host.engine.acquire_slot(can_wait=False)
        assert host.engine.requests.taken == 1
        leave()
        assert host.engine.requests.taken == 0


async def test_the_load_is_read_from_the_metrics():
    host = Host()
    host.steps = 5
    async with opened(host):
        await host.until("ready")
        await host.until("draining")  # after several health checks
        assert host.engine.scraped_load.load == working(5)


async def test_an_engine_that_is_gone_is_failed_until_it_answers_again():
    host = Host()
    async with opened(host):
        await host.until("ready")
        host.control.is_up = False
        host.answer = UpstreamUnreachable("refused")
        assert (await host.until("failed")).reason == REFUSED
        with pytest.raises(EngineUnavailable, match="failed"):
            await host.engine.acquire_slot(can_wait=True)
        host.answer = None
        host.control.is_up = True
        assert (await host.until("ready")).restarts == 1
    assert host.log.events == ["engine ready", "engine down", "engine ready"]


async def test_a_failed_check_before_the_first_answer_is_no_restart():
    host = Host()

    async def answers():
        del host.control.answers  # later calls use the method of the class again
        raise ValueError

    host.control.answers = answers
    async with opened(host):
        assert (await host.until("failed")).restarts == 0
        ready = await host.until("ready")
        assert (ready.restarts, ready.attempts) == (0, 0)


async def test_an_engine_that_refuses_a_connection_leaves_the_routing_at_once():
    host = Host()
    host.engine._check_interval_s = 600
    refused = UpstreamUnreachable("refused")
    refused.is_unconnected = True
    async with opened(host):
        await host.until("ready")
        host.control.is_up = False
        host.engine.report_failure(UpstreamRejected("the caller's fault"))
        assert host.engine.status.state == "ready"
        host.engine.report_failure(refused)
        assert host.engine.status.state == "failed"


@pytest.mark.parametrize("is_up", [True, False])
async def test_after_a_failed_request_health_is_checked_before_the_next_request(is_up):
    host = Host()
    host.engine._check_interval_s = 600
    async with opened(host):
        await host.until("ready")
        host.control.is_up = is_up
        host.engine.report_failure(UpstreamFailed("500"))
        if is_up:
            (await host.engine.acquire_slot(can_wait=False))()
        else:
            with pytest.raises(EngineUnavailable, match="failed"):
                await host.engine.acquire_slot(can_wait=False)


async def test_an_engine_that_only_seems_to_hang_is_readmitted():
    host = Host()
    async with opened(host):
        await host.until("ready")
        await host.until("draining")
        host.token = None
        host.steps = 2
        assert (await host.until("ready")).restarts == 0


@pytest.mark.parametrize("moment", ["not answering yet", "ready"])
async def test_an_unexpected_exception_does_not_end_the_watch(moment):
    host = Host()
    answers = host.control.answers

    async def fail():
        raise ValueError("a programming error")

    if moment == "not answering yet":
        host.control.answers = fail
    async with opened(host):
        if moment == "ready":
            await host.until("ready")
            host.answer = ValueError("a programming error")
        assert (await host.until("failed")).reason == "it could not be watched: ValueError: a programming error"
        if moment == "not answering yet":  # in the other case it answers again soon
            with pytest.raises(EngineUnavailable, match=r"\(failed\): it could not be watched$"):
                await host.engine.acquire_slot(can_wait=False)
        host.answer, host.control.answers = None, answers
        await host.until("ready")
    assert "engine watch failed" in host.log.events


async def test_a_status_callback_that_raises_does_not_end_the_watch():
    host = Host()

    def fail(status):
        host.statuses.put_nowait(status)
        raise BrokenPipeError

    host.engine._on_change = fail
    async with opened(host):
        await host.until("ready")
        await host.until("draining")


async def test_an_external_engine_cannot_be_stopped():
    with pytest.raises(EngineError, match="was not started by Tidegate, so it cannot be made to stop from here"):
        Host().engine.set_goal("stop")


async def test_an_external_engine_is_stopped_after_close():
    host = Host()
    async with opened(host):
        await host.until("ready")
    assert host.engine.status.state == "stopped"
    await ExternalEngine("never opened", clock=FakeClock(), log=Log()).close()


async def test_a_drained_engine_takes_no_requests_and_waits_for_running_answers():
    host = Host()
    async with opened(host):
        await host.until("ready")
        leave = await host.engine.acquire_slot(can_wait=False)
        draining = asyncio.create_task(host.engine.drain())
        await host.until("stopped")
        with pytest.raises(EngineUnavailable):
            await host.engine.acquire_slot(can_wait=True)
        assert not draining.done()
        leave()
        await draining


def test_the_availability_of_an_external_engine_is_whether_it_answers():
    engine = ExternalEngine("e", clock=FakeClock(), log=None)
    engine.load()
    assert engine.availability == "unavailable"
    engine._status.now = EngineStatus("ready")
    assert engine.availability == "ready"
