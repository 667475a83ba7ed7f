"""The parts of an answer that broke off are joined so that all text is sent once."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.fakes.sink import RecordingSink
from tests.unit.chunks import ENVELOPE, accumulate, check
from tidegate.errors import StreamBroken
from tidegate.protocol.usage import Usage
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.filters import TaggedReasoning
from tidegate.streaming.sinks import ToolPiece
from tidegate.streaming.splice import MAX_OVERLAP, StreamSplice, may_overlap_more, overlap, with_earlier_parts

MIN_OVERLAP = 8  # characters; a shorter repetition may be a coincidence
# all characters are distinct, so that nothing repeats by coincidence
UNIQUE = st.integers(2, 400).map(lambda size: "".join(map(chr, range(0x4E00, 0x4E00 + size))))


def splice_of(*parts):
    """Return a splice that received these parts of an answer, each as a list of texts, and its sink."""
    sink = RecordingSink()
    splice = StreamSplice(sink)
    for number, texts in enumerate(parts):
        if number:
            splice.begin_rest()
        splice.open(0)
        for text in texts:
            splice.content(0, text, None)
    return splice, sink


def content_of(sink) -> str:
    return "".join(call[2] for call in sink.calls if call[0] == "content")


def cut(draw, text: str) -> list[str]:
    """Split a text into up to nine chunks."""
    ends = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=8)))
    return [piece for begin, end in zip([0, *ends], [*ends, len(text)], strict=True) if (piece := text[begin:end])]


@settings(max_examples=100, deadline=None)
@given(UNIQUE, st.data())
def test_text_is_sent_once_whatever_the_chunks_the_break_and_the_overlap(text, data):
    at = data.draw(st.integers(1, len(text) - 1))
    repeated_size = data.draw(
        st.sampled_from([size for size in range(MAX_OVERLAP + 1) if not 0 < size < MIN_OVERLAP and size <= at])
    )
    splice, sink = splice_of(cut(data.draw, text[:at]), cut(data.draw, text[at - repeated_size :]))
    splice.finish(0, "stop")
    assert content_of(sink) == splice.text == text


BREAKS = st.lists(st.tuples(st.integers(1, 99), st.integers(0, MAX_OVERLAP)), max_size=4)


@settings(max_examples=100, deadline=None)
@given(UNIQUE, BREAKS, st.data())
def test_an_answer_can_break_off_several_times(text, breaks, data):
    """The next target receives the text that was sent, and repeats up to 64 characters of it."""
    splice, sink = splice_of([])
    for number, (size, repeated_size) in enumerate([*breaks, (len(text), 0)]):
        if number:
            splice.begin_rest()
        begin = len(splice.text)
        begin -= repeated_size if MIN_OVERLAP <= repeated_size <= begin else 0
        for piece in cut(data.draw, text[begin : begin + size]):
            splice.content(0, piece, None)
    splice.finish(0, "stop")
    assert content_of(sink) == text


@settings(max_examples=100, deadline=None)
@given(st.text("ab0, ", min_size=1, max_size=200), st.data())
def test_a_coincidental_repetition_is_not_removed(text, data):
    """Rows of zeros, indents and refrains of a few letters: no character is lost if the host repeated nothing."""
    at = data.draw(st.integers(0, len(text)))
    splice, sink = splice_of(cut(data.draw, text[:at]), cut(data.draw, text[at:]))
    splice.finish(0, "stop")
    assert content_of(sink) == text


@pytest.mark.parametrize(
    ("sent_text", "more", "repeated"),
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
def test_an_overlap_is_the_longest_that_is_no_coincidence(sent_text, more, repeated):
    assert overlap(sent_text, more) == repeated


def test_text_is_held_back_only_while_it_may_be_a_repetition():
    sent_text = "and so the quick fox"
    assert may_overlap_more(sent_text, "the qu")
    assert not may_overlap_more(sent_text, "the qui-")
    assert not may_overlap_more(sent_text, " jumps")


def test_text_that_cannot_be_a_repetition_is_sent_at_once():
    _, sink = splice_of(["and so the quick fox"], [" ju", "mps"])
    assert sink.calls[-2:] == [("content", 0, " ju"), ("content", 0, "mps")]


def test_the_choice_is_opened_once():
    _, sink = splice_of(["a"], ["b"], ["c"])
    assert sink.calls.count(("open", 0)) == 1


def test_the_reasoning_of_a_continuation_is_dropped():
    splice, sink = splice_of(["a"], [])
    splice.reasoning(0, "Hm.")
    splice.content(0, "b", None)
    assert sink.calls == [("open", 0), ("content", 0, "a"), ("content", 0, "b")]


def test_a_continuation_without_text_ends_the_answer():
    splice, sink = splice_of(["All of it."], [])
    splice.finish(0, "stop")
    assert sink.calls[-1] == ("finish", 0, "stop")
    assert not splice.can_continue


NOT_CONTINUABLE = {
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


@pytest.mark.parametrize("send", NOT_CONTINUABLE.values(), ids=NOT_CONTINUABLE)
def test_only_plain_text_can_be_continued(send):
    splice, _ = splice_of([])
    send(splice)
    assert not splice.can_continue


@pytest.mark.parametrize(
    "send",
    [
        lambda splice: splice.tool(0, ToolPiece(0, id="call", name="f")),
        lambda splice: splice.refusal(0, "No."),
        lambda splice: splice.extra(0, "audio", Raw(b"{}")),
    ],
    ids=["a call", "a refusal", "a voice"],
)
def test_a_continuation_must_be_text(send):
    """Other output would be the beginning of another answer in the middle of this one."""
    splice, sink = splice_of(["Once upon a time"], [])
    calls = list(sink.calls)
    with pytest.raises(StreamBroken):
        send(splice)
    assert sink.calls == calls


def test_text_after_reasoning_can_be_continued():
    splice, _ = splice_of([])
    splice.reasoning(0, "Hm.")
    splice.content(0, "a", None)
    assert splice.can_continue
    assert splice.text == "a"


def test_the_estimated_tokens_include_the_reasoning():
    splice, _ = splice_of([])
    splice.reasoning(0, "x" * 40)
    splice.content(0, "y" * 39, None)
    splice.begin_rest()
    splice.content(0, "z" * 8, None)
    assert splice.tokens == 20 + 2


def test_usage_is_the_sum_of_all_parts():
    """The prompt of each part is the caller's prompt, 100 tokens here, and the text of the earlier parts."""
    splice, sink = splice_of(["x" * 40], ["y" * 20], ["z"])
    splice.finish(0, "stop")
    splice.usage(Usage(115, 7, 122))
    assert splice.final_usage == Usage(100 + 110 + 115, 10 + 5 + 7, 347)
    assert sink.calls[-1] == ("usage", splice.final_usage)


def test_usage_is_never_negative():
    assert with_earlier_parts(Usage(1, 1, 2), [10]) == Usage(1, 11, 12)


@pytest.mark.parametrize("wants_usage", [False, True])
def test_the_chunks_are_one_correct_sequence_with_the_mark_on_the_finish_chunk(wants_usage):
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage)
    splice = StreamSplice(writer)
    splice.open(0)
    splice.content(0, "Hello ", None)
    splice.begin_rest()
    writer.finish_field = b'"x_tidegate":{"continued":1}'
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


def test_reasoning_between_tags_is_not_part_of_the_text():
    sink = RecordingSink()
    splice = StreamSplice(TaggedReasoning(sink))
    splice.open(0)
    splice.reasoning(0, "Hm.")
    splice.content(0, "a", None)
    splice.begin_rest()
    splice.content(0, "b", None)
    assert content_of(sink) == "<think>Hm.</think>\n\nab"
    assert splice.text == "ab"
