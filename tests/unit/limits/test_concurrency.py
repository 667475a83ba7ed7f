"""A target's concurrency limit: a request gets a slot at once, waits for one, or is refused."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.clock import FakeClock
from tests.fakes.timers import FakeTimers
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.errors import TargetBusy
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.limits.queue import BY_URGENCY


class Limited:
    """A concurrency limit with a clock and timers that the test moves."""

    def __init__(self, **config):
        self.clock = FakeClock()
        self.timers = FakeTimers(self.clock)
        self.limit = ConcurrencyLimit("gpu/tiny", ConcurrencyConfig(**config), self.clock, self.timers.call_later)

    async def begins_to_enter(self, **arguments):
        """A task that has run `enter` until it ended or waits."""
        task = asyncio.create_task(self.limit.acquire(**arguments))
        await settled()
        return task

    def numbers(self):
        return self.limit.in_flight, self.limit.waiting


async def settled():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_without_a_limit_every_request_gets_a_slot_at_once():
    limited = Limited()
    slots = [await limited.limit.acquire() for _ in range(1000)]
    assert (limited.limit.limit, limited.numbers()) == (None, (1000, 0))
    for slot in slots:
        slot.release()
    assert limited.numbers() == (0, 0)


async def test_a_slot_is_released_once():
    limited = Limited(limit=2)
    first, _second = await limited.limit.acquire(), await limited.limit.acquire()
    first.release()
    first.release()
    assert limited.numbers() == (1, 0)


async def test_a_request_without_a_free_slot_waits_for_one():
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    task = await limited.begins_to_enter()
    assert (task.done(), limited.numbers()) == (False, (1, 1))
    slot.release()
    (await task).release()
    assert (limited.numbers(), limited.timers.pending) == ((0, 0), [])


async def test_a_request_that_may_not_wait_is_refused_and_may_try_another_target():
    limited = Limited(limit=1)
    await limited.limit.acquire()
    with pytest.raises(TargetBusy, match=r"gpu/tiny has no free slot \(in flight: 1, waiting: 0\)") as caught:
        await limited.limit.acquire(can_wait=False)
    error = caught.value
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "target_busy")
    assert (error.may_try_another_target, error.retry_after_s) == (True, 1.0)


@pytest.mark.parametrize("queue", [0, 1])
async def test_a_full_queue_takes_no_further_request(queue):
    limited = Limited(limit=1, queue=queue)
    await limited.limit.acquire()
    tasks = [await limited.begins_to_enter() for _ in range(queue)]
    with pytest.raises(TargetBusy, match="its queue is full"):
        await limited.limit.acquire()
    assert limited.numbers() == (1, queue)
    await cancelled(*tasks)


async def cancelled(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_caller_that_fills_the_queue_loses_a_request_to_another_caller():
    limited = Limited(limit=1, queue=3)
    await limited.limit.acquire()
    greedy = [await limited.begins_to_enter(caller="greedy") for _ in range(3)]
    other = await limited.begins_to_enter(caller="other")
    with pytest.raises(TargetBusy, match="its queue is full"):
        await greedy[2]
    assert ([task.done() for task in (*greedy[:2], other)], limited.numbers()) == ([False] * 3, (1, 3))
    await cancelled(*greedy, other)


@pytest.mark.parametrize(
    ("arguments", "limit_s"), [({}, 10.0), ({"deadline_s": 1003.0}, 3.0), ({"deadline_s": 9e9}, 10.0)]
)
async def test_no_request_waits_longer_than_the_queue_timeout_or_its_deadline(arguments, limit_s):
    limited = Limited(limit=1, queue_timeout_s=10.0)
    await limited.limit.acquire()
    task = await limited.begins_to_enter(**arguments)
    limited.timers.advance(limit_s - 0.01)
    await settled()
    assert not task.done()
    limited.timers.advance(0.01)
    with pytest.raises(TargetBusy, match="no free slot in time"):
        await task
    assert limited.numbers() == (1, 0)


async def test_after_its_deadline_a_request_does_not_wait_but_may_take_a_free_slot():
    limited = Limited(limit=1)
    await limited.limit.acquire(deadline_s=1.0)
    with pytest.raises(TargetBusy):
        await limited.limit.acquire(deadline_s=1000.0)


async def test_a_cancelled_request_leaves_the_queue():
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    first, second = await limited.begins_to_enter(), await limited.begins_to_enter()
    await cancelled(first)
    assert (limited.numbers(), len(limited.timers.pending)) == ((1, 1), 1)
    slot.release()
    (await second).release()
    assert limited.numbers() == (0, 0)


async def test_a_slot_assigned_to_a_request_that_is_cancelled_at_that_moment_goes_to_the_next():
    """Many semaphores lose this wake-up."""
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    first, second = await limited.begins_to_enter(), await limited.begins_to_enter()
    slot.release()  # assigned to the first, whose task has not run since
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (await second).release()
    assert limited.numbers() == (0, 0)


async def test_a_request_cancelled_a_moment_before_gets_no_slot():
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    first, second = await limited.begins_to_enter(), await limited.begins_to_enter()
    first.cancel()  # its task has not run since
    slot.release()
    assert limited.numbers() == (1, 0)
    (await second).release()
    await cancelled(first)
    assert limited.numbers() == (0, 0)


async def test_a_request_refused_and_cancelled_at_the_same_moment_is_cancelled():
    limited = Limited(limit=1)
    await limited.limit.acquire()
    task = await limited.begins_to_enter()
    limited.timers.advance(10.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limited.numbers() == (1, 0)


async def test_callers_take_turns_by_tokens():
    limited = Limited(limit=1)
    slot, served = await limited.limit.acquire(), []

    async def enter_and_leave(caller, tokens):
        slot = await limited.limit.acquire(caller=caller, tokens=tokens)
        served.append(caller)
        slot.release()

    tasks = [asyncio.create_task(enter_and_leave("a", 300)) for _ in range(2)]
    tasks += [asyncio.create_task(enter_and_leave("b", 100)) for _ in range(4)]
    await settled()
    slot.release()
    await asyncio.gather(*tasks)
    assert "".join(served) == "abbbab"


async def test_an_urgent_request_gets_a_slot_before_waiting_batch_requests():
    limited = Limited(limit=10)
    slots = [await limited.limit.acquire(priority="batch") for _ in range(9)]
    batch = [await limited.begins_to_enter(priority="batch") for _ in range(2)]
    slots.append(await limited.limit.acquire(priority="interactive", can_wait=False))
    urgent = await limited.begins_to_enter(priority="interactive")
    assert limited.numbers() == (10, 3)
    slots[0].release()
    await settled()
    assert ([task.done() for task in batch], urgent.done()) == ([False, False], True)
    await cancelled(*batch)


async def test_when_no_wait_is_quick_the_oldest_request_is_dropped_batch_first():
    """With a queue timeout of 10 s a quick wait is under 2 s; when the fourth gets its slot, none was quick for 5 s."""
    limited = Limited(limit=1, queue_timeout_s=10.0)
    slots = [await limited.limit.acquire()]

    async def enter_and_stay(priority):
        slots.append(await limited.limit.acquire(priority=priority))

    tasks = [asyncio.create_task(enter_and_stay(priority)) for priority in ["interactive"] * 5 + ["batch"] * 2]
    await settled()
    waiting = []
    for wait_s in (2.5, 2.5, 2.4, 0.2):
        limited.timers.advance(wait_s)
        slots[-1].release()
        await settled()
        waiting.append(limited.limit.waiting)
    assert waiting == [6, 5, 4, 2]
    with pytest.raises(TargetBusy, match="is overloaded"):
        await tasks[-1]
    await cancelled(*tasks)


async def test_a_queue_that_drained_does_not_count_against_the_next_one():
    limited = Limited(limit=1, queue_timeout_s=10.0)
    slot = await limited.limit.acquire()
    task = await limited.begins_to_enter()
    limited.timers.advance(2.5)
    slot.release()
    slot = await task
    limited.timers.advance(60.0)
    first, second = await limited.begins_to_enter(), await limited.begins_to_enter()
    limited.timers.advance(2.5)
    slot.release()
    await settled()
    assert (first.done(), second.done()) == (True, False)
    await cancelled(second)


async def test_retry_after_follows_the_rate_at_which_slots_come_free():
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    tasks = [await limited.begins_to_enter() for _ in range(3)]
    limited.timers.advance(4.0)
    slot.release()
    with pytest.raises(TargetBusy) as caught:
        await limited.limit.acquire(can_wait=False)
    assert caught.value.retry_after_s == 12.0  # 4 s each: two ahead, and then one more
    await cancelled(*tasks)


async def test_an_adaptive_limit_grows_as_it_learns():
    limited = Limited(limit="adaptive")
    slots = [await limited.limit.acquire() for _ in range(limited.limit.limit)]
    task = await limited.begins_to_enter()
    assert (limited.limit.limit, limited.numbers()) == (20, (20, 1))
    for _ in range(10):
        slots[0].record_first_token(0.5, prompt_tokens=100)
    await settled()
    assert (limited.limit.limit, task.done(), limited.numbers()) == (22, True, (21, 0))


async def test_a_fixed_limit_learns_nothing():
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    slot.record_first_token(0.5)
    assert limited.limit.limit == 1


async def test_a_new_config_keeps_taken_slots_and_waiting_requests():
    limited = Limited(limit=2)
    slots = [await limited.limit.acquire() for _ in range(2)]
    tasks = [await limited.begins_to_enter() for _ in range(2)]
    limited.limit.resize(ConcurrencyConfig(limit=1, queue=0))
    assert (limited.limit.limit, limited.numbers()) == (1, (2, 2))
    slots[0].release()
    await settled()
    assert limited.numbers() == (1, 2)
    slots[1].release()
    await settled()
    assert limited.numbers() == (1, 1)
    with pytest.raises(TargetBusy, match="its queue is full"):
        await limited.limit.acquire()
    limited.limit.resize(ConcurrencyConfig())
    await asyncio.gather(*tasks)
    assert (limited.limit.limit, limited.numbers()) == (None, (2, 0))


async def test_closing_refuses_the_waiting_requests_and_no_later_one_waits():
    limited = Limited(limit=1)
    slot = await limited.limit.acquire()
    waiting = [
        await limited.begins_to_enter(caller=name, priority=priority)
        for name, priority in (("a", "batch"), ("b", "default"))
    ]
    limited.limit.close()
    for task in (*waiting, await limited.begins_to_enter()):
        with pytest.raises(TargetBusy, match=r"is being removed|no free slot"):
            await task
    assert limited.numbers() == (1, 0)
    slot.release()
    (await limited.limit.acquire()).release()
    assert limited.numbers() == (0, 0)


async def test_requests_sent_before_there_was_a_limit_count():
    limited = Limited()
    await limited.limit.acquire()
    limited.limit.resize(ConcurrencyConfig(limit=1))
    with pytest.raises(TargetBusy):
        await limited.limit.acquire(can_wait=False)


async def test_an_adaptive_limit_keeps_what_it_learnt_under_a_new_config():
    limited = Limited(limit="adaptive")
    slots = [await limited.limit.acquire() for _ in range(20)]
    for _ in range(10):
        slots[0].record_first_token(0.5)
    limited.limit.resize(ConcurrencyConfig(limit="adaptive", queue=5))
    assert limited.limit.limit == 22


async def test_by_default_a_wait_ends_by_the_loops_clock():
    limit = ConcurrencyLimit("gpu/tiny", ConcurrencyConfig(limit=1, queue_timeout_s=0.001), FakeClock())
    await limit.acquire()
    with pytest.raises(TargetBusy, match="in time"):
        await limit.acquire()


class ConcurrencyMachine(RuleBasedStateMachine):
    """In any order of entering, leaving, cancelling and waiting, slots are neither lost nor invented."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.limited = Limited(limit=3, queue=4, queue_timeout_s=10.0)
        self.tasks = {}  # waiting tasks; since when they wait
        self.slots = []

    def teardown(self):
        self.loop.run_until_complete(cancelled(*self.tasks))
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
    def enter(self, caller, priority, tokens, can_wait):
        entering = self.limited.limit.acquire(caller=caller, priority=priority, tokens=tokens, can_wait=can_wait)
        self.tasks[self.loop.create_task(entering)] = self.limited.clock.monotonic_s()

    @precondition(lambda self: self.slots)
    @rule(number=st.integers(0))
    def leave(self, number):
        slot = self.slots.pop(number % len(self.slots))
        slot.release()
        slot.release()

    @precondition(lambda self: self.tasks)
    @rule(number=st.integers(0))
    def cancel(self, number):
        list(self.tasks)[number % len(self.tasks)].cancel()

    @rule(seconds=st.floats(0, 6))
    def let_time_pass(self, seconds):
        self.settle()
        self.limited.timers.advance(seconds)

    @rule(concurrency=st.sampled_from([1, 3, 12, None]), queue=st.integers(0, 6))
    def resize(self, concurrency, queue):
        self.limited.limit.resize(ConcurrencyConfig(limit=concurrency, queue=queue, queue_timeout_s=10.0))

    @rule()
    def run_the_loop(self):
        self.settle()

    @invariant()
    def no_slot_is_free_while_a_waiting_request_may_have_it(self):
        limit = self.limited.limit
        assert not limit._slots.next_classes(limit._queue.waiting(), limit._limit)

    @rule()
    def every_slot_and_every_wait_is_accounted_for(self):
        self.settle()
        limit = self.limited.limit
        assert (len(self.slots), len(self.tasks)) == (limit.in_flight, limit.waiting)
        assert len(self.limited.timers.pending) == limit.waiting
        assert all(self.limited.clock.monotonic_s() - since_s <= 10.001 for since_s in self.tasks.values())


TestConcurrencyMachine = ConcurrencyMachine.TestCase
TestConcurrencyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
