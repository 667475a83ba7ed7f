"""Every item to every target."""

import asyncio

import pytest
from tidegate.config.evals import EvalScore
from tidegate.evals.asking import NotAnswered
from tidegate.evals.grading import ModelAnswer
from tidegate.evals.items import Item
from tidegate.evals.run import run

ITEMS = [
    Item(id="a", task="chat", ask="a", words=("yes",)),
    Item(id="b", task="chat", ask="b", words=("yes",)),
    Item(id="c", task="json", ask="c", json={}),
]


class Asks:
    """Answers by `say(target, item)`, which may raise; counts how many are asked at once."""

    def __init__(self, say):
        self.say = say
        self.asked = []
        self.now = self.most = 0

    async def ask(self, target, item):
        self.asked.append((target, item.id))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return self.say(target, item)


async def outcomes_of(say, at_once=2):
    asks, seen = Asks(say), []
    found = await run(asks, ["x/m", "y/m"], ITEMS, at_once=at_once, on_progress=seen.append)
    return asks, seen, found


@pytest.mark.parametrize("at_once", [1, 2, 50])
async def test_all_are_asked_once_and_no_more_at_a_time_than_allowed(at_once):
    asks, seen, _ = await outcomes_of(lambda *_: ModelAnswer(), at_once)
    assert sorted(asks.asked) == [(target, item.id) for target in ("x/m", "y/m") for item in ITEMS]
    assert asks.most == min(at_once, 6)
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_right_answers_are_counted_by_target_and_task():
    _, _, found = await outcomes_of(lambda target, _: ModelAnswer("yes" if target == "x/m" else "{}"))
    assert [outcome.scores() for outcome in found] == [
        [EvalScore("x/m", "chat", 2, 2), EvalScore("x/m", "json", 1, 0)],
        [EvalScore("y/m", "chat", 2, 0), EvalScore("y/m", "json", 1, 1)],
    ]


async def test_what_got_no_answer_says_nothing_of_the_target():
    def say(target, item):
        if target == "x/m" and item.task == "chat":
            raise NotAnswered(f"busy {item.id}", 503)
        return ModelAnswer("{}")

    _, _, (first, second) = await outcomes_of(say)
    assert first.scores() == [EvalScore("x/m", "json", 1, 1)]
    assert (first.failed, first.why) == (2, "busy a")
    assert second.failed == 0


@pytest.mark.parametrize("status", [0, 401])
async def test_where_all_is_in_vain_it_ends_at_once(status):
    def say(*_):
        raise NotAnswered("no", status)

    asks = Asks(say)
    with pytest.raises(NotAnswered, match=r"^no$"):
        await run(asks, ["x/m"], ITEMS, at_once=2, on_progress=lambda _: None)
    assert len(asks.asked) <= 2
