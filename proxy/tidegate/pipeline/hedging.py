"""A second try beside a slow first one: whichever answers first wins, the other is cancelled."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar


class Closable(Protocol):
    """What a try ends in."""

    def close(self) -> None:
        """Nobody wants it."""


T = TypeVar("T", bound=Closable)
Try = Coroutine[Any, Any, T]


async def race(first: Try[T], after_s: float, second: Callable[[], Try[T] | None]) -> T:
    """What `first` returns or, where that takes longer than `after_s` seconds, the first of two.

    Args:
        first: begun at once.
        after_s: how long it is alone.
        second: begins the other try, if there is to be one; asked when the time is over.

    Raises:
        Exception: both failed; what the first one failed with.
    """
    tasks = [asyncio.create_task(first)]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.create_task(other))
        winner = await _first_good(tasks)
    except BaseException:
        await drop(tasks)
        raise
    try:
        await drop([task for task in tasks if task is not winner])
    except BaseException:  # whoever wanted the answer has left meanwhile
        await drop([winner])
        raise
    return winner.result()


async def _first_good(tasks: Sequence[asyncio.Task[T]]) -> asyncio.Task[T]:
    """The first that does not fail; the first one where all do."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and _has_answer(task):
                return task
    return tasks[0]


async def drop(tasks: Sequence[asyncio.Task[T]]) -> None:
    """Cancel the tasks and wait. If one still ends with an answer, it is closed, even if the wait is cancelled."""
    pending = [task for task in tasks if not task.done()]
    for task in tasks:
        abandon(task)
    if pending:
        await asyncio.wait(pending)


def abandon(task: asyncio.Task[T]) -> None:
    """Cancel the task. If it still ends with an answer, or has done so, the answer is closed."""
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
