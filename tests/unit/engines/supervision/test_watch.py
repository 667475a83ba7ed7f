"""A suspected engine is declared dead only if it makes no progress for two minutes."""

import itertools

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.control import FakeControl, too_slow, working
from tidegate.engines.base import Load
from tidegate.engines.supervision.health_recheck import REFUSED
from tidegate.engines.supervision.watch import EngineFault, Watch
from tidegate.errors import UpstreamFailed, UpstreamRejected, UpstreamUnreachable


def watched(tell, **options):
    """A watch without pauses, and its control; each poll takes a second of the fake clock."""
    clock = FakeClock()
    control = FakeControl(clock, tell, **options)
    return Watch(control, clock, pause_s=0), control


async def until_suspected(watch):
    while not await watch.poll(1):
        pass


async def test_the_last_metrics_are_kept():
    watch, _ = watched(lambda: working(3))
    assert watch.scraped_load.load == Load()
    await watch.poll(1)
    assert watch.scraped_load.load == working(3)


async def test_a_failed_poll_keeps_the_metrics_before_it():
    answers = iter([working(3), UpstreamFailed("500")])
    watch, _ = watched(lambda: next(answers))
    await watch.poll(1)
    await watch.poll(1)
    assert watch.scraped_load.load == working(3)


async def test_an_engine_that_gives_a_token_works_and_has_the_full_time_again():
    """A caller may read slowly: then the engine has a request, but nothing to do."""
    watch, control = watched(lambda: working(3), token=lambda: None)
    await until_suspected(watch)
    assert await watch.makes_progress()
    assert control.canaries == 1
    since_s = control.clock.monotonic_s()
    await until_suspected(watch)
    assert control.clock.monotonic_s() - since_s >= 40


async def test_a_hung_engine_is_dead_two_minutes_after_its_last_step():
    watch, control = watched(lambda: working(3))
    since_s = control.clock.monotonic_s()
    await until_suspected(watch)
    assert control.clock.monotonic_s() - since_s <= 60
    assert not await watch.makes_progress()
    assert 120 <= control.clock.monotonic_s() - since_s <= 125


async def test_a_hung_process_is_dead_too():
    """It sends no metrics either."""
    answers = itertools.chain([working(3)], iter(too_slow, None))
    watch, control = watched(lambda: next(answers), advance_s=5)
    await until_suspected(watch)
    assert not await watch.makes_progress()
    assert control.clock.monotonic_s() - 1000 <= 135


async def test_in_ten_minutes_an_engine_with_a_step_a_minute_is_suspected_once_and_never_dead():
    clock = FakeClock(monotonic_s=0)
    control = FakeControl(clock, lambda: working(1 + clock.monotonic_s() // 60))
    watch = Watch(control, clock, pause_s=0)
    suspicions = 0
    while clock.monotonic_s() < 600:
        if await watch.poll(1):
            suspicions += 1
            assert await watch.makes_progress()
    assert suspicions == 1


@pytest.mark.parametrize("every_s", [1, 5, 30])
async def test_a_slow_engine_is_never_even_suspected(every_s):
    clock = FakeClock(monotonic_s=0)
    watch = Watch(FakeControl(clock, lambda: working(1 + clock.monotonic_s() // every_s)), clock, pause_s=0)
    while clock.monotonic_s() < 600:
        assert await watch.poll(1) is None


async def test_after_refused_connections_an_engine_is_dead_at_once():
    def refused():
        return UpstreamUnreachable("refused")

    watch, control = watched(refused, token=refused)
    await until_suspected(watch)
    assert not await watch.makes_progress()
    assert control.clock.monotonic_s() == 1003


async def test_another_answer_than_a_token_is_no_evidence():
    """The model may not be for text, or the queue may be full; the engine's other work may still progress."""
    steps = iter([1] * 50 + [2])
    watch, control = watched(lambda: working(next(steps)), token=lambda: UpstreamRejected("no"))
    await until_suspected(watch)
    assert await watch.makes_progress()
    assert control.canaries > 1


async def test_metrics_that_come_again_are_no_progress():
    """The web server may answer again while the engine behind it still hangs."""
    answers = itertools.chain(itertools.repeat(too_slow(), 30), itertools.repeat(working(3)))
    watch, _ = watched(lambda: next(answers), advance_s=5)
    await until_suspected(watch)
    assert watch.scraped_load.load.steps is None
    assert not await watch.makes_progress()


# --- health ---------------------------------------------------------------------------------------------------------


async def test_an_engine_whose_health_route_reports_a_failure_is_dead_at_once():
    watch, control = watched(lambda: working(3))
    control.is_up = False
    assert await watch.poll(1) == await watch.check() == EngineFault(REFUSED, is_dead=True)


async def test_a_check_for_progress_ends_when_its_result_does_not_matter():
    watch, _ = watched(lambda: working(3))
    await until_suspected(watch)
    results = iter([True, True, False])
    assert await watch.makes_progress(lambda: next(results)) is None


# --- canaries -------------------------------------------------------------------------------------------------------


async def test_an_idle_engine_gets_a_canary_at_intervals_and_never_two_at_once():
    watch, control = watched(lambda: Load(steps=3))
    for _ in range(10):
        watch.start_canary(60)
        await watch.poll(0)
    assert control.canaries == 1  # the canary hangs
    control.clock.advance(600)
    watch.start_canary(60)
    await watch.poll(0)
    assert control.canaries == 1
    watch.stop_canary()
    control.token = lambda: None
    for _ in range(180):
        watch.start_canary(60)
        await watch.poll(0)
    assert control.canaries == 4


async def test_an_engine_that_hangs_while_idle_is_suspected_as_soon_as_one_with_a_request():
    watch, control = watched(lambda: Load(steps=3))
    await watch.poll(0)
    since_s = control.clock.monotonic_s()
    watch.start_canary(60)
    while (engine_fault := await watch.poll(0)) is None:
        pass
    assert engine_fault.reason.startswith("it has work, but has not made a step for")
    assert 40 <= control.clock.monotonic_s() - since_s <= 60
    assert not await watch.makes_progress()
    assert control.canaries == 2


async def test_an_idle_engine_without_a_count_of_steps_is_suspected_by_its_canary_alone():
    watch, control = watched(Load)
    since_s = control.clock.monotonic_s()
    watch.start_canary(60)
    while (engine_fault := await watch.poll(0)) is None:
        pass
    assert engine_fault.reason == "it was idle, and has made no token for 40 s"
    assert control.clock.monotonic_s() - since_s == 40
    assert not await watch.makes_progress()
    control.token = lambda: None
    assert await watch.makes_progress()
    assert await watch.poll(0) is None


async def test_an_error_answer_to_a_canary_is_as_good_as_a_token():
    watch, control = watched(lambda: Load(steps=3), token=lambda: UpstreamRejected("an embedding model"))
    for _ in range(120):
        watch.start_canary(60)
        assert await watch.poll(0) is None
    assert control.canaries == 2
