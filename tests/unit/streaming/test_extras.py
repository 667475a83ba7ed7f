"""Lists and objects in addition to the text: `reasoning_details`, and Gemini's `extra_content`."""

import json

import pytest
from msgspec import Raw

from tidegate.streaming.extras import is_call, joined, merged, objects_in, thought_in


def raws(*values):
    return [Raw(json.dumps(value).encode()) for value in values]


def text(piece, **more):
    return {"type": "reasoning.text", "text": piece, "index": 0} | more


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([text("a"), text("b")], [text("ab")]),
        ([text("a"), text(None, signature="s")], [text("a", signature="s")]),
        ([text("a", signature="s"), text("b")], [text("a", signature="s"), text("b")]),
        ([text("a"), text("b", index=1)], [text("a"), text("b", index=1)]),
        ([text("a", id="x"), text("b", id="y")], [text("a", id="x"), text("b", id="y")]),
        (
            [{"type": "reasoning.encrypted", "data": "AB"}, {"type": "reasoning.encrypted", "data": "CD"}],
            [{"type": "reasoning.encrypted", "data": "ABCD"}],
        ),
        ([text("a"), {"type": "reasoning.encrypted", "data": "AB"}], None),
    ],
)
def test_fragments_of_one_detail_are_joined(pieces, expected):
    assert json.loads(bytes(joined(raws(*pieces)))) == (expected or pieces)


def test_the_reasoning_is_read_from_texts_and_summaries():
    given = raws(text("a"), {"type": "reasoning.summary", "summary": "b"}, {"type": "reasoning.encrypted", "data": "x"})
    assert thought_in(given) == "ab"


def test_only_the_objects_of_a_list_are_passed_on():
    assert [bytes(item) for item in objects_in(Raw(b'[{"a":1},null,5,"x",[]]'))] == [b'{"a":1}']


def test_objects_are_merged_name_by_name():
    old, new = raws({"google": {"thought": True, "a": 1}}, {"google": {"thought": False, "b": 2}})
    assert json.loads(bytes(merged([old, new]))) == {"google": {"thought": False, "a": 1, "b": 2}}
    assert json.loads(bytes(merged([new]))) == {"google": {"thought": False, "b": 2}}


def test_many_fragments_are_joined_in_linear_time():
    """In quadratic time this test would take over half a minute."""
    assert len(bytes(joined(raws(*[text("x" * 100)] * 160_000)))) > 16_000_000
    assert len(json.loads(bytes(merged(raws(*({f"k{number}": "x" * 100} for number in range(40_000))))))) == 40_000


@pytest.mark.parametrize(
    ("value", "expected"), [(b"{}", False), (b"[]", False), (b"null", False), (b'{"name":"f"}', True)]
)
def test_an_empty_object_is_no_function_call(value, expected):
    assert is_call(Raw(value)) is expected
