"""Surrogate pairs that are split over chunks are joined (contract row 204)."""

from hypothesis import given
from hypothesis import strategies as st

from tidegate.protocol.chat import Delta
from tidegate.protocol.lenient import valid_unicode
from tidegate.streaming.surrogates import SurrogateJoiner


def test_a_high_surrogate_is_held_back_for_its_low_surrogate():
    joiner = SurrogateJoiner()
    assert (joiner.join("content", "a\ud83d"), joiner.waiting) == ("a", {"content": "\ud83d"})
    assert (joiner.join("content", "\ude00b"), joiner.waiting) == ("\U0001f600b", {})


def test_texts_are_kept_apart():
    joiner = SurrogateJoiner()
    delta = Delta(content="\ud83d", reasoning="\ud83d")
    joiner.join_delta(delta)
    assert (delta.content, delta.reasoning) == ("", "")
    assert joiner.join("content", "\ude00") == "\U0001f600"
    assert joiner.join("reasoning", "x") == "?x"


def test_a_lone_surrogate_becomes_a_question_mark():
    joiner = SurrogateJoiner()
    joiner.join("content", "\ud83d")
    assert (joiner.take_rest("content"), joiner.take_rest("content")) == ("?", "")


@given(st.lists(st.text(st.characters(codec=None), max_size=4), max_size=6))
def test_the_text_does_not_depend_on_the_chunks(pieces):
    joiner = SurrogateJoiner()
    text = "".join(joiner.join("content", piece) for piece in pieces) + joiner.take_rest("content")
    assert text == valid_unicode("".join(pieces))
