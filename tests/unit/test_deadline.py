"""Waits with a time limit, on a loop whose time moves only when all tasks wait, so that no machine is too slow."""

import asyncio
import functools

import pytest

from tests.fakes.loop import run
from tidegate.deadline import Deadline, Deadlines


def on_virtual_time(test):
    @functools.wraps(test)
    def wrapped():
        run(test())

    return wrapped


@on_virtual_time
async def test_a_wait_over_the_limit_is_cancelled_once_and_recognised():
    deadline = Deadline(Deadlines(), 0.01)
    deadline.start()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert deadline.has_expired()
    assert not deadline.has_expired()
    assert asyncio.current_task().cancelling() == 0


async def after(seconds: float) -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, done.set)
    await done.wait()


@on_virtual_time
async def test_time_between_waits_does_not_count():
    """A caller who reads slowly does not use up the upstream's time."""
    deadline = Deadline(Deadlines(), 0.01)
    deadline.start()
    deadline.stop()
    await after(0.03)
    deadline.start()
    deadline.stop()
    assert not deadline.has_expired()


@on_virtual_time
async def test_after_a_reset_a_wait_has_the_whole_limit():
    deadline = Deadline(Deadlines(), 0.2)
    for _ in range(4):
        deadline.start()
        await after(0.08)
        deadline.stop()
        deadline.reset(0.2)
    assert not deadline.has_expired()


@on_virtual_time
async def test_waits_for_one_thing_are_added_up():
    """A host that sends only comments and no event reaches the limit too."""
    deadline = Deadline(Deadlines(), 0.2)
    with pytest.raises(asyncio.CancelledError):
        for _ in range(10):
            deadline.start()
            await after(0.08)
            deadline.stop()
    assert deadline.has_expired()


@on_virtual_time
async def test_of_many_waits_only_the_late_one_is_cancelled():
    deadlines = Deadlines()

    async def waits(limit_s: float) -> str:
        deadline = Deadline(deadlines, limit_s)
        deadline.start()
        try:
            await after(0.2)
        except asyncio.CancelledError:
            return "late" if deadline.has_expired() else "cancelled"
        finally:
            deadline.stop()
        return "in time"

    assert await asyncio.gather(waits(0.01), waits(60), waits(0.02)) == ["late", "in time", "late"]


@on_virtual_time
async def test_a_cancellation_by_another_task_is_not_taken_for_the_deadlines():
    async def waits():
        deadline = Deadline(Deadlines(), 60)
        deadline.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert not deadline.has_expired()
            raise
        finally:
            deadline.stop()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_virtual_time
async def test_closing_ends_every_wait_and_those_that_begin_later():
    deadlines = Deadlines()

    async def waits() -> bool:
        deadline = Deadline(deadlines, 600)
        deadline.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return deadline.has_expired() and deadline.is_closed
        finally:
            deadline.stop()

    waiting = [asyncio.create_task(waits()) for _ in range(3)]
    await asyncio.sleep(0)
    deadlines.close()
    began_s = asyncio.get_running_loop().time()
    assert await asyncio.gather(*waiting, waits()) == [True] * 4
    assert asyncio.get_running_loop().time() == began_s
