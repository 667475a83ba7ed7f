"""Differences that do not matter do not make an answer wrong; an answer that is nearly right is wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.evals.grading import ModelAnswer, ReceivedCall, is_right, normalise
from tidegate.evals.items import ExpectedCall, Item


def item(**right_answer):
    return Item(id="x", task="chat", ask="?", **right_answer)


@pytest.mark.parametrize(
    ("text", "right"),
    [("Oslo", True), (" **oslo**.\n", True), ("'OSLO'", True), ("It is Oslo", False), ("Osl", False), ("", False)],
)
def test_a_word_is_right_whatever_its_case_and_surrounding_punctuation(text, right):
    assert is_right(item(words=("Bergen", "Oslo")), ModelAnswer(text)) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("1300", True),
        ("1,300.0", True),
        ("It is 1300.", True),
        ("= 1300 €", True),
        ("-1300", False),
        ("130", False),
        ("13 00", False),
        ("1 + 1299 = 1300", False),
        ("many", False),
    ],
)
def test_a_number_is_right_if_it_is_the_only_number_in_the_answer(text, right):
    assert is_right(item(number=1300), ModelAnswer(text)) == right


@pytest.mark.parametrize(
    ("text", "right"), [("1, 2", True), (" 1, 2\n", True), ("1,2", False), ("1, 2.", False), ("`1, 2`", False)]
)
def test_a_pattern_must_match_the_whole_answer(text, right):
    assert is_right(item(pattern="1, 2"), ModelAnswer(text)) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"b": [1, 2.0], "a": " HI "}', True),
        ('{"b": [2, 1], "a": "hi"}', False),
        ('{"b": [1, 2]}', False),
        ('{"b": [1, 2], "a": "hi", "c": null}', False),
        ('{"b": [true, 2], "a": "hi"}', False),
        ('{"b": ["1", 2], "a": "hi"}', False),
        ('```json\n{"b": [1, 2], "a": "hi"}\n```', False),
        ("[" * 100_000, False),
        ("\ud800", False),
    ],
)
def test_json_is_right_if_it_is_the_same_value(text, right):
    assert is_right(item(json={"a": "hi", "b": [1, 2]}), ModelAnswer(text)) == right


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([("light", '{"on": true}')], True),
        ([("light", '{"on": 1}')], False),
        ([("lamp", '{"on": true}')], False),
        ([("light", '{"on": tr')], False),
        ([("light", '{"on": true}')] * 2, False),
        ([], False),
    ],
)
def test_a_tool_call_is_right_if_it_is_the_only_call_with_the_same_arguments(calls, right):
    light = item(call=ExpectedCall("light", {"on": True}))
    assert is_right(light, ModelAnswer("Done.", tuple(ReceivedCall(*call) for call in calls))) == right


def test_a_tool_call_is_wrong_if_the_right_answer_is_text():
    assert not is_right(item(words=("green",)), ModelAnswer("green", (ReceivedCall("light", "{}"),)))


@given(
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3)))
)
@settings(max_examples=100)
def test_every_json_value_equals_itself(value):
    assert is_right(item(json=value), ModelAnswer(json.dumps(value)))


@given(st.text(max_size=20))
@settings(max_examples=100)
def test_surrounding_spaces_and_punctuation_do_not_change_the_normal_form(text):
    assert normalise(f"  {normalise(text)}. ") == normalise(normalise(text))
