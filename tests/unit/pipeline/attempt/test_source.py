"""`Source`: which bytes of a host are an answer, which are keep-alives, and where the answer ends."""

import json

import pytest

from tests.fakes.response import ScriptedResponse
from tests.fakes.sink import RecordingSink
from tests.fakes.wire import chunk, completion, event
from tidegate.clock import SystemClock
from tidegate.dialects import events
from tidegate.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamUnreachable
from tidegate.pipeline.attempt.source import Source, TurnMemory
from tidegate.reasoning_memory import ProcessReasoningMemory
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.filters import ReasoningRecorder

HI = event(chunk({"content": "Hi"}))
STOP = event(chunk(finish="stop"))
DONE = b"data: [DONE]\n\n"
TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}


async def read_all(*pieces, headers=None):
    """The text of the answer, and the error that ended it, or None."""
    sink = RecordingSink()
    source = Source(ScriptedResponse(pieces, headers=headers), ChoiceStream(sink), events.parse, None)
    error = None
    try:
        while await source.read():
            pass
        await source.end()
    except ProxyError as failure:
        error = failure
    return "".join(entry[2] for entry in sink.calls if entry[0] == "content"), error


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        ([HI, STOP, DONE], None),
        ([HI, STOP], None),
        ([HI + STOP + DONE], TEXT),
        ([HI + STOP + DONE], JSON),
        ([b": x\n\n" + HI, STOP + DONE], JSON),
        ([completion("Hi")], JSON),
        ([completion("Hi")], TEXT),
        ([HI, STOP, UpstreamUnreachable("it hung up")], None),
    ],
    ids=["events", "no [DONE]", "as text", "as JSON", "a comment, as JSON", "JSON", "JSON as text", "no end"],
)
async def test_an_answer_is_read_whatever_its_content_type(pieces, headers):
    assert await read_all(*pieces, headers=headers) == ("Hi", None)


async def test_an_incomplete_answer_is_an_error():
    text, error = await read_all(HI, UpstreamUnreachable("it hung up"))
    assert (text, type(error)) == ("Hi", UpstreamUnreachable)
    text, error = await read_all(HI, DONE)
    assert (text, type(error)) == ("Hi", StreamBroken)


@pytest.mark.parametrize("delta", [{"content": "x" * 3_000_000}, {"reasoning": "x" * 3_000_000}])
async def test_a_long_event_with_content_is_no_flood_without_content(delta):
    """It was once taken for a megabyte without content, and so for a failure."""
    data = event(chunk(delta))
    pieces = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    _, error = await read_all(*pieces, STOP, DONE)
    assert error is None


async def test_a_long_event_without_content_is_a_keep_alive():
    """VLLM puts the token ids of the prompt into the first event."""
    first = chunk({"role": "assistant", "content": ""}, prompt_token_ids=[100_000] * 400_000)
    assert len(first) > 2_000_000
    assert await read_all(event(first), HI, STOP, DONE) == ("Hi", None)


@pytest.mark.parametrize(
    "silence", [b": keep-alive\n\n", b"data: null\n\n", b"data: ping\n\n", event(chunk({"content": ""}))]
)
async def test_a_flood_without_content_is_a_failure(silence):
    flood = silence * (65536 // len(silence))
    text, error = await read_all(HI, *[flood] * 40, STOP, DONE)
    assert (text, type(error)) == ("Hi", UpstreamFailed)
    assert "say nothing" in error.message
    assert await read_all(HI, flood, HI, flood, STOP, DONE) == ("HiHi", None)


async def test_reasoning_before_a_tool_call_is_stored_when_the_answer_has_ended():
    """A turn is complete only with its finish reason, which comes last."""
    reasoning_memory = ProcessReasoningMemory(SystemClock())
    sink = ReasoningRecorder(RecordingSink())
    call = {"index": 0, "id": "call_abcdefgh", "function": {"name": "f", "arguments": "{}"}}
    pieces = [event(chunk({"reasoning": "Hm."})), event(chunk({"tool_calls": [call]})), STOP, DONE]
    source = Source(
        ScriptedResponse(pieces), ChoiceStream(sink), events.parse, TurnMemory(sink, reasoning_memory, "caller")
    )
    while await source.read():
        pass
    await source.end()
    assert await reasoning_memory.recall("caller", ["call_abcdefgh"]) == {"call_abcdefgh": "Hm."}


async def test_a_body_that_is_no_answer_is_an_upstream_failure():
    for body in (b"<html>502</html>", b"no healthy upstream", b'{"choices":'):
        _, error = await read_all(body, headers=JSON)
        assert type(error) is UpstreamFailed
        assert "Error" not in error.message
    assert json.loads(completion("Hi"))["choices"]
