"""JSON with wrong types is converted as far as it fits the structs."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw, Struct, UnsetType

from tidegate.protocol.lenient import TextPiece, convert, loads, valid_unicode


class Inner(Struct):
    name: str | None = None


class Odd(Struct):
    text: TextPiece | None = None
    number: int | None = None
    share: float | None = None
    is_on: bool | None = None
    inner: Inner | None = None
    items: list[Inner] | None = None
    numbers: list[float] | None = None
    more: dict[str, Any] | None = None
    raw: Raw | UnsetType = UNSET


class WithRequiredField(Struct):
    name: str


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": 7}, Odd(text="7")),
        ({"text": 0.5}, Odd(text="0.5")),
        ({"text": True}, Odd()),
        ({"text": ["a"]}, Odd()),
        ({"number": "3"}, Odd(number=3)),
        ({"number": " 3.0 "}, Odd(number=3)),
        ({"number": 3.0}, Odd(number=3)),
        ({"number": 3.5}, Odd()),
        ({"number": True}, Odd()),
        ({"number": float("nan")}, Odd()),
        ({"share": 1}, Odd(share=1.0)),
        ({"share": float("inf")}, Odd()),
        ({"is_on": 1}, Odd()),
        ({"is_on": False}, Odd(is_on=False)),
        ({"inner": {"name": "a", "else": 1}}, Odd(inner=Inner("a"))),
        ({"inner": "a"}, Odd()),
        ({"items": [{"name": "a"}, None, 5, [], {}]}, Odd(items=[Inner("a"), Inner()])),
        ({"items": {}}, Odd()),
        ({"numbers": [1, 2.5]}, Odd(numbers=[1.0, 2.5])),
        ({"numbers": [1, "x"]}, Odd()),
        ({"more": []}, Odd()),
        ({"more": {"a": ["b\ud83d"]}}, Odd(more={"a": ["b?"]})),
        ({"unknown": 1, "text": "a"}, Odd(text="a")),
    ],
)
def test_a_field_is_kept_as_far_as_it_fits(value, expected):
    assert convert(value, Odd) == expected


@pytest.mark.parametrize("value", [None, [], "a", 5])
def test_a_value_that_is_not_an_object_gives_none(value):
    assert convert(value, Odd) is None


@pytest.mark.parametrize("value", [{}, {"name": None}, {"name": []}])
def test_a_struct_without_a_required_field_is_dropped(value):
    assert convert(value, WithRequiredField) is None


def test_a_text_piece_keeps_lone_surrogates_and_other_strings_do_not():
    """The other half may come with the next chunk. Other strings, such as ids, are always complete."""
    converted = convert({"text": "a\ud83d", "inner": {"name": "a\ud83d"}}, Odd)
    assert (converted.text, converted.inner.name) == ("a\ud83d", "a?")


def test_a_raw_value_is_json_again():
    assert bytes(convert({"raw": {"a": ["\ud83d"]}}, Odd).raw) == b'{"a":["?"]}'
    assert json.loads(bytes(convert({"raw": "a\ud83d"}, Odd).raw)) == "a\ud83d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ("é", "é"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\ud83db", "a?b"),
        ("\ude00\ud83d", "??"),
        ("\ud83d\U0001f600", "?\U0001f600"),
    ],
)
def test_surrogates_become_characters_or_question_marks(text, expected):
    assert valid_unicode(text) == expected


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_text_becomes_valid_unicode_and_valid_unicode_stays(text):
    valid = valid_unicode(text)
    valid.encode()
    assert valid_unicode(valid) == valid
    assert valid == text or any("\ud800" <= letter <= "\udfff" for letter in text)


def test_json_that_the_standard_forbids_is_read():
    assert loads(b'\xef\xbb\xbf{"a":"\n","b":"\xff"}') == {"a": "\n", "b": "\ufffd"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(Odd.__struct_fields__), inner, max_size=4)
        ),
    )
)
def test_any_json_converts_without_an_error(value):
    converted = convert(value, Odd)
    assert (converted is None) == (not isinstance(value, dict))
