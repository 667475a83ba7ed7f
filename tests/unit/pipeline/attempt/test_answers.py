"""`StreamedAnswer`: what of a stream is held back until its first content, and what is passed on."""

import json

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.response import ScriptedResponse
from tests.fakes.wire import chunk, event
from tidegate.dialects import events
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.pipeline.attempt.answers import StreamedAnswer
from tidegate.pipeline.attempt.source import Source
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.sinks import Envelope

ROLE = event(chunk({"role": "assistant", "content": ""}))
EMPTY = event(chunk({"content": ""}))
HI = event(chunk({"content": "Hi"}))
STOP = event(chunk(finish="stop"))
COMMENT = b": keep-alive\n\n"
BROKEN = UpstreamUnreachable("it broke")


class StreamStage:
    """A `StreamedAnswer` that reads a script, with its response, record and context."""

    def __init__(self, *pieces, pause_s: float = 0.0) -> None:
        clock = FakeClock(monotonic_s=0.0)
        self.context = RequestContext("req_1", "chat", clock)
        self.record = AttemptRecord("host", "m")
        self.response = ScriptedResponse(pieces, clock=clock, pause_s=pause_s)
        writer = ChatWriter(Envelope("chatcmpl-1", 1, "m"), wants_usage=False)
        source = Source(self.response, ChoiceStream(writer), events.parse, None)
        self.answer = StreamedAnswer(source, writer, self.record, self.context)

    async def rest(self) -> list[dict]:
        """The deltas that have not been read yet."""
        deltas = []
        while payloads := await self.answer.read():
            deltas += [json.loads(payload)["choices"][0]["delta"] for payload in payloads]
        return deltas


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "Hi"},
        {"reasoning_content": "Hm"},
        {"refusal": "No"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
    ],
    ids=lambda delta: next(iter(delta)),
)
async def test_nothing_is_passed_on_before_the_first_content(delta):
    stage = StreamStage(ROLE, COMMENT, EMPTY, event(chunk(delta)), STOP)
    await stage.answer.begin()
    assert stage.response.reads == 4
    assert len(await stage.answer.read()) == 2


@pytest.mark.parametrize("head", [(), (ROLE,), (ROLE, COMMENT, EMPTY)], ids=["nothing", "a role", "empty pieces"])
@pytest.mark.parametrize(
    ("end", "failure"),
    [
        (BROKEN, UpstreamUnreachable),
        (UpstreamTimeout("silent"), UpstreamTimeout),
        (event(b'{"error": {"message": "x"}}'), UpstreamFailed),
        (event(b"{"), UpstreamFailed),
        (event(chunk(finish="insufficient_system_resource")), UpstreamFailed),
    ],
    ids=["break", "silence", "error", "no JSON", "gave up"],
)
async def test_a_failure_before_the_first_content_is_a_failed_attempt(head, end, failure):
    with pytest.raises(failure) as caught:
        await StreamStage(*head, end).answer.begin()
    assert caught.value.may_try_another_target


async def test_a_head_that_ends_without_content_and_finish_reason_is_no_answer():
    """`Attempt` turns it into a failed attempt (`UpstreamFailed`)."""
    with pytest.raises(StreamBroken):
        await StreamStage(ROLE, EMPTY, b"data: [DONE]\n\n").answer.begin()


async def test_an_empty_answer_that_ends_correctly_is_passed_on():
    stage = StreamStage(ROLE, STOP, b"data: [DONE]\n\n")
    await stage.answer.begin()
    assert await stage.rest() == [{"role": "assistant", "content": "", "refusal": None}, {}]
    assert stage.record.first_content_s == 0.0


async def test_content_and_failure_in_one_read_are_a_failed_attempt():
    """Nothing has left for the caller yet."""
    with pytest.raises(UpstreamFailed):
        await StreamStage(ROLE + HI + event(b'{"error": {"message": "x"}}')).answer.begin()


async def test_a_failure_after_the_first_content_is_raised_behind_it():
    stage = StreamStage(ROLE + HI, BROKEN)
    await stage.answer.begin()
    assert len(await stage.answer.read()) == 2
    with pytest.raises(UpstreamUnreachable):
        await stage.answer.read()


async def test_a_head_that_is_too_long_is_passed_on_without_content():
    stage = StreamStage(ROLE, *[EMPTY * 100] * 100)
    await stage.answer.begin()
    assert len(await stage.answer.read()) == 1
    assert stage.response.reads < 20


async def test_comments_alone_are_never_passed_on():
    """Comments of the host are dropped, so that there is nothing to pass on."""
    with pytest.raises(UpstreamUnreachable):
        await StreamStage(*[COMMENT * 1000] * 10, BROKEN).answer.begin()


async def test_first_content_is_noted_when_the_host_sends_it_and_when_the_caller_gets_it():
    stage = StreamStage(ROLE, HI, STOP, pause_s=1.0)
    await stage.answer.begin()
    assert (stage.record.first_content_s, stage.context.first_content_s) == (2.0, 0.0)
    await stage.rest()
    assert (stage.record.first_content_s, stage.context.first_content_s) == (2.0, 2.0)


async def test_the_content_of_a_continuation_is_kept_though_a_failure_came_with_it():
    """It has been written into the splice already, and cannot be taken back."""
    stage = StreamStage(ROLE + HI + event(b'{"error": {"message": "x"}}'))
    await stage.answer.begin(keeps_content=True)
    assert len(await stage.answer.read()) == 2
    with pytest.raises(UpstreamFailed) as caught:
        await stage.answer.read()
    assert stage.record.failure is caught.value


async def test_a_continuation_that_fails_before_its_first_content_is_a_failed_attempt():
    with pytest.raises(UpstreamUnreachable):
        await StreamStage(ROLE, BROKEN).answer.begin(keeps_content=True)


JSON_LINES = [piece + b"\n" for piece in (chunk({"content": "Hi"}), chunk(finish="stop"))]
WHOLE = json.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"".join(JSON_LINES),
        b"\n" + b"".join(JSON_LINES) + b"data: [DONE]\n",
        b"\xef\xbb\xbf" + WHOLE,
        WHOLE + b"\n\ndata: [DONE]\n\n",
        b"[" + WHOLE + b"]",
        b"".join(b"data: " + line for line in JSON_LINES) + b"data: [DONE]\n",
    ],
)
async def test_json_with_the_content_type_of_events_is_read(body):
    """One object, or one on each line: no event begins with a brace."""
    stage = StreamStage(body[:20], body[20:])
    await stage.answer.begin()
    assert "".join(delta.get("content") or "" for delta in await stage.rest()) == "Hi"


@pytest.mark.parametrize(
    "end", [b'data: {"choices":[{"delta":{"con\ndata: {"error":{"message":"gone"}}\n\n', b"error: gone\n\n"]
)
async def test_an_error_in_an_unusual_place_is_raised(end):
    """After a truncated event, or in an SSE field `error:`."""
    stage = StreamStage(ROLE, HI, end)
    await stage.answer.begin()
    with pytest.raises(UpstreamFailed, match="gone"):
        await stage.rest()
