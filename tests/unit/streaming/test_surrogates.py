"""SurrogateJoiner of surrogate pairs, joined over chunks (contract row 204)."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.chat import Delta
from proxy.protocol.lenient import valid_unicode
from proxy.streaming.surrogates import SurrogateJoiner


def test_a_half_waits_for_the_other_one():
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


def test_a_half_that_stays_alone_is_a_question_mark():
    halves = SurrogateJoiner()
    halves.join("content", "\ud83d")
    assert (halves.take_rest("content"), halves.take_rest("content")) == ("?", "")


@given(st.lists(st.text(st.characters(codec=None), max_size=4), max_size=6))
def test_however_a_text_is_cut_the_same_comes_out(pieces):
    halves = SurrogateJoiner()
    told = "".join(halves.join("content", piece) for piece in pieces) + halves.take_rest("content")
    assert told == valid_unicode("".join(pieces))
