"""The checks of answers that do not need to understand them."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.fakes.sink import RecordingSink
from tidegate.protocol.request import decode_fields
from tidegate.streaming.checks import check
from tidegate.streaming.sinks import ToolPiece

TOOLS = {"tools": [{"type": "function", "function": {"name": "weather"}}]}
FUNCTIONS = {"functions": [{"name": "weather"}]}
OBJECT = {"response_format": {"type": "json_object"}}
SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}


def fields(body):
    return decode_fields(msgspec.json.encode(body))


def call(arguments="{}", name="weather", index=0):
    return ("tool", 0, ToolPiece(index, arguments, f"call_{index}", name))


def text(content):
    return ("content", 0, content, None)


def verdict(body, *calls, reason="stop"):
    """The verdict on an answer with one choice, which is sent as these calls of a sink."""
    checking = check(RecordingSink(), fields(body))
    for name, *arguments in [("open", 0), *calls, ("finish", 0, reason)]:
        getattr(checking, name)(*arguments)
    return checking.verdict()


@pytest.mark.parametrize("body", [{}, {"tools": []}, {"tools": None}, {"response_format": {"type": "text"}}])
def test_plain_text_is_not_checked(body):
    assert check(RecordingSink(), fields(body)) is None


@pytest.mark.parametrize(
    ("body", "content", "good"),
    [
        (OBJECT, '{"a": 1}', 1.0),
        (OBJECT, "[1]", 0.0),
        (OBJECT, '```json\n{"a": 1}\n```', 0.0),
        (OBJECT, '{"a": ', 0.0),
        (OBJECT, "[" * 100_000, 0.0),
        (SCHEMA, "[1]", 1.0),
        (SCHEMA, "Sure!", 0.0),
        (TOOLS, "It rains.", 1.0),
    ],
)
def test_requested_json_must_be_json(body, content, good):
    assert verdict(body, *map(text, (content[:3], content[3:]))) == good


@pytest.mark.parametrize("body", [TOOLS, FUNCTIONS, TOOLS | OBJECT])
@pytest.mark.parametrize(
    ("calls", "good"),
    [
        ([call('{"city": "Oslo"}')], 1.0),
        ([call("")], 1.0),
        ([call('{"city": ')], 0.0),
        ([call("[]")], 0.0),
        ([call(name="whether")], 0.0),
        ([call(), call("nothing", index=1)], 0.0),
    ],
)
def test_a_call_must_name_an_offered_tool_and_have_an_object_as_arguments(body, calls, good):
    assert verdict(body, *calls, reason="tool_calls") == good


def test_the_fragments_of_a_call_are_joined():
    assert verdict(TOOLS, call('{"a"'), ("tool", 0, ToolPiece(0, ":1}")), reason="tool_calls") == 1.0


def test_a_custom_tool_takes_any_text():
    piece = ToolPiece(0, "", "call_0", "", Raw(b'{"name":"run","input":"x ="}'))
    assert verdict(TOOLS, ("tool", 0, piece), reason="tool_calls") == 1.0


@pytest.mark.parametrize(
    "choice",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"function_call": {"name": "weather"}},
    ],
)
def test_text_is_bad_where_a_call_is_required(choice):
    assert verdict(TOOLS | choice, text("It rains.")) == 0.0
    assert verdict(TOOLS | {"tool_choice": "auto"}, text("It rains.")) == 1.0


def test_an_empty_answer_is_bad():
    assert verdict(TOOLS) == 0.0
    assert verdict(OBJECT, text("")) == 0.0


def test_an_answer_that_was_cut_is_bad_unless_the_caller_set_a_limit():
    assert verdict(OBJECT, text("{"), reason="length") == 0.0
    assert verdict(OBJECT | {"max_tokens": 5}, text("{"), reason="length") is None
    assert verdict(OBJECT | {"max_completion_tokens": 5}, text("{"), reason="length") is None
    assert verdict(OBJECT | {"max_tokens": None}, text("{"), reason="length") == 0.0


def test_a_refusal_and_a_filtered_answer_have_no_verdict():
    assert verdict(OBJECT, ("refusal", 0, "No.")) is None
    assert verdict(OBJECT, text("{"), reason="content_filter") is None
    assert verdict(OBJECT, ("extra", 0, "audio", Raw(b"{}"))) is None


def test_an_answer_that_has_not_ended_or_is_too_long_has_no_verdict():
    checking = check(RecordingSink(), fields(OBJECT))
    assert checking.verdict() is None
    checking.open(0)
    checking.content(0, "{}", None)
    assert checking.verdict() is None
    checking.content(0, " " * 2_000_000, None)
    checking.finish(0, "stop")
    assert checking.verdict() is None


def test_the_verdict_on_several_choices_is_the_share_of_good_ones():
    checking = check(RecordingSink(), fields(OBJECT))
    for index, content in enumerate(("{}", "no")):
        checking.open(index)
        checking.content(index, content, None)
        checking.finish(index, "stop")
    assert checking.verdict() == 0.5


pieces = st.lists(
    st.one_of(
        st.text(alphabet='{}[]":1a', max_size=4).map(text),
        st.text(alphabet='{}":1', max_size=4).map(call),
        st.tuples(st.just("reasoning"), st.just(0), st.text(min_size=1, max_size=3)),
    ),
    max_size=6,
)


@given(pieces, st.sampled_from([OBJECT, SCHEMA, TOOLS, TOOLS | OBJECT]), st.sampled_from(["stop", "length"]))
@settings(max_examples=100)
def test_checking_changes_nothing_and_a_verdict_is_a_share(calls, body, reason):
    direct, checked = RecordingSink(), RecordingSink()
    checking = check(checked, fields(body))
    for name, *arguments in [("open", 0), *calls, ("finish", 0, reason)]:
        getattr(direct, name)(*arguments)
        getattr(checking, name)(*arguments)
    assert checked.calls == direct.calls
    assert checking.verdict() in {0.0, 1.0}


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.one_of(st.none(), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)),
        max_size=4,
    )
)
@settings(max_examples=50)
def test_every_object_is_good_json(value):
    assert verdict(OBJECT, text(json.dumps(value))) == 1.0
