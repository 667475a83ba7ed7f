"""A second attempt beside a slow first one: the first answer wins, and the other attempt is cancelled."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar


class Closable(Protocol):
    """The result of an attempt: an answer that has to be closed."""

    def close(self) -> None:
        """Give back everything that the answer holds."""


T = TypeVar("T", bound=Closable)
AttemptCoroutine = Coroutine[Any, Any, T]


async def race(first: AttemptCoroutine[T], after_s: float, begin_second: Callable[[], AttemptCoroutine[T] | None]) -> T:
    """Return the answer of `first` or, if that takes longer than `after_s` seconds, the earlier answer of two attempts.

    The caller of `race` closes the answer; the other attempt's answer, if there is one, is closed here.

    Args:
        first: the first attempt, which begins at once.
        after_s: how many seconds the first attempt runs alone.
        begin_second: called when that time is over; returns the second attempt, or None for no second attempt.

    Raises:
        Exception: all attempts failed; the error is that of the first one.
    """
    tasks = [asyncio.create_task(first)]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (other := begin_second()) is not None:
            tasks.append(asyncio.create_task(other))
        winner = await _first_successful(tasks)
    except BaseException:
        await cancel_and_wait(tasks)
        raise
    try:
        await cancel_and_wait([task for task in tasks if task is not winner])
    except BaseException:  # the task of the request was cancelled meanwhile
        await cancel_and_wait([winner])
        raise
    return winner.result()


async def _first_successful(tasks: Sequence[asyncio.Task[T]]) -> asyncio.Task[T]:
    """The first task that ends with an answer; `tasks[0]` if all fail."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and _has_answer(task):
                return task
    return tasks[0]


async def cancel_and_wait(tasks: Sequence[asyncio.Task[T]]) -> None:
    """Cancel the tasks and wait for their ends. A task's answer is closed, even if this wait is cancelled."""
    pending = [task for task in tasks if not task.done()]
    for task in tasks:
        cancel_without_waiting(task)
    if pending:
        await asyncio.wait(pending)


def cancel_without_waiting(task: asyncio.Task[T]) -> None:
    """Cancel the task. If it ends with an answer all the same, or already has, the answer is closed."""
    if task.done():
        _close(task)
    else:
        task.cancel()
        task.add_done_callback(_close)


def _close(task: asyncio.Task[T]) -> None:
    if _has_answer(task):
        task.result().close()


def _has_answer(task: asyncio.Task[T]) -> bool:
    return not task.cancelled() and task.exception() is None
