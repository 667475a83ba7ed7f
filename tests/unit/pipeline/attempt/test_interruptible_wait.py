"""`InterruptibleWait`: a wait that is ended from outside is distinguished from a cancelled request."""

import asyncio

import pytest

from tidegate.errors import EngineStalled
from tidegate.pipeline.attempt.interruptible_wait import InterruptibleWait


class Waiter:
    """A task with a movable wait."""

    def __init__(self) -> None:
        self.move: InterruptibleWait | None = None
        self.task = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        self.move = InterruptibleWait()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if (error := self.move.error()) is None:
                raise
            raise error from None


@pytest.fixture
async def waiter():
    waiter = Waiter()
    await asyncio.sleep(0)
    return waiter


async def test_a_wait_that_is_ended_from_outside_raises_engine_stalled(waiter):
    waiter.move("no step for 41 s")
    waiter.move("no step for 42 s")
    with pytest.raises(EngineStalled, match="does not answer for now"):
        await waiter.task


@pytest.mark.parametrize("is_moved", [False, True])
async def test_a_cancelled_caller_stays_cancelled_whether_the_wait_was_moved_or_not(waiter, is_moved):
    if is_moved:
        waiter.move("no step for 41 s")
    waiter.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter.task
