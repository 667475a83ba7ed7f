"""Filters for the formats of reasoning, and the recording of reasoning (contract C)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.sink import RecordingSink
from tidegate.streaming.filters import FunctionCallFilter, ReasoningRecorder, Turn, in_format
from tidegate.streaming.sinks import ToolPiece


def passed_on(form):
    """The calls of the sink for an answer of reasoning and content, behind the filter for `form`."""
    sink = RecordingSink()
    filtered = in_format(sink, form)
    filtered.open(0)
    filtered.reasoning(0, "H")
    filtered.reasoning(0, "m.")
    filtered.content(0, "Yes", None)
    filtered.content(0, ".", None)
    filtered.finish(0, "stop")
    return sink.calls


YES = [("content", 0, "Yes"), ("content", 0, "."), ("finish", 0, "stop")]


@pytest.mark.parametrize("form", ["reasoning_content", "reasoning", "both"])
def test_formats_that_differ_in_the_fields_name_need_no_filter(form):
    assert passed_on(form) == [("open", 0), ("reasoning", 0, "H"), ("reasoning", 0, "m."), *YES]


def test_hidden_reasoning_is_dropped():
    assert passed_on("hidden") == [("open", 0), *YES]


def test_reasoning_is_passed_on_between_tags_in_the_content():
    assert passed_on("think_tags") == [
        ("open", 0),
        ("content", 0, "<think>H"),
        ("content", 0, "m."),
        ("content", 0, "</think>\n\nYes"),
        *YES[1:],
    ]


def test_a_tag_is_closed_before_a_call_and_at_the_end():
    sink = RecordingSink()
    tagged = in_format(sink, "think_tags")
    for index in (0, 1):
        tagged.open(index)
        tagged.reasoning(index, "Hm.")
    tagged.tool(0, ToolPiece(0, "{}", "call_1", "f"))
    tagged.finish(0, "tool_calls")
    tagged.finish(1, "length")
    closings = [entry for entry in sink.calls if entry[:1] == ("content",) and "</think>" in entry[2]]
    assert [entry[1] for entry in closings] == [0, 1]
    assert sink.calls[-1] == ("finish", 1, "length")


def test_empty_text_beside_logprobs_closes_no_tag():
    sink = RecordingSink()
    tagged = in_format(sink, "think_tags")
    tagged.open(0)
    tagged.reasoning(0, "Hm.")
    tagged.content(0, "", {"content": []})
    assert sink.calls[-1] == ("content", 0, "", {"content": []})


def test_a_call_is_passed_on_in_the_form_of_function_call():
    """The first fragment holds the name and no arguments."""
    sink = RecordingSink()
    functions = FunctionCallFilter(sink)
    functions.open(0)
    functions.tool(0, ToolPiece(0, '{"a"', "call_1", "f"))
    functions.tool(0, ToolPiece(0, ":1}"))
    functions.finish(0, "tool_calls")
    assert sink.calls == [
        ("open", 0),
        ("extra", 0, "function_call", b'{"name":"f","arguments":""}'),
        ("extra", 0, "function_call", b'{"arguments":"{\\"a\\""}'),
        ("extra", 0, "function_call", b'{"arguments":":1}"}'),
        ("finish", 0, "function_call"),
    ]


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "function_call"])
def test_without_a_call_the_finish_reason_is_unchanged(reason):
    sink = RecordingSink()
    functions = FunctionCallFilter(sink)
    functions.open(0)
    functions.content(0, "Yes", None)
    functions.finish(0, reason)
    assert sink.calls == [("open", 0), ("content", 0, "Yes"), ("finish", 0, reason)]


def test_reasoning_that_is_too_long_is_not_recorded():
    """No part of it is recorded either, as a host would take it as the whole reasoning."""
    remembering = ReasoningRecorder(RecordingSink())
    remembering.open(0)
    for _ in range(9):
        remembering.reasoning(0, "x" * 1024 * 1024)
    remembering.tool(0, ToolPiece(0, "{}", "call_1", "f"))
    remembering.finish(0, "tool_calls")
    assert remembering.take() == []


def test_the_reasoning_of_turns_that_call_tools_is_recorded():
    """It is returned with the ids of all calls of the turn, once the choice has ended."""
    sink = RecordingSink()
    remembering = ReasoningRecorder(sink)
    for index in (0, 1):
        remembering.open(index)
        remembering.reasoning(index, "Hm")
        remembering.reasoning(index, ".")
    remembering.tool(0, ToolPiece(0, "", "call_1", "f"))
    remembering.tool(0, ToolPiece(0, "{}"))
    remembering.tool(0, ToolPiece(1, "{}", "call_2", "f"))
    assert remembering.take() == []
    remembering.finish(0, "tool_calls")
    remembering.finish(1, "stop")
    assert remembering.take() == [Turn(["call_1", "call_2"], "Hm.")]
    assert remembering.take() == []


# --- generated answers --------------------------------------------------------------------------------------------

words = st.text(alphabet="ab<", min_size=1, max_size=3)
indexes = st.integers(0, 1)
some_calls = st.one_of(
    st.tuples(st.just("reasoning"), indexes, words),
    st.tuples(st.just("content"), indexes, words, st.none()),
    st.tuples(st.just("content"), indexes, st.just(""), st.just({"content": []})),
    st.tuples(st.just("refusal"), indexes, words),
    st.tuples(st.just("tool"), indexes, st.just(ToolPiece(0, "{}", "call_1", "f"))),
)
answers = st.lists(some_calls, max_size=8).map(
    lambda entries: [("open", 0), ("open", 1), *entries, ("finish", 0, "stop"), ("finish", 1, "stop")]
)


def send(sink, answer):
    for name, *arguments in answer:
        getattr(sink, name)(*arguments)


def filtered_calls(form, answer):
    sink = RecordingSink()
    send(in_format(sink, form), answer)
    return sink.calls


def text_of(calls, index, *kinds):
    return "".join(entry[2] for entry in calls if entry[0] in kinds and entry[1] == index)


@given(answers)
def test_nothing_but_reasoning_is_hidden(answer):
    assert filtered_calls("hidden", answer) == filtered_calls(
        "both", [entry for entry in answer if entry[0] != "reasoning"]
    )


@given(answers)
def test_tags_are_balanced_and_hold_all_the_reasoning(answer):
    """All text is passed on in order, and nothing after the finish."""
    calls = filtered_calls("think_tags", answer)
    for index in (0, 1):
        own = [entry for entry in calls if entry[1] == index]
        assert (own[0][0], own[-1][0]) == ("open", "finish")
        text = text_of(calls, index, "content")
        assert text.count("<think>") == text.count("</think>\n\n")
        plain = text.replace("<think>", "").replace("</think>\n\n", "")
        assert plain == text_of(filtered_calls("both", answer), index, "content", "reasoning")
    assert [entry for entry in calls if entry[0] in {"tool", "refusal"}] == [
        entry for entry in answer if entry[0] in {"tool", "refusal"}
    ]


@given(answers)
def test_recording_changes_nothing(answer):
    """Only the reasoning of choices that call tools is recorded."""
    sink = RecordingSink()
    remembering = ReasoningRecorder(sink)
    send(remembering, answer)
    assert sink.calls == filtered_calls("both", answer)
    calling = sorted({entry[1] for entry in answer if entry[0] == "tool"})
    thoughts = [text_of(sink.calls, index, "reasoning") for index in calling]
    assert [turn.reasoning for turn in remembering.take()] == [text for text in thoughts if text]
