"""Every item to every target, a few at once."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tidegate.config.evals import EvalScore
from tidegate.evals.asking import NotAnswered
from tidegate.evals.grading import ModelAnswer, is_right
from tidegate.evals.items import Item
from tidegate.protocol.routing import Task

_IN_VAIN = frozenset({0, 401})


class Asks(Protocol):
    """Who asks (see `asking.Asker`)."""

    async def ask(self, target: str, item: Item) -> ModelAnswer:
        """What `target` answers; raises `NotAnswered`."""


class Outcome:
    """What came of one target, by task; written while it is asked.

    Attributes:
        failed: how many items got no answer; they say nothing of its quality.
        why: what the first of them met.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.asked: dict[Task, int] = {}
        self.right: dict[Task, int] = {}
        self.failed = 0
        self.why = ""

    def note(self, task: Task, *, is_right: bool) -> None:
        """An item has its grade."""
        self.asked[task] = self.asked.get(task, 0) + 1
        self.right[task] = self.right.get(task, 0) + is_right

    def fail(self, why: str) -> None:
        """An item got no answer."""
        self.failed += 1
        self.why = self.why or why

    def scores(self) -> list[EvalScore]:
        """For the eval file, tasks in their order."""
        return [EvalScore(self.target, task, asked, self.right[task]) for task, asked in sorted(self.asked.items())]


async def run(
    asks: Asks, targets: Iterable[str], items: Sequence[Item], *, at_once: int, on_progress: Callable[[int], None]
) -> list[Outcome]:
    """Ask all; `on_progress` is told how many items are done.

    Raises:
        NotAnswered: no Tidegate is there, or it does not let us in; to go on would be in vain.
    """
    outcomes = [Outcome(target) for target in targets]
    left = iter([(outcome, item) for item in items for outcome in outcomes])  # in turns: all targets are busy alike
    done = 0

    async def work() -> None:
        nonlocal done
        for outcome, item in left:
            await _ask(asks, outcome, item)
            done += 1
            on_progress(done)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except* NotAnswered as errors:
        raise errors.exceptions[0] from None
    return outcomes


async def _ask(asks: Asks, outcome: Outcome, item: Item) -> None:
    try:
        answer = await asks.ask(outcome.target, item)
    except NotAnswered as error:
        if error.status in _IN_VAIN:
            raise
        outcome.fail(str(error))
    else:
        outcome.note(item.task, is_right=is_right(item, answer))
