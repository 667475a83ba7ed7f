"""The shipped items: each can be graded, and its own answer is graded as right."""

import json
import re
from collections import Counter

import pytest

from tidegate.evals.grading import ModelAnswer, ReceivedCall, is_right
from tidegate.evals.items import shipped

ITEMS = shipped().items
KINDS = ("words", "number", "pattern", "json", "call")


def right_answer(item) -> ModelAnswer:
    if item.call is not None:
        return ModelAnswer("", (ReceivedCall(item.call.name, json.dumps(item.call.arguments)),))
    if item.json is not None:
        return ModelAnswer(json.dumps(item.json))
    if item.pattern is not None:
        return ModelAnswer(re.sub(r"\[ \]\*", "", item.pattern).replace("\\", ""))
    return ModelAnswer(f"{item.number:g}" if item.number is not None else f" {item.words[0].upper()}.\n")


def test_the_number_of_items_of_each_task():
    assert Counter(item.task for item in ITEMS) == {"chat": 56, "json": 16, "tools": 14}


def test_ids_and_questions_are_unique():
    assert len({item.id for item in ITEMS}) == len({item.ask for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_each_item_has_exactly_one_kind_of_right_answer(item):
    assert len([kind for kind in KINDS if getattr(item, kind) is not None]) == 1
    assert is_right(item, right_answer(item))
    assert not is_right(item, ModelAnswer())
    assert not is_right(item, ModelAnswer("I cannot say."))


def test_no_answer_is_right_for_many_items():
    """A model that always answers the same gets most items wrong."""
    for item in ITEMS:
        answer = right_answer(item)
        assert sum(is_right(other, answer) for other in ITEMS) <= 3


def test_each_expected_call_uses_a_tool_of_the_set_with_valid_arguments():
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in shipped().tools}
    for item in ITEMS:
        if item.call is not None:
            parameters = tools[item.call.name]
            assert set(parameters["required"]) <= item.call.arguments.keys() <= parameters["properties"].keys()
            for name, value in item.call.arguments.items():
                assert value in parameters["properties"][name].get("enum", [value])
