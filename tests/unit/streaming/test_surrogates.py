"""Surrogate pairs that are split over chunks are joined (contract row 204)."""

from hypothesis import given
from hypothesis import strategies as st
from tidegate.protocol.chat import Delta
from tidegate.protocol.lenient import valid_unicode
from tidegate.streaming.surrogates import SurrogateJoiner


def test_a_high_surrogate_is_held_back_for_its_low_surrogate():
    halves = SurrogateJoiner()
    assert (halves.join("content", "a\ud83d"), halves.waiting) == ("a", {"content": "\ud83d"})
    assert (halves.join("content", "\ude00b"), halves.waiting) == ("\U0001f600b", {})


def test_texts_are_kept_apart():
    halves = SurrogateJoiner()
    delta = Delta(content="\ud83d", reasoning="\ud83d")
    halves.join_delta(delta)
    assert (delta.content, delta.reasoning) == ("", "")
    assert halves.join("content", "\ude00") == "\U0001f600"
    assert halves.join("reasoning", "x") == "?x"


def test_a_lone_surrogate_becomes_a_question_mark():
    halves = SurrogateJoiner()
    halves.join("content", "\ud83d")
    assert (halves.take_rest("content"), halves.take_rest("content")) == ("?", "")


@given(st.lists(st.text(st.characters(codec=None), max_size=4), max_size=6))
def test_the_text_does_not_depend_on_how_it_is_cut(pieces):
    halves = SurrogateJoiner()
    told = "".join(halves.join("content", piece) for piece in pieces) + halves.take_rest("content")
    assert told == valid_unicode("".join(pieces))
