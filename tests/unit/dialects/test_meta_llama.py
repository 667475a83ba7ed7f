"""Meta's Llama API: what its native events hold (contract B.11)."""

import pytest

from proxy.dialects.meta_llama import parse_native
from proxy.errors import UpstreamFailed


def event(delta: bytes) -> bytes:
    return b'{"event":{"event_type":"progress","delta":%b}}' % delta


def test_a_text_that_only_the_lenient_reader_takes_is_read():
    """Half a character, as everywhere (contract E.4, step 5); it went lost."""
    [choice] = parse_native(event(b'{"type":"text","text":"a\\ud83d"}')).choices
    assert choice.delta.content == "a?"


def test_a_function_may_be_a_name():
    [choice] = parse_native(event(b'{"type":"tool_call","id":"x","function":"f"}')).choices
    [call] = choice.delta.tool_calls
    assert (call.id, call.function.name) == ("x", "f")


@pytest.mark.parametrize("body", [b"", b"[]", event(b"5"), event(b'{"type":"tool_call","function":5}')])
def test_what_is_no_event_is_the_upstreams_failure(body):
    with pytest.raises(UpstreamFailed):
        parse_native(body)
