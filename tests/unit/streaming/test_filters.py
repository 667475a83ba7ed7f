"""Forms of reasoning, and its memory (contract C)."""

import pytest

from proxy.streaming.choices import ToolPiece
from proxy.streaming.filters import Remembering, Turn, in_format
from tests.fakes.sink import RecordingSink


def told(form):
    """What reaches the sink of an answer that thinks, calls a tool and speaks."""
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
def test_the_name_of_the_field_is_the_writers_business(form):
    assert told(form) == [("open", 0), ("reasoning", 0, "H"), ("reasoning", 0, "m."), *YES]


def test_hidden_reasoning_is_not_told():
    assert told("hidden") == [("open", 0), *YES]


def test_tags_stand_around_reasoning_in_the_content():
    assert told("think_tags") == [
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
    shut = [entry for entry in sink.calls if entry[:1] == ("content",) and "</think>" in entry[2]]
    assert [entry[1] for entry in shut] == [0, 1]
    assert sink.calls[-1] == ("finish", 1, "length")


def test_empty_text_beside_logprobs_closes_no_tag():
    sink = RecordingSink()
    tagged = in_format(sink, "think_tags")
    tagged.open(0)
    tagged.reasoning(0, "Hm.")
    tagged.content(0, "", {"content": []})
    assert sink.calls[-1] == ("content", 0, "", {"content": []})


def test_thoughts_without_end_are_not_remembered():
    """Nor is a part of them: a host would take it for all."""
    remembering = Remembering(RecordingSink())
    remembering.open(0)
    for _ in range(9):
        remembering.reasoning(0, "x" * 1024 * 1024)
    remembering.tool(0, ToolPiece(0, "{}", "call_1", "f"))
    remembering.finish(0, "tool_calls")
    assert remembering.take() == []


def test_turns_that_call_tools_are_remembered():
    """Under every call of the turn, once it is complete."""
    sink = RecordingSink()
    remembering = Remembering(sink)
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
