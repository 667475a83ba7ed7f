"""Sends every item to every target, a few at once, and counts the right answers."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tidegate.config.evals import EvalScore
from tidegate.evals.client import NotAnswered
from tidegate.evals.grading import ModelAnswer, is_right
from tidegate.evals.items import Item
from tidegate.protocol.routing import Task

_FATAL_STATUSES = frozenset({0, 401})  # no connection, wrong key: every further request would fail as well


class Client(Protocol):
    """The interface of `client.EvalClient` that is used here."""

    async def send(self, target: str, item: Item) -> ModelAnswer:
        """Send `item` to `target`, and return its answer; raises `NotAnswered`."""


class Outcome:
    """The results of one target by task; updated during the run.

    Attributes:
        target: the name of the target.
        asked: by task, how many items were answered and graded.
        right: by task, how many answers were right.
        failed: how many items got no answer; they do not count against the target's quality.
        first_error: the error of the first of these items.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.asked: dict[Task, int] = {}
        self.right: dict[Task, int] = {}
        self.failed = 0
        self.first_error = ""

    def add_grade(self, task: Task, *, is_right: bool) -> None:
        """Count an item that was answered and graded."""
        self.asked[task] = self.asked.get(task, 0) + 1
        self.right[task] = self.right.get(task, 0) + is_right

    def add_failure(self, error: str) -> None:
        """Count an item that got no answer; `error` is the reason."""
        self.failed += 1
        self.first_error = self.first_error or error

    def scores(self) -> list[EvalScore]:
        """The scores for the eval file, sorted by task."""
        return [EvalScore(self.target, task, asked, self.right[task]) for task, asked in sorted(self.asked.items())]


async def run(
    client: Client, targets: Iterable[str], items: Sequence[Item], *, at_once: int, on_progress: Callable[[int], None]
) -> list[Outcome]:
    """Send all items to all targets, at most `at_once` at a time; `on_progress` gets the number of finished requests.

    Raises:
        NotAnswered: Tidegate cannot be reached, or refuses the key; every further request would fail as well.
    """
    outcomes = [Outcome(target) for target in targets]
    # item by item, so that all targets are equally busy
    remaining = iter([(outcome, item) for item in items for outcome in outcomes])
    done = 0

    async def work() -> None:
        nonlocal done
        for outcome, item in remaining:
            await _send_item(client, outcome, item)
            done += 1
            on_progress(done)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except* NotAnswered as errors:
        raise errors.exceptions[0] from None
    return outcomes


async def _send_item(client: Client, outcome: Outcome, item: Item) -> None:
    try:
        answer = await client.send(outcome.target, item)
    except NotAnswered as error:
        if error.status in _FATAL_STATUSES:
            raise
        outcome.add_failure(str(error))
    else:
        outcome.add_grade(item.task, is_right=is_right(item, answer))
