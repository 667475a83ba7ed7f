"""The preface and the answer after it are one stream."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tidegate.protocol.usage import Usage
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.filters import in_format
from tidegate.streaming.reasoning_preface import ReasoningPreface
from tidegate.streaming.sinks import Envelope

ENVELOPE = Envelope("chatcmpl-1", 7, "m")
FORMS = ["reasoning_content", "reasoning", "both", "think_tags"]


def answer(sink, *, thoughts: str = "t ", index: int = 0) -> None:
    sink.open(index)
    if thoughts:
        sink.reasoning(index, thoughts)
    sink.content(index, "w", None)
    sink.finish(index, "stop")


def stream(form: str, *preface_texts: str, wants_usage: bool = False, send_answer=answer) -> list[dict]:
    """Return all chunks: those of the preface, then those of the answer."""
    preface = ReasoningPreface(ENVELOPE, wants_usage=wants_usage, form=form)
    for text in preface_texts:
        preface.add(text)
    payloads = preface.take()
    writer = ChatWriter(ENVELOPE, wants_usage=wants_usage, form=form)
    send_answer(preface.sink_after(in_format(writer, form), writer))
    return [json.loads(payload) for payload in (*payloads, *writer.take())]


def deltas(chunks: list[dict]) -> list[dict]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def text(chunks: list[dict], name: str) -> str:
    return "".join(delta.get(name) or "" for delta in deltas(chunks))


@pytest.mark.parametrize("form", FORMS)
def test_the_answers_own_thinking_follows(form):
    chunks = stream(form, "Loading\n", "Loading: 40 %\n")
    shown = {
        "reasoning_content": ("Loading\nLoading: 40 %\nt ", "", "w"),
        "reasoning": ("", "Loading\nLoading: 40 %\nt ", "w"),
        "both": ("Loading\nLoading: 40 %\nt ", "Loading\nLoading: 40 %\nt ", "w"),
        "think_tags": ("", "", "<think>Loading\nLoading: 40 %\nt </think>\n\nw"),
    }
    assert tuple(text(chunks, name) for name in ("reasoning_content", "reasoning", "content")) == shown[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("thoughts", ["", "t "])
@given(preface_texts=st.lists(st.text(min_size=1), max_size=3))
def test_the_stream_equals_that_of_an_answer_with_the_prefaces_text_as_reasoning(form, thoughts, preface_texts):
    """The texts are equal byte for byte; they may be split into chunks at different positions."""

    def without_preface(sink):
        answer(sink, thoughts="".join(preface_texts) + thoughts)

    def after_preface(sink):
        answer(sink, thoughts=thoughts)

    chunks, expected = (
        stream(form, *preface_texts, send_answer=after_preface),
        stream(form, send_answer=without_preface),
    )
    for name in ("role", "reasoning_content", "reasoning", "content", "refusal"):
        assert text(chunks, name) == text(expected, name)
    assert (chunks[0], chunks[-1]) == (expected[0], expected[-1])


@pytest.mark.parametrize("wants_usage", [False, True])
def test_all_chunks_have_the_same_envelope_and_the_usual_usage(wants_usage):
    def with_usage(sink):
        answer(sink)
        sink.usage(Usage(3, 2, 5))

    chunks = stream("reasoning_content", "Loading\n", wants_usage=wants_usage, send_answer=with_usage)
    assert {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("chatcmpl-1", 7, "m", "chat.completion.chunk")
    }
    assert [chunk.get("usage", "none") for chunk in chunks[:-1]] == [None if wants_usage else "none"] * 4 + (
        [None] if wants_usage else []
    )
    assert (chunks[-1].get("usage") or {}).get("total_tokens") == (5 if wants_usage else None)


def test_the_preface_is_in_the_first_choice_only():
    def two_choices(sink):
        answer(sink)
        answer(sink, index=1)

    chunks = stream("reasoning_content", "Loading\n", send_answer=two_choices)
    roles = [choice["index"] for chunk in chunks for choice in chunk["choices"] if "role" in choice["delta"]]
    assert roles == [0, 1]


def test_a_top_level_field_before_the_first_choice_is_kept():
    def moderated(sink):
        sink.top_level("moderation", Raw(b'{"results":[]}'))
        answer(sink)

    chunks = stream("reasoning_content", "Loading\n", send_answer=moderated)
    assert [chunk["moderation"] for chunk in chunks if "moderation" in chunk] == [{"results": []}]


def test_an_empty_preface_leaves_the_answer_unchanged():
    writer = ChatWriter(ENVELOPE, wants_usage=False)
    answer(writer)
    assert stream("reasoning_content") == [json.loads(payload) for payload in writer.take()]
