"""Calls that a model writes as JSON text become calls; all other text is unchanged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sink import RecordingSink
from tidegate.protocol.text_calls import TextCalls
from tidegate.streaming.text_calls import TextCallReader

FORCED = TextCalls(names=frozenset({"f", "g"}), is_forced=True)
FREE = TextCalls(names=frozenset({"f", "g"}))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)
SPACE = st.sampled_from(["", " ", "\n", "\n\n  ", "\t"])


def read(form: TextCalls, *pieces: str, reason: str = "stop"):
    """Return what the sink receives: the text, the calls, and the finish reason."""
    sink = RecordingSink()
    reader = TextCallReader(sink, form)
    reader.open(0)
    for piece in pieces:
        reader.content(0, piece, None)
    reader.finish(0, reason)
    return joined(sink)


def joined(sink: RecordingSink):
    text, calls, ids = "", [], []
    for name, _, *rest in sink.calls:
        if name == "content":
            text += rest[0]
        elif name == "tool":
            [piece] = rest
            if piece.id is not None:
                assert piece.index == len(calls)
                calls.append([piece.name, ""])
                ids.append(piece.id)
            calls[piece.index][1] += piece.arguments
    assert len(set(ids)) == len(ids)
    assert sink.calls[-1][0] == "finish"
    return text, [tuple(call) for call in calls], sink.calls[-1][2]


def cut(text: str, places) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places})
    return [text[begin:end] for begin, end in zip([0, *at], [*at, len(text)], strict=True) if begin < end]


@given(ARGUMENTS, st.lists(SPACE, min_size=9, max_size=9), st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_a_forced_call_is_passed_on_byte_for_byte_whatever_the_chunks(arguments, spaces, places, is_indented):
    inner = json.dumps(arguments, indent=2 if is_indented else None)
    parts = ["", "{", '"name"', ":", '"f"', ",", '"arguments"', ":"]
    head = "".join(part + space for part, space in zip(parts, spaces, strict=False))
    found = read(FORCED, *cut(f"{head}{inner}{spaces[8]}}}{spaces[0]}", places))
    assert found == ("", [("f", inner)], "tool_calls")


def test_the_name_is_passed_on_at_once_and_the_arguments_as_they_arrive():
    sink = RecordingSink()
    reader = TextCallReader(sink, FORCED)
    reader.content(0, '{"name": "f", "arguments": {"a', None)
    assert [(piece.name, piece.arguments) for _, _, piece in sink.calls] == [("f", ""), (None, '{"a')]
    reader.content(0, '": [1', None)
    assert sink.calls[-1][2].arguments == '": [1'


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        (['{"name":"f","arguments":{"a": "x'], '{"a": "x'),
        (['{"name":"f","arguments":{"a": {"b": 1}'], '{"a": {"b": 1}'),
        (['{"name":"f","arguments":{"a": {"b": 1}', "}"], '{"a": {"b": 1}}'),
        (['{"name":"f","arguments":{"a": {"b": 1}', "}", "}\n"], '{"a": {"b": 1}}'),
        (['{"name":"f","arguments":'], ""),
    ],
)
def test_a_truncated_call_keeps_its_arguments_so_far(pieces, arguments):
    assert read(FORCED, *pieces, reason="length") == ("", [("f", arguments)], "length")


@pytest.mark.parametrize(
    "text",
    [
        "I would call f.",
        '{"name":"h","arguments":{}}',
        '{"name":["f"],"arguments":{}}',
        '{"name":"f","arguments":[]}',
        '{"name":"f","arguments":{}',
        '{"name":"f","arguments":{},"why":1}',
        '{"name":"f"}',
        '{"answer": 42}',
        'Here: {"name":"f","arguments":{}}',
        '```json\n{"name":"f","arguments":{}}\n```',
        '{"name":"f","arguments":{}} is what I would write.',
        '{"name":"f","arguments":{}} {"name":"h","arguments":{}}',
        '{"name":"f","arguments":{"a":NaN}}',
        "{" * 5000,
        "{" + " " * 70_000,
        "",
        " \n",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_text_that_is_not_a_call_stays_text(text, size):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert read(FREE, *pieces) == (text, [], "stop")


@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=6), st.sampled_from(["stop", "length"]))
def test_no_text_is_lost(text, places, reason):
    assert read(FREE, *cut(text, places), reason=reason) == (text, [], reason)


@given(
    st.lists(st.tuples(st.sampled_from("fg"), ARGUMENTS), min_size=1, max_size=3), SPACE, st.lists(st.integers(0, 400))
)
def test_an_answer_of_calls_and_nothing_else_becomes_calls(calls, space, places):
    inner = [(name, json.dumps(arguments)) for name, arguments in calls]
    text = space + "\n".join(f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in inner) + space
    assert read(FREE, *cut(text, places)) == ("", inner, "tool_calls")


def test_only_the_first_call_is_passed_on_with_one_call():
    one = TextCalls(names=frozenset({"f", "g"}), one_call=True)
    text = '{"name":"f","arguments":{}}\n{"name":"g","arguments":{}}'
    assert read(one, text) == ("", [("f", "{}")], "tool_calls")


def test_a_forced_call_may_have_its_fields_in_another_order():
    assert read(FORCED, '{"arguments":{"a":1},"name":"g"}') == ("", [("g", '{"a":1}')], "tool_calls")


def test_text_that_cannot_be_a_call_is_passed_on_as_it_arrives():
    sink = RecordingSink()
    reader = TextCallReader(sink, FREE)
    reader.content(0, " ", None)
    assert sink.calls == []
    reader.content(0, "So", {"content": []})
    reader.content(0, " {", None)
    assert sink.calls == [("content", 0, " "), ("content", 0, "So", {"content": []}), ("content", 0, " {")]


def test_choices_are_read_independently():
    sink = RecordingSink()
    reader = TextCallReader(sink, FORCED)
    for index in (0, 1):
        reader.open(index)
    reader.content(0, '{"name":"f",', None)
    reader.content(1, '{"name":"g","arguments":{}}', None)
    reader.content(0, '"arguments":{}}', None)
    for index in (0, 1):
        reader.finish(index, "stop")
    named = [(index, piece.name) for name, index, *rest in sink.calls if name == "tool" for piece in rest if piece.name]
    assert named == [(1, "g"), (0, "f")]
