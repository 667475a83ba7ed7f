"""Meta's Llama API: its native events (contract B.11)."""

import pytest

from tidegate.dialects.meta_llama import parse_native
from tidegate.errors import UpstreamFailed


def event(delta: bytes) -> bytes:
    return b'{"event":{"event_type":"progress","delta":%b}}' % delta


def test_a_text_that_only_the_lenient_decoder_accepts_is_read():
    """A lone surrogate is kept, as the next event may hold the other half."""
    chunk = parse_native(event(b'{"type":"text","text":"a\\ud83d"}'))
    assert (chunk.choices[0].delta.content, chunk.was_read_leniently) == ("a\ud83d", True)


def test_a_function_may_be_sent_as_a_name():
    [choice] = parse_native(event(b'{"type":"tool_call","id":"x","function":"f"}')).choices
    [call] = choice.delta.tool_calls
    assert (call.id, call.function.name) == ("x", "f")


@pytest.mark.parametrize("delta", [b"5", b'{"type":"text","text":{}}', b"[]"])
def test_a_delta_of_a_wrong_type_is_ignored(delta):
    [choice] = parse_native(event(delta)).choices
    assert (choice.delta.content, choice.delta.tool_calls) == (None, None)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b"<html>"])
def test_data_that_is_not_an_event_is_an_upstream_failure(body):
    with pytest.raises(UpstreamFailed):
        parse_native(body)
