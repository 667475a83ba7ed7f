"""The held head: what is passed on of a stream, and when it counts as begun."""

import json

import pytest
from tidegate.dialects import events
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from tidegate.pipeline.attempt.answers import Streamed
from tidegate.pipeline.attempt.source import Source
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.streaming.chat import ChatWriter
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.sinks import Envelope

from tests.fakes.clock import FakeClock
from tests.fakes.response import ScriptedResponse
from tests.fakes.wire import chunk, event

ROLE = event(chunk({"role": "assistant", "content": ""}))
EMPTY = event(chunk({"content": ""}))
HI = event(chunk({"content": "Hi"}))
STOP = event(chunk(finish="stop"))
COMMENT = b": keep-alive\n\n"
BROKEN = UpstreamUnreachable("it broke")


class Held:
    """A `Streamed` around a script, with all that it needs."""

    def __init__(self, *pieces, pause_s: float = 0.0) -> None:
        clock = FakeClock(monotonic_s=0.0)
        self.context = RequestContext("req_1", "chat", clock)
        self.record = AttemptRecord("host", "m")
        self.response = ScriptedResponse(pieces, clock=clock, pause_s=pause_s)
        writer = ChatWriter(Envelope("chatcmpl-1", 1, "m"), wants_usage=False)
        source = Source(self.response, ChoiceStream(writer), events.parse, None)
        self.answer = Streamed(source, writer, self.record, self.context)

    async def rest(self) -> list[dict]:
        """The deltas that are left to be read."""
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
async def test_the_head_is_held_until_the_first_content(delta):
    held = Held(ROLE, COMMENT, EMPTY, event(chunk(delta)), STOP)
    await held.answer.begin()
    assert held.response.reads == 4
    assert len(await held.answer.read()) == 2


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
async def test_what_fails_in_the_head_is_a_failed_attempt(head, end, failure):
    with pytest.raises(failure) as caught:
        await Held(*head, end).answer.begin()
    assert caught.value.may_try_another_target


async def test_a_head_that_ends_without_content_and_finish_reason_is_no_answer():
    """`Attempt` tells it as a failed attempt."""
    with pytest.raises(StreamBroken):
        await Held(ROLE, EMPTY, b"data: [DONE]\n\n").answer.begin()


async def test_an_empty_answer_in_good_order_is_passed_on():
    held = Held(ROLE, STOP, b"data: [DONE]\n\n")
    await held.answer.begin()
    assert await held.rest() == [{"role": "assistant", "content": "", "refusal": None}, {}]
    assert held.record.first_content_s == 0.0


async def test_content_and_failure_in_one_read_are_a_failed_attempt():
    """Nothing has left yet."""
    with pytest.raises(UpstreamFailed):
        await Held(ROLE + HI + event(b'{"error": {"message": "x"}}')).answer.begin()


async def test_after_the_first_content_a_failure_is_told_behind_it():
    held = Held(ROLE + HI, BROKEN)
    await held.answer.begin()
    assert len(await held.answer.read()) == 2
    with pytest.raises(UpstreamUnreachable):
        await held.answer.read()


async def test_a_head_without_end_is_passed_on_at_last():
    held = Held(ROLE, *[EMPTY * 100] * 100)
    await held.answer.begin()
    assert len(await held.answer.read()) == 1
    assert held.response.reads < 20


async def test_comments_alone_are_never_passed_on():
    """There is nothing that could be."""
    with pytest.raises(UpstreamUnreachable):
        await Held(*[COMMENT * 1000] * 10, BROKEN).answer.begin()


async def test_first_content_is_noted_when_the_host_sends_it_and_when_the_caller_gets_it():
    held = Held(ROLE, HI, STOP, pause_s=1.0)
    await held.answer.begin()
    assert (held.record.first_content_s, held.context.first_content_s) == (2.0, 0.0)
    await held.rest()
    assert (held.record.first_content_s, held.context.first_content_s) == (2.0, 2.0)


async def test_the_rest_of_an_answer_counts_though_a_failure_came_with_it():
    """It has been told to the splice, which another target goes on from."""
    held = Held(ROLE + HI + event(b'{"error": {"message": "x"}}'))
    await held.answer.begin(keeps_content=True)
    assert len(await held.answer.read()) == 2
    with pytest.raises(UpstreamFailed) as caught:
        await held.answer.read()
    assert held.record.failure is caught.value


async def test_the_rest_of_an_answer_that_fails_before_it_begins_is_a_failed_attempt():
    with pytest.raises(UpstreamUnreachable):
        await Held(ROLE, BROKEN).answer.begin(keeps_content=True)


LINES = [piece + b"\n" for piece in (chunk({"content": "Hi"}), chunk(finish="stop"))]
WHOLE = json.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"".join(LINES),
        b"\n" + b"".join(LINES) + b"data: [DONE]\n",
        b"\xef\xbb\xbf" + WHOLE,
        WHOLE + b"\n\ndata: [DONE]\n\n",
        b"[" + WHOLE + b"]",
        b"".join(b"data: " + line for line in LINES) + b"data: [DONE]\n",
    ],
)
async def test_json_that_is_called_events_is_read(body):
    """One object, or one on each line: no event begins with a brace."""
    held = Held(body[:20], body[20:])
    await held.answer.begin()
    assert "".join(delta.get("content") or "" for delta in await held.rest()) == "Hi"


@pytest.mark.parametrize(
    "end", [b'data: {"choices":[{"delta":{"con\ndata: {"error":{"message":"gone"}}\n\n', b"error: gone\n\n"]
)
async def test_an_error_in_an_odd_place_is_told(end):
    """After a truncated event, or in a field `error:`."""
    held = Held(ROLE, HI, end)
    await held.answer.begin()
    with pytest.raises(UpstreamFailed, match="gone"):
        await held.rest()
