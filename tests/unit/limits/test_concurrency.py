"""A target's door."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.errors import TargetBusy
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.limits.queue import BY_URGENCY

from tests.fakes.clock import FakeClock
from tests.fakes.timers import FakeTimers


class Limited:
    """A concurrency limit with a clock and timers that the test moves."""

    def __init__(self, **config):
        self.clock = FakeClock()
        self.timers = FakeTimers(self.clock)
        self.limit = ConcurrencyLimit("gpu/tiny", ConcurrencyConfig(**config), self.clock, self.timers.call_later)

    async def comes(self, **asked):
        """A task that has come as far as it can."""
        task = asyncio.create_task(self.limit.enter(**asked))
        await settled()
        return task

    def numbers(self):
        return self.limit.in_flight, self.limit.waiting


async def settled():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_without_a_limit_everybody_is_in_at_once():
    limited = Limited()
    slots = [await limited.limit.enter() for _ in range(1000)]
    assert (limited.limit.limit, limited.numbers()) == (None, (1000, 0))
    for slot in slots:
        slot.leave()
    assert limited.numbers() == (0, 0)


async def test_a_place_is_given_back_once():
    limited = Limited(limit=2)
    first, _second = await limited.limit.enter(), await limited.limit.enter()
    first.leave()
    first.leave()
    assert limited.numbers() == (1, 0)


async def test_who_finds_no_place_waits_for_one():
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    task = await limited.comes()
    assert (task.done(), limited.numbers()) == (False, (1, 1))
    slot.leave()
    (await task).leave()
    assert (limited.numbers(), limited.timers.pending) == ((0, 0), [])


async def test_who_cannot_wait_is_told_so_and_may_go_elsewhere():
    limited = Limited(limit=1)
    await limited.limit.enter()
    with pytest.raises(TargetBusy, match=r"gpu/tiny has no place free \(in flight: 1, waiting: 0\)") as caught:
        await limited.limit.enter(can_wait=False)
    error = caught.value
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "target_busy")
    assert (error.may_try_another_target, error.retry_after_s) == (True, 1.0)


@pytest.mark.parametrize("queue", [0, 1])
async def test_a_full_queue_takes_no_more(queue):
    limited = Limited(limit=1, queue=queue)
    await limited.limit.enter()
    tasks = [await limited.comes() for _ in range(queue)]
    with pytest.raises(TargetBusy, match="its queue is full"):
        await limited.limit.enter()
    assert limited.numbers() == (1, queue)
    await gone(*tasks)


async def gone(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_whoever_fills_the_queue_makes_room_for_others():
    limited = Limited(limit=1, queue=3)
    await limited.limit.enter()
    greedy = [await limited.comes(caller="greedy") for _ in range(3)]
    other = await limited.comes(caller="other")
    with pytest.raises(TargetBusy, match="its queue is full"):
        await greedy[2]
    assert ([task.done() for task in (*greedy[:2], other)], limited.numbers()) == ([False] * 3, (1, 3))
    await gone(*greedy, other)


@pytest.mark.parametrize(("asked", "limit_s"), [({}, 10.0), ({"deadline_s": 1003.0}, 3.0), ({"deadline_s": 9e9}, 10.0)])
async def test_nobody_waits_longer_than_the_queues_time_or_their_own(asked, limit_s):
    limited = Limited(limit=1, queue_timeout_s=10.0)
    await limited.limit.enter()
    task = await limited.comes(**asked)
    limited.timers.advance(limit_s - 0.01)
    await settled()
    assert not task.done()
    limited.timers.advance(0.01)
    with pytest.raises(TargetBusy, match="no place free in time"):
        await task
    assert limited.numbers() == (1, 0)


async def test_whose_time_is_over_does_not_wait_but_may_come_in():
    limited = Limited(limit=1)
    await limited.limit.enter(deadline_s=1.0)
    with pytest.raises(TargetBusy):
        await limited.limit.enter(deadline_s=1000.0)


async def test_who_goes_away_is_out_of_the_queue():
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    first, second = await limited.comes(), await limited.comes()
    await gone(first)
    assert (limited.numbers(), len(limited.timers.pending)) == ((1, 1), 1)
    slot.leave()
    (await second).leave()
    assert limited.numbers() == (0, 0)


async def test_a_place_given_to_one_who_goes_away_at_that_moment_is_the_next_ones():
    """The wake-up that is lost in many a semaphore."""
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    first, second = await limited.comes(), await limited.comes()
    slot.leave()  # to the first, whose task has not run since
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (await second).leave()
    assert limited.numbers() == (0, 0)


async def test_one_who_went_away_a_moment_before_is_passed_over():
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    first, second = await limited.comes(), await limited.comes()
    first.cancel()  # its task has not run since
    slot.leave()
    assert limited.numbers() == (1, 0)
    (await second).leave()
    await gone(first)
    assert limited.numbers() == (0, 0)


async def test_refused_and_gone_at_the_same_moment_is_gone():
    limited = Limited(limit=1)
    await limited.limit.enter()
    task = await limited.comes()
    limited.timers.advance(10.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limited.numbers() == (1, 0)


async def test_callers_take_turns_by_tokens():
    limited = Limited(limit=1)
    slot, served = await limited.limit.enter(), []

    async def ask(caller, tokens):
        got = await limited.limit.enter(caller=caller, tokens=tokens)
        served.append(caller)
        got.leave()

    tasks = [asyncio.create_task(ask("a", 300)) for _ in range(2)]
    tasks += [asyncio.create_task(ask("b", 100)) for _ in range(4)]
    await settled()
    slot.leave()
    await asyncio.gather(*tasks)
    assert "".join(served) == "abbbab"


async def test_an_urgent_request_comes_before_the_batch_that_waits():
    limited = Limited(limit=10)
    slots = [await limited.limit.enter(priority="batch") for _ in range(9)]
    batch = [await limited.comes(priority="batch") for _ in range(2)]
    slots.append(await limited.limit.enter(priority="interactive", can_wait=False))
    urgent = await limited.comes(priority="interactive")
    assert limited.numbers() == (10, 3)
    slots[0].leave()
    await settled()
    assert ([task.done() for task in batch], urgent.done()) == ([False, False], True)
    await gone(*batch)


async def test_when_nobody_gets_through_quickly_who_waited_longest_is_dropped_and_batch_first():
    """A queue time of 10 s: over 2 s is no quick wait, and so it has gone on for 5 s when the fourth gets through."""
    limited = Limited(limit=1, queue_timeout_s=10.0)
    slots = [await limited.limit.enter()]

    async def ask(priority):
        slots.append(await limited.limit.enter(priority=priority))

    tasks = [asyncio.create_task(ask(priority)) for priority in ["interactive"] * 5 + ["batch"] * 2]
    await settled()
    waiting = []
    for wait_s in (2.5, 2.5, 2.4, 0.2):
        limited.timers.advance(wait_s)
        slots[-1].leave()
        await settled()
        waiting.append(limited.limit.waiting)
    assert waiting == [6, 5, 4, 2]
    with pytest.raises(TargetBusy, match="more to do than it can"):
        await tasks[-1]
    await gone(*tasks)


async def test_a_queue_that_went_away_is_no_reason_to_drop_anybody_from_the_next():
    limited = Limited(limit=1, queue_timeout_s=10.0)
    slot = await limited.limit.enter()
    task = await limited.comes()
    limited.timers.advance(2.5)
    slot.leave()
    slot = await task
    limited.timers.advance(60.0)
    first, second = await limited.comes(), await limited.comes()
    limited.timers.advance(2.5)
    slot.leave()
    await settled()
    assert (first.done(), second.done()) == (True, False)
    await gone(second)


async def test_when_to_come_again_is_as_fast_as_places_come_free():
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    tasks = [await limited.comes() for _ in range(3)]
    limited.timers.advance(4.0)
    slot.leave()
    with pytest.raises(TargetBusy) as caught:
        await limited.limit.enter(can_wait=False)
    assert caught.value.retry_after_s == 12.0  # 4 s each: two ahead, and then one more
    await gone(*tasks)


async def test_an_adaptive_gate_lets_more_in_as_it_learns():
    limited = Limited(limit="adaptive")
    slots = [await limited.limit.enter() for _ in range(limited.limit.limit)]
    task = await limited.comes()
    assert (limited.limit.limit, limited.numbers()) == (20, (20, 1))
    for _ in range(10):
        slots[0].began(0.5, prompt_tokens=100)
    await settled()
    assert (limited.limit.limit, task.done(), limited.numbers()) == (22, True, (21, 0))


async def test_a_fixed_gate_learns_nothing():
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    slot.began(0.5)
    assert limited.limit.limit == 1


async def test_a_new_config_keeps_those_inside_and_those_who_wait():
    limited = Limited(limit=2)
    slots = [await limited.limit.enter() for _ in range(2)]
    tasks = [await limited.comes() for _ in range(2)]
    limited.limit.resize(ConcurrencyConfig(limit=1, queue=0))
    assert (limited.limit.limit, limited.numbers()) == (1, (2, 2))
    slots[0].leave()
    await settled()
    assert limited.numbers() == (1, 2)
    slots[1].leave()
    await settled()
    assert limited.numbers() == (1, 1)
    with pytest.raises(TargetBusy, match="its queue is full"):
        await limited.limit.enter()
    limited.limit.resize(ConcurrencyConfig())
    await asyncio.gather(*tasks)
    assert (limited.limit.limit, limited.numbers()) == (None, (2, 0))


async def test_requests_at_a_gate_that_closes_are_refused_and_none_waits_later():
    limited = Limited(limit=1)
    slot = await limited.limit.enter()
    waiting = [
        await limited.comes(caller=name, priority=priority) for name, priority in (("a", "batch"), ("b", "default"))
    ]
    limited.limit.close()
    for task in (*waiting, await limited.comes()):
        with pytest.raises(TargetBusy, match=r"is being removed|no place free"):
            await task
    assert limited.numbers() == (1, 0)
    slot.leave()
    (await limited.limit.enter()).leave()
    assert limited.numbers() == (0, 0)


async def test_those_who_came_before_there_was_a_limit_count():
    limited = Limited()
    await limited.limit.enter()
    limited.limit.resize(ConcurrencyConfig(limit=1))
    with pytest.raises(TargetBusy):
        await limited.limit.enter(can_wait=False)


async def test_what_an_adaptive_gate_learnt_outlives_a_new_config():
    limited = Limited(limit="adaptive")
    slots = [await limited.limit.enter() for _ in range(20)]
    for _ in range(10):
        slots[0].began(0.5)
    limited.limit.resize(ConcurrencyConfig(limit="adaptive", queue=5))
    assert limited.limit.limit == 22


async def test_by_itself_a_gate_waits_by_the_loops_clock():
    owner = ConcurrencyLimit("gpu/tiny", ConcurrencyConfig(limit=1, queue_timeout_s=0.001), FakeClock())
    await owner.enter()
    with pytest.raises(TargetBusy, match="in time"):
        await owner.enter()


class GateMachine(RuleBasedStateMachine):
    """Any course of coming, leaving, going away and waiting: places are neither lost nor invented."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.limited = Limited(limit=3, queue=4, queue_timeout_s=10.0)
        self.tasks = {}  # who waits; since when
        self.slots = []

    def teardown(self):
        self.loop.run_until_complete(gone(*self.tasks))
        self.loop.close()

    def settle(self):
        self.loop.run_until_complete(settled())
        for task in [task for task in self.tasks if task.done()]:
            del self.tasks[task]
            if not task.cancelled() and not isinstance(task.exception(), TargetBusy):
                self.slots.append(task.result())

    @rule(
        caller=st.sampled_from("abc"),
        priority=st.sampled_from(BY_URGENCY),
        tokens=st.integers(1, 100),
        can_wait=st.booleans(),
    )
    def come(self, caller, priority, tokens, can_wait):
        entering = self.limited.limit.enter(caller=caller, priority=priority, tokens=tokens, can_wait=can_wait)
        self.tasks[self.loop.create_task(entering)] = self.limited.clock.monotonic_s()

    @precondition(lambda self: self.slots)
    @rule(number=st.integers(0))
    def leave(self, number):
        slot = self.slots.pop(number % len(self.slots))
        slot.leave()
        slot.leave()

    @precondition(lambda self: self.tasks)
    @rule(number=st.integers(0))
    def go_away(self, number):
        list(self.tasks)[number % len(self.tasks)].cancel()

    @rule(seconds=st.floats(0, 6))
    def time_goes_by(self, seconds):
        self.settle()
        self.limited.timers.advance(seconds)

    @rule(concurrency=st.sampled_from([1, 3, 12, None]), queue=st.integers(0, 6))
    def resize(self, concurrency, queue):
        self.limited.limit.resize(ConcurrencyConfig(limit=concurrency, queue=queue, queue_timeout_s=10.0))

    @rule()
    def the_loop_runs(self):
        self.settle()

    @invariant()
    def a_free_place_stands_beside_nobody_who_might_have_it(self):
        owner = self.limited.limit
        assert not owner._slots.first(owner._queue.waiting(), owner._limit)

    @rule()
    def every_place_is_somebodys(self):
        self.settle()
        owner = self.limited.limit
        assert (len(self.slots), len(self.tasks)) == (owner.in_flight, owner.waiting)
        assert len(self.limited.timers.pending) == owner.waiting
        assert all(self.limited.clock.monotonic_s() - since_s <= 10.001 for since_s in self.tasks.values())


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
