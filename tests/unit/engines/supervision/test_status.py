"""The status of an engine, its progress, and the callback for changes."""

import asyncio

import pytest
from structlog.testing import CapturingLogger

from tests.fakes.clock import FakeClock
from tests.fakes.engine import FakeKind
from tests.fakes.supervised import (
    logged,
    supervised,
)
from tidegate.engines.base import EngineError, Progress
from tidegate.engines.states import InvalidTransition
from tidegate.engines.supervision.status import StatusOwner


async def test_an_engine_goes_on_when_its_status_callback_raises():
    """For example because the terminal was closed."""
    async with supervised(FakeKind("well")) as (supervisor, _, log):

        def fail(_status):
            raise BrokenPipeError

        supervisor._status._on_change = fail
        (await supervisor.acquire_slot(can_wait=True))()
        assert {"engine": "e"} in logged(log, "engine status callback failed")


async def test_how_long_a_second_start_will_take_is_known_from_the_first():
    clock = FakeClock()
    kind = FakeKind("shows_progress", "shows_progress,silent")
    async with supervised(kind, clock=clock) as (supervisor, states, _log):
        while supervisor.status.progress is None:
            await states.seen.get()
        clock.advance(60)
        took_s = clock.monotonic_s()
        await states.until("ready")
        supervisor.set_goal("stop")
        await states.until("stopped")
        supervisor.set_goal("run")
        while supervisor.status.left_s is None:
            await states.seen.get()
        assert 0 <= supervisor.status.left_s <= took_s


class LoadReport:
    """The status of an engine that starts, with its clock, its log and every status given to the callback."""

    def __init__(self) -> None:
        self.clock, self.log, self.seen = FakeClock(), CapturingLogger(), []
        self.status = StatusOwner("e", "", clock=self.clock, log=self.log, on_change=self.seen.append)
        self.status.begin_start()
        self.status.move("start", "")

    def left_s(self, phase: str, done: float | None = None) -> float | None:
        self.status.show(Progress(phase, done))
        return self.status.now.left_s


@pytest.fixture
def report():
    return LoadReport()


def test_each_phase_is_logged_once(report):
    for phase, done in (("loading", 0.1), ("loading", 0.6), ("capturing", None), ("capturing", 0.5)):
        report.left_s(phase, done)
    assert [(call.args[0], call.kwargs["phase"]) for call in report.log.calls] == [
        ("engine loading", "loading"),
        ("engine loading", "capturing"),
    ]


def test_the_time_left_of_a_phase_is_not_shown_as_that_of_the_start(report):
    report.clock.advance(10)
    assert report.left_s("downloading", 0.25) is None
    assert report.status.retry_after_s == 30  # it takes that long at least


def test_the_time_of_an_earlier_start_is_shown_from_the_beginning_and_counted_down(report):
    clock, status = report.clock, report.status
    clock.advance(40)
    report.left_s("compiling")
    clock.advance(60)
    assert status.end_start() == 100
    status.move("crash", "")
    status.begin_start()
    status.move("start", "")
    status.count_down()
    assert status.now.left_s == 100
    clock.advance(30)
    status.count_down()
    assert status.now.left_s == 70
    assert status.retry_after_s == 70
    assert report.left_s("compiling") == 60
    assert status.retry_after_s == 60


def test_a_reason_has_a_part_for_callers_and_one_for_the_administrator(report):
    report.status.move("crash", EngineError("it ended", ["/srv/secret", "x" * 2000]), 3)
    assert report.status.caller_reason == "it ended"
    assert report.status.now.reason.startswith("it ended: /srv/secret; xxx")
    assert (len(report.status.now.reason), report.status.now.restarts) == (1000, 3)
    assert report.seen[-1] == report.status.now


def test_a_due_check_ends_when_the_engine_is_no_longer_ready(report):
    report.status.move("answers", "")
    report.status.recheck.request()
    report.status.move("drain", "it is stopping")
    assert not report.status.recheck.is_due


def test_a_change_that_the_table_of_states_lacks_raises(report):
    before = report.status.now
    with pytest.raises(InvalidTransition):
        report.status.move("wake", "")
    assert report.status.now is before


async def test_release_waiting_ends_a_wait_without_a_change(report):
    waiting = asyncio.create_task(report.status.until_changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    report.status.release_waiting()
    await waiting
