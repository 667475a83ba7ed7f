"""Sending every item to every target, and counting the right answers."""

import asyncio

import pytest

from tidegate.config.evals import EvalScore
from tidegate.evals.client import NotAnswered
from tidegate.evals.grading import ModelAnswer
from tidegate.evals.items import Item
from tidegate.evals.run import run

ITEMS = [
    Item(id="a", task="chat", ask="a", words=("yes",)),
    Item(id="b", task="chat", ask="b", words=("yes",)),
    Item(id="c", task="json", ask="c", json={}),
]


class Client:
    """Answers with `answer(target, item)`, which may raise; counts concurrent requests."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []
        self.running = self.most = 0

    async def send(self, target, item):
        self.requests.append((target, item.id))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return self.answer(target, item)


async def outcomes_of(answer, at_once=2):
    client, progress = Client(answer), []
    outcomes = await run(client, ["x/m", "y/m"], ITEMS, at_once=at_once, on_progress=progress.append)
    return client, progress, outcomes


@pytest.mark.parametrize("at_once", [1, 2, 50])
async def test_each_item_is_sent_once_and_no_more_at_a_time_than_allowed(at_once):
    client, progress, _ = await outcomes_of(lambda *_: ModelAnswer(), at_once)
    assert sorted(client.requests) == [(target, item.id) for target in ("x/m", "y/m") for item in ITEMS]
    assert client.most == min(at_once, 6)
    assert progress == [1, 2, 3, 4, 5, 6]


async def test_right_answers_are_counted_by_target_and_task():
    _, _, outcomes = await outcomes_of(lambda target, _: ModelAnswer("yes" if target == "x/m" else "{}"))
    assert [outcome.scores() for outcome in outcomes] == [
        [EvalScore("x/m", "chat", 2, 2), EvalScore("x/m", "json", 1, 0)],
        [EvalScore("y/m", "chat", 2, 0), EvalScore("y/m", "json", 1, 1)],
    ]


async def test_items_without_an_answer_do_not_count_against_the_target():
    def answer(target, item):
        if target == "x/m" and item.task == "chat":
            raise NotAnswered(f"busy {item.id}", 503)
        return ModelAnswer("{}")

    _, _, (first, second) = await outcomes_of(answer)
    assert first.scores() == [EvalScore("x/m", "json", 1, 1)]
    assert (first.failed, first.first_error) == (2, "busy a")
    assert second.failed == 0


@pytest.mark.parametrize("status", [0, 401])
async def test_the_run_ends_at_once_if_every_request_would_fail(status):
    def answer(*_):
        raise NotAnswered("no", status)

    client = Client(answer)
    with pytest.raises(NotAnswered, match=r"^no$"):
        await run(client, ["x/m"], ITEMS, at_once=2, on_progress=lambda _: None)
    assert len(client.requests) <= 2
