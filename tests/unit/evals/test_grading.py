"""Right is right, whatever does not matter; nearly right is wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.evals.grading import Made, ModelAnswer, is_right, normalise
from tidegate.evals.items import ExpectedCall, Item


def item(**wanted):
    return Item(id="x", task="chat", ask="?", **wanted)


@pytest.mark.parametrize(
    ("said", "right"),
    [("Oslo", True), (" **oslo**.\n", True), ("'OSLO'", True), ("It is Oslo", False), ("Osl", False), ("", False)],
)
def test_words_are_the_same_whatever_is_around_them(said, right):
    assert is_right(item(words=("Bergen", "Oslo")), ModelAnswer(said)) == right


@pytest.mark.parametrize(
    ("said", "right"),
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
def test_a_number_stands_alone_among_numbers(said, right):
    assert is_right(item(number=1300), ModelAnswer(said)) == right


@pytest.mark.parametrize(
    ("said", "right"), [("1, 2", True), (" 1, 2\n", True), ("1,2", False), ("1, 2.", False), ("`1, 2`", False)]
)
def test_a_form_is_kept_to_the_letter(said, right):
    assert is_right(item(pattern="1, 2"), ModelAnswer(said)) == right


@pytest.mark.parametrize(
    ("said", "right"),
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
def test_json_is_the_same_value(said, right):
    assert is_right(item(json={"a": "hi", "b": [1, 2]}), ModelAnswer(said)) == right


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
def test_a_call_is_the_one_call(calls, right):
    wanted = item(call=ExpectedCall("light", {"on": True}))
    assert is_right(wanted, ModelAnswer("Done.", tuple(Made(*call) for call in calls))) == right


def test_where_no_tool_fits_a_call_is_wrong():
    assert not is_right(item(words=("green",)), ModelAnswer("green", (Made("light", "{}"),)))


@given(
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3)))
)
@settings(max_examples=100)
def test_every_value_is_itself(value):
    assert is_right(item(json=value), ModelAnswer(json.dumps(value)))


@given(st.text(max_size=20))
@settings(max_examples=100)
def test_what_is_normal_stays_so(said):
    assert normalise(f"  {normalise(said)}. ") == normalise(normalise(said))
