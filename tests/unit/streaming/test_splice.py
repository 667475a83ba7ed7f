"""Where two parts of an answer become one: every word once, whatever breaks where."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from tidegate.errors import StreamBroken
from tidegate.protocol.usage import Usage
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.filters import Tagged
from tidegate.streaming.sinks import ToolPiece
from tidegate.streaming.splice import MAX_OVERLAP, StreamSplice, may_overlap_more, overlap, with_parts

from tests.fakes.sink import RecordingSink
from tests.unit.chunks import ENVELOPE, accumulate, check

SURE = 8  # characters that do not come twice by chance
# no two characters alike, so that nothing repeats by chance
UNIQUE = st.integers(2, 400).map(lambda size: "".join(map(chr, range(0x4E00, 0x4E00 + size))))


def splice_of(*parts):
    """A splice that was told these parts of an answer, each as a list of texts, and its sink."""
    sink = RecordingSink()
    splice = StreamSplice(sink)
    for number, texts in enumerate(parts):
        if number:
            splice.join()
        splice.open(0)
        for text in texts:
            splice.content(0, text, None)
    return splice, sink


def heard(sink) -> str:
    return "".join(call[2] for call in sink.calls if call[0] == "content")


def cut(draw, text: str) -> list[str]:
    """A text in chunks, as many as there may be."""
    ends = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=8)))
    return [piece for begin, end in zip([0, *ends], [*ends, len(text)], strict=True) if (piece := text[begin:end])]


@settings(max_examples=100, deadline=None)
@given(UNIQUE, st.data())
def test_every_word_comes_once_whatever_the_chunks_the_break_and_the_overlap(text, data):
    at = data.draw(st.integers(1, len(text) - 1))
    again = data.draw(st.sampled_from([size for size in range(MAX_OVERLAP + 1) if not 0 < size < SURE and size <= at]))
    splice, sink = splice_of(cut(data.draw, text[:at]), cut(data.draw, text[at - again :]))
    splice.finish(0, "stop")
    assert heard(sink) == splice.text == text


BREAKS = st.lists(st.tuples(st.integers(1, 99), st.integers(0, MAX_OVERLAP)), max_size=4)


@settings(max_examples=100, deadline=None)
@given(UNIQUE, BREAKS, st.data())
def test_however_often_it_breaks_each_part_goes_on_from_what_was_told(text, breaks, data):
    """The next target is told what has left, and says up to 64 characters of that again."""
    splice, sink = splice_of([])
    for number, (size, again) in enumerate([*breaks, (len(text), 0)]):
        if number:
            splice.join()
        begin = len(splice.text)
        begin -= again if SURE <= again <= begin else 0
        for piece in cut(data.draw, text[begin : begin + size]):
            splice.content(0, piece, None)
    splice.finish(0, "stop")
    assert heard(sink) == text


@settings(max_examples=100, deadline=None)
@given(st.text("ab0, ", min_size=1, max_size=200), st.data())
def test_what_repeats_by_chance_is_never_taken_off(text, data):
    """Rows of zeros, indents and refrains of a few letters: no character is lost where nothing was said again."""
    at = data.draw(st.integers(0, len(text)))
    splice, sink = splice_of(cut(data.draw, text[:at]), cut(data.draw, text[at:]))
    splice.finish(0, "stop")
    assert heard(sink) == text


@pytest.mark.parametrize(
    ("told", "more", "repeated"),
    [
        ("and so the quick fox", "the quick fox jumps", 13),
        ("100", "000", 0),
        ("hel", "lo", 0),
        ("0, 0, 0, 0, 0, ", "0, 0, 0, 0, ", 0),
        ("| --- | --- | ", "--- | --- |", 0),
        ("the", "the", 0),
        ("", "anything at all", 0),
        ("x" + "abcdefghij" * 8, "abcdefghij" * 8, 60),
    ],
)
def test_an_overlap_is_the_longest_that_is_no_chance(told, more, repeated):
    assert overlap(told, more) == repeated


def test_a_beginning_is_held_back_only_while_it_may_be_a_repetition():
    told = "and so the quick fox"
    assert may_overlap_more(told, "the qu")
    assert not may_overlap_more(told, "the qui-")
    assert not may_overlap_more(told, " jumps")


def test_what_cannot_be_a_repetition_is_told_at_once():
    _, sink = splice_of(["and so the quick fox"], [" ju", "mps"])
    assert sink.calls[-2:] == [("content", 0, " ju"), ("content", 0, "mps")]


def test_the_role_is_said_once():
    _, sink = splice_of(["a"], ["b"], ["c"])
    assert sink.calls.count(("open", 0)) == 1


def test_thinking_over_an_answer_that_has_begun_is_not_told():
    splice, sink = splice_of(["a"], [])
    splice.reasoning(0, "Hm.")
    splice.content(0, "b", None)
    assert sink.calls == [("open", 0), ("content", 0, "a"), ("content", 0, "b")]


def test_an_answer_that_was_at_its_end_ends():
    splice, sink = splice_of(["All of it."], [])
    splice.finish(0, "stop")
    assert sink.calls[-1] == ("finish", 0, "stop")
    assert not splice.can_go_on


UNFIT = {
    "nothing": lambda _: None,
    "white space": lambda splice: splice.content(0, " \n", None),
    "thinking alone": lambda splice: splice.reasoning(0, "Hm."),
    "an open thought": lambda splice: (splice.content(0, "a", None), splice.reasoning(0, "Hm.")),
    "log probabilities": lambda splice: splice.content(0, "a", {"content": []}),
    "a refusal": lambda splice: (splice.content(0, "a", None), splice.refusal(0, "No.")),
    "a tool call": lambda splice: (splice.content(0, "a", None), splice.tool(0, ToolPiece(0, "", "call", "f"))),
    "sound": lambda splice: (splice.content(0, "a", None), splice.extra(0, "audio", Raw(b"{}"))),
    "two choices": lambda splice: (splice.content(0, "a", None), splice.open(1)),
    "a whole answer": lambda splice: (splice.content(0, "a", None), splice.finish(0, "stop")),
    "more than is kept": lambda splice: splice.content(0, "a" * (4 * 1024 * 1024 + 1), None),
}


@pytest.mark.parametrize("tell", UNFIT.values(), ids=UNFIT)
def test_what_is_not_plain_text_cannot_be_gone_on_with(tell):
    splice, _ = splice_of([])
    tell(splice)
    assert not splice.can_go_on


@pytest.mark.parametrize(
    "tell",
    [
        lambda splice: splice.tool(0, ToolPiece(0, id="call", name="f")),
        lambda splice: splice.refusal(0, "No."),
        lambda splice: splice.extra(0, "audio", Raw(b"{}")),
    ],
    ids=["a call", "a refusal", "a voice"],
)
def test_what_goes_on_with_a_text_is_text(tell):
    """A host that sends something else begins another answer in the middle of this one."""
    splice, sink = splice_of(["Once upon a time"], [])
    told = list(sink.calls)
    with pytest.raises(StreamBroken):
        tell(splice)
    assert sink.calls == told


def test_text_behind_its_thoughts_can_be_gone_on_with():
    splice, _ = splice_of([])
    splice.reasoning(0, "Hm.")
    splice.content(0, "a", None)
    assert splice.can_go_on
    assert splice.text == "a"


def test_tokens_are_about_a_quarter_of_the_bytes_thoughts_included():
    splice, _ = splice_of([])
    splice.reasoning(0, "x" * 40)
    splice.content(0, "y" * 39, None)
    splice.join()
    splice.content(0, "z" * 8, None)
    assert splice.tokens == 20 + 2


def test_usage_is_that_of_all_parts():
    """The last prompt held all that had been said: without that it is the caller's, which each part was given."""
    splice, sink = splice_of(["x" * 40], ["y" * 20], ["z"])
    splice.finish(0, "stop")
    splice.usage(Usage(115, 7, 122))
    assert splice.told_usage == Usage(100 + 110 + 115, 10 + 5 + 7, 347)
    assert sink.calls[-1] == ("usage", splice.told_usage)


def test_usage_is_never_negative():
    assert with_parts(Usage(1, 1, 2), [10]) == Usage(1, 11, 12)


@pytest.mark.parametrize("wants_usage", [False, True])
def test_the_chunks_are_one_correct_sequence_with_its_mark_on_the_last(wants_usage):
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    splice = StreamSplice(writer)
    splice.open(0)
    splice.content(0, "Hello ", None)
    splice.join()
    writer.mark = b'"x_tidegate":{"continued":1}'
    splice.open(0)
    splice.content(0, "world", None)
    splice.finish(0, "stop")
    splice.usage(Usage(3, 2, 5))
    payloads = writer.take()
    check(payloads, wants_usage=wants_usage)
    assert accumulate(payloads).choices[0].message.content == "Hello world"
    marks = [json.loads(payload).get("x_tidegate") for payload in payloads]
    assert [mark for mark in marks if mark] == [{"continued": 1}]
    assert json.loads(payloads[marks.index({"continued": 1})])["choices"][0]["finish_reason"] == "stop"


def test_thoughts_in_tags_are_no_part_of_what_is_gone_on_with():
    sink = RecordingSink()
    splice = StreamSplice(Tagged(sink))
    splice.open(0)
    splice.reasoning(0, "Hm.")
    splice.content(0, "a", None)
    splice.join()
    splice.content(0, "b", None)
    assert heard(sink) == "<think>Hm.</think>\n\nab"
    assert splice.text == "ab"
