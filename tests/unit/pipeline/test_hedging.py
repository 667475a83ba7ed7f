"""`race`: a second attempt beside a slow first one."""

import asyncio

import pytest

from tidegate.pipeline.hedging import race


class Answer:
    def __init__(self, name):
        self.name = name
        self.is_closed = False

    def close(self):
        self.is_closed = True


class FakeAttempt:
    """Ends when `go` is set, with `error` or an answer."""

    def __init__(self, name):
        self.answer = Answer(name)
        self.go = asyncio.Event()
        self.error = None
        self.is_cancelled = False
        self.has_answered = False

    async def run(self):
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        if self.error:
            raise self.error
        self.has_answered = True
        return self.answer


class Race:
    def __init__(self, after_s=0.0, *, has_second=True):
        self.first, self.second = FakeAttempt("first"), FakeAttempt("second")
        self.has_begun = asyncio.Event()
        self.has_second = has_second
        self.task = asyncio.create_task(race(self.first.run(), after_s, self._begin))

    def _begin(self):
        self.has_begun.set()
        return self.second.run() if self.has_second else None


async def test_a_quick_first_attempt_runs_alone():
    raced = Race(60)
    raced.first.go.set()
    assert (await raced.task).name == "first"
    assert not raced.has_begun.is_set()


@pytest.mark.parametrize("winner", ["first", "second"])
async def test_the_first_answer_wins_and_the_other_attempt_is_cancelled(winner):
    raced = Race()
    await raced.has_begun.wait()
    getattr(raced, winner).go.set()
    assert (await raced.task).name == winner
    loser = raced.second if winner == "first" else raced.first
    assert loser.is_cancelled or not loser.go.is_set()


async def test_if_the_first_attempt_fails_the_second_one_answers():
    raced = Race()
    await raced.has_begun.wait()
    raced.first.error = ValueError("first")
    raced.first.go.set()
    await asyncio.sleep(0)
    raced.second.go.set()
    assert (await raced.task).name == "second"


async def test_if_both_attempts_fail_the_error_of_the_first_one_is_raised():
    raced = Race()
    await raced.has_begun.wait()
    raced.first.error, raced.second.error = ValueError("first"), ValueError("second")
    raced.first.go.set()
    raced.second.go.set()
    with pytest.raises(ValueError, match="first"):
        await raced.task


async def test_an_answer_that_comes_at_the_same_time_as_the_winner_is_closed():
    raced = Race()
    await raced.has_begun.wait()
    raced.first.go.set()
    raced.second.go.set()
    winner = await raced.task
    loser = raced.second.answer if winner is raced.first.answer else raced.first.answer
    assert (winner.is_closed, loser.is_closed) == (False, True)


async def test_without_a_second_attempt_the_first_one_is_awaited():
    raced = Race(has_second=False)
    await raced.has_begun.wait()
    raced.first.go.set()
    assert (await raced.task).name == "first"


async def test_cancelling_the_race_cancels_both_attempts():
    raced = Race()
    await raced.has_begun.wait()
    await asyncio.sleep(0)
    raced.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await raced.task
    assert raced.first.is_cancelled
    assert raced.second.is_cancelled


async def test_cancelling_the_race_while_the_loser_ends_leaves_no_answer_open():
    """The winner has answered, and the loser takes long to end."""
    raced = Race()
    await raced.has_begun.wait()
    await asyncio.sleep(0)
    lingers, has_begun = asyncio.Event(), asyncio.Event()

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            has_begun.set()
            await lingers.wait()

    winner = FakeAttempt("winner")
    winner.go.set()
    task = asyncio.create_task(race(linger(), 0, winner.run))
    await has_begun.wait()
    task.cancel()
    lingers.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert winner.answer.is_closed
    raced.task.cancel()


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("second_cancel", [None, 1, 2])
async def test_cancelling_the_race_while_both_attempts_end_leaves_no_answer_open(turns, second_cancel):
    """Both answer in one turn of the event loop; the race is cancelled so many turns later, perhaps a second time."""
    raced = Race()
    await raced.has_begun.wait()
    await asyncio.sleep(0)
    raced.first.go.set()
    raced.second.go.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    raced.task.cancel()
    for _ in range(second_cancel or 0):
        await asyncio.sleep(0)
    if second_cancel:
        raced.task.cancel()
    await asyncio.wait([raced.task])
    kept = None if raced.task.cancelled() else raced.task.result()
    for attempt in (raced.first, raced.second):
        assert attempt.answer.is_closed == (attempt.has_answered and attempt.answer is not kept)


async def test_an_attempt_that_cancels_itself_has_failed():
    raced = Race()
    await raced.has_begun.wait()
    raced.first.error = asyncio.CancelledError()
    raced.first.go.set()
    await asyncio.sleep(0)
    raced.second.go.set()
    assert (await raced.task).name == "second"
