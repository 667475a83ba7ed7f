"""Reasoning between tags in the content (contract R-THINK, C.9), and the token after the reasoning (row 68)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.protocol.chat import HostAnswerFormat
from tidegate.streaming.thoughts import EosReader, ThoughtReader

THINKS = HostAnswerFormat(thought_tags=("think", "reasoning"))
PREFILLED = HostAnswerFormat(thought_tags=("think",), begins_in_reasoning=True)
SAMPLES = [
    ("Hello.", THINKS, [("content", "Hello.")]),
    ("<think>Hm.</think>\n\nYes.", THINKS, [("reasoning", "Hm."), ("content", "Yes.")]),
    (" \n<think>\nHm.\n</think>Yes.", THINKS, [("reasoning", "Hm.\n"), ("content", "Yes.")]),
    ("<reasoning>Hm.</reasoning>Yes.", THINKS, [("reasoning", "Hm."), ("content", "Yes.")]),
    ("<think></think>\n\nYes.", THINKS, [("content", "Yes.")]),
    ("<think>Hm, for ever", THINKS, [("reasoning", "Hm, for ever")]),
    ("Hm.</think>\n\nYes.", PREFILLED, [("reasoning", "Hm."), ("content", "Yes.")]),
    ("<think>Hm.</think>Yes.", PREFILLED, [("reasoning", "Hm."), ("content", "Yes.")]),
    ("So <think> is a tag, </think> too.", THINKS, [("content", "So <think> is a tag, </think> too.")]),
    ("<thinker> a < b </think>", THINKS, [("content", "<thinker> a < b </think>")]),
    ("<think>a</think>b<think>c</think>", THINKS, [("reasoning", "a"), ("content", "b<think>c</think>")]),
    ("a <", THINKS, [("content", "a <")]),
    ("   ", THINKS, [("content", "   ")]),
    ("<thi", THINKS, [("content", "<thi")]),
    ("<think>a </thi", THINKS, [("reasoning", "a </thi")]),
]


def joined(pieces):
    """Join successive pieces of the same kind."""
    result = []
    for kind, text in pieces:
        if result and result[-1][0] == kind:
            result[-1] = (kind, result[-1][1] + text)
        else:
            result.append((kind, text))
    return result


def read(answer_format, *texts):
    reader = ThoughtReader(answer_format)
    return joined([piece for text in texts for piece in reader.read(text)] + reader.close())


@pytest.mark.parametrize(("text", "answer_format", "expected"), SAMPLES)
def test_a_text_is_split_into_reasoning_and_answer(text, answer_format, expected):
    assert read(answer_format, text) == expected


@given(sample=st.sampled_from(SAMPLES), data=st.data())
def test_the_result_does_not_depend_on_the_chunks(sample, data):
    text, answer_format, expected = sample
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=len(text))))
    texts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(answer_format, *texts) == expected


def test_a_reader_is_done_as_soon_as_no_tag_can_follow():
    """The rest of the content then need not be read."""
    reader = ThoughtReader(THINKS)
    assert (reader.read(" \n"), reader.is_done) == ([], False)
    assert (reader.read("a"), reader.is_done) == ([("content", " \na")], True)


def test_tags_are_not_read_if_the_host_sends_reasoning_in_a_field():
    """This holds even if the model's card says that the template has opened a tag."""
    reader = ThoughtReader(PREFILLED)
    assert reader.stop() + reader.read("Yes.") == [("content", "Yes.")]


def test_white_space_before_a_tag_is_limited():
    text = " " * 257 + "<think>Hm."
    assert read(THINKS, text) == read(THINKS, *text) == [("content", text)]


TOKEN = "<｜end▁of▁sentence｜>"


@pytest.mark.parametrize(
    ("thought", "is_answer", "expected"),
    [
        (f"2+2 = 4.{TOKEN}", True, "2+2 = 4."),
        (f"2+2 = 4.{TOKEN}", False, f"2+2 = 4.{TOKEN}"),
        (f"a{TOKEN}b", True, f"a{TOKEN}b"),
        ("a <", True, "a <"),
        ("a<|end_of_sentence|>", True, "a"),
    ],
)
def test_the_token_is_removed_only_from_the_end_of_reasoning_that_is_the_answer(thought, is_answer, expected):
    for size in (1, 3, len(thought)):
        reader = EosReader()
        passed_on = "".join(reader.read(thought[at : at + size]) for at in range(0, len(thought), size))
        assert passed_on + reader.take_rest(is_answer=is_answer) == expected
