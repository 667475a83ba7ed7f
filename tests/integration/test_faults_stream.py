"""Faults in the middle of an answer: numbers 37 to 58 of the list of faults (capabilities 6.5).

A host may answer a unary request with events too, so every row is tested with unary and with streamed requests.
"""

import json

import aiohttp
import pytest

from tests.fakes.fault_proxy import after, closes, delays, drips, half_closes, resets, stalls, when_read
from tests.fakes.fault_stage import (
    FAILED,
    MODES,
    TARGETS,
    TIMED_OUT,
    UNREACHABLE,
    BrokenStream,
    ErrorAnswer,
    Row,
    WholeAnswer,
    check,
    running_stage,
    text,
)
from tests.fakes.upstream import PAUSE, SSE_HEAD, Call, Script, streams
from tests.fakes.wire import chunk, completion, event, text_stream

DONE = b"data: [DONE]\n\n"
HI = event(chunk({"content": "Hi"}))
YOU = event(chunk({"content": " you"}))
STOP = event(chunk(finish="stop"))
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HI_YOU = text("Hi you")
WELL = text_stream("Hi", " you")
CUT_OFF = BrokenStream("Hi", "upstream_unreachable")
FELL_SILENT = BrokenStream("Hi", "upstream_timeout")
UNFINISHED = BrokenStream("Hi", "upstream_disconnected")
NO_END = ErrorAnswer(502, "upstream_disconnected")
BAD = BrokenStream("Hi", "upstream_failed")


def begins(*then: bytes) -> Script:
    """Send `Hi`, and the rest once the caller has read it; for a unary request, which reads at the end, no pause."""

    async def script(call: Call) -> None:
        is_stream = b'"stream":true' in call.body.replace(b" ", b"")
        await streams(HI, *([PAUSE] if is_stream else []), *then)(call)

    return script


async def begins_and_stalls(call: Call) -> None:
    await call.write(SSE_HEAD)
    await call.chunk(HI)
    await call.gone.wait()


async def head_and_stalls(call: Call) -> None:
    await call.write(SSE_HEAD)
    await call.gone.wait()


def call_of(**call) -> bytes:
    return event(chunk({"tool_calls": [call]}))


def choices(*entries: tuple[int, dict, str | None]) -> bytes:
    return event(
        chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish} for index, delta, finish in entries])
    )


CALL = call_of(index=0, id="c1", type="function", function={"name": "f", "arguments": '{"a": '})
CALLED = {"tool_calls": [{"id": "c1", "name": "f", "arguments": '{"a": '}], "finish": "tool_calls"}
MANY = 10_000
UNICODE = "Hi größer 😀 日本語 \u2028"
RAW_UNICODE = [
    event(json.dumps({"choices": [{"index": 0, "delta": {"content": UNICODE}}]}, ensure_ascii=False).encode()),
    STOP,
    DONE,
]

ROWS = {
    "37 nothing after the head": Row(script=head_and_stalls, unary=TIMED_OUT, short_timeouts=("first_byte", "answer")),
    "37 stalled in the first event": Row(
        script=streams(*WELL),
        fault=after(b"data: {", stalls),
        unary=TIMED_OUT,
        short_timeouts=("first_byte", "answer", "idle"),
    ),
    "38 stalled between events": Row(
        script=begins_and_stalls, unary=TIMED_OUT, stream=FELL_SILENT, short_timeouts=("idle",)
    ),
    "38 stalled in an event": Row(
        script=streams(HI, YOU, STOP, DONE),
        fault=after(b'" yo', stalls),
        unary=TIMED_OUT,
        stream=FELL_SILENT,
        short_timeouts=("idle",),
    ),
    "39 reset before the first event": Row(script=streams(*WELL), fault=after(b"data: {", resets), unary=UNREACHABLE),
    "39 half closed before the first event": Row(
        script=streams(*WELL), fault=after(b"data: {", half_closes), unary=UNREACHABLE
    ),
    "40 closed at the end, without [DONE]": Row(script=streams(HI, YOU, STOP), unary=HI_YOU),
    "40 closed without a finish reason": Row(script=begins(), unary=NO_END, stream=UNFINISHED),
    "40 closed before anything": Row(script=streams(), unary=FAILED),
    "41 [DONE] without a finish reason": Row(script=begins(DONE), unary=NO_END, stream=UNFINISHED),
    "41 [DONE] alone": Row(script=streams(DONE), unary=FAILED),
    "42 content after [DONE]": Row(script=streams(*WELL, HI, DONE), unary=HI_YOU),
    "42 an error after [DONE]": Row(script=streams(b"".join(WELL) + event(b'{"error": "x"}')), unary=HI_YOU),
    "43 split everywhere": Row(script=streams(*RAW_UNICODE), fault=drips, unary=text(UNICODE)),
    "43 CRLF split everywhere": Row(script=streams(b"".join(WELL).replace(b"\n", b"\r\n")), fault=drips, unary=HI_YOU),
    "44 CR alone": Row(script=streams(b"".join(WELL).replace(b"\n", b"\r")), unary=HI_YOU),
    "44 CR alone, split everywhere": Row(
        script=streams(b"".join(WELL).replace(b"\n", b"\r")), fault=drips, unary=HI_YOU
    ),
    "45 data over several lines": Row(
        script=streams(
            HI, b"".join(b"data: %b\n" % line for line in chunk({"content": " you"}).split(b" ", 1)) + b"\n", STOP, DONE
        ),
        unary=HI_YOU,
    ),
    "46 comments, fields and a BOM": Row(
        script=streams(
            b"\xef\xbb\xbf: hello\n\nretry: 1\n\n", b"event: message\nid: 7\n" + HI, b": x\n", YOU, STOP, DONE
        ),
        unary=HI_YOU,
    ),
    "47 no choices": Row(
        script=streams(event(chunk(choices=[])), HI, event(chunk(choices=[])), YOU, STOP, DONE), unary=HI_YOU
    ),
    "47 no choices and nothing else": Row(script=streams(event(chunk(choices=[])), DONE), unary=FAILED),
    "48 null for a delta": Row(
        script=streams(HI, event(chunk(choices=[{"index": 0, "delta": None}])), YOU, STOP, DONE), unary=HI_YOU
    ),
    "49 no JSON first": Row(script=streams(event(b'{"choices": [')), unary=FAILED),
    "49 no JSON in the middle": Row(script=begins(event(b'{"choices": [')), unary=FAILED, stream=BAD),
    "50 10 MB in one event": Row(script=begins(b"data: " + b"x" * 10_000_000 + b"\n\n"), unary=FAILED, stream=BAD),
    "51 an error first": Row(script=streams(event(b'{"error": {"message": "boom"}}'), DONE), unary=FAILED),
    "51 an error in the middle": Row(
        script=begins(event(b'{"error": {"message": "boom"}}'), DONE), unary=FAILED, stream=BAD
    ),
    "51 an error after the finish": Row(
        script=begins(STOP, event(b'{"error": {"message": "boom"}}'), DONE), unary=FAILED, stream=BAD
    ),
    "53 arguments cut, and finished": Row(
        script=streams(CALL, event(chunk(finish="tool_calls")), DONE), unary=WholeAnswer((CALLED,))
    ),
    "54 the second choice first": Row(
        request_fields={"n": 3},
        script=streams(choices((1, {"content": "Ho"}, "stop")), choices((0, {"content": "Hi"}, "stop")), DONE),
        unary=WholeAnswer(({"content": "Hi", "finish": "stop"}, {"content": "Ho", "finish": "stop"})),
    ),
    "54 a choice that never comes": Row(
        request_fields={"n": 3},
        script=streams(choices((0, {"content": "Hi"}, "stop"), (2, {"content": "Ho"}, "stop")) + DONE),
        unary=NO_END,
    ),
    "54 a choice that never ends": Row(
        request_fields={"n": 3},
        script=begins(choices((1, {"content": "Ho"}, None)), STOP, DONE),
        unary=NO_END,
        stream=BrokenStream("HiHo", "upstream_disconnected"),
    ),
    "54 an absurd index": Row(script=streams(choices((10**9, {"content": "Hi"}, "stop")), DONE), unary=FAILED),
    "55 id and model change": Row(
        script=streams(
            event(chunk({"content": "Hi"}, id="a", model="x", created=1)),
            event(chunk({"content": " you"}, id="b", model="y", created=2)),
            event(chunk(finish="stop", id=None, model=None, created=None)),
            DONE,
        ),
        unary=HI_YOU,
    ),
    "56 content after the finish": Row(
        script=streams(HI, YOU, STOP, event(chunk({"content": "!"})), DONE), unary=text("Hi you!")
    ),
    "56 finished twice": Row(script=streams(HI, YOU, STOP, event(chunk(finish="length")), DONE), unary=HI_YOU),
    "57 a burst": Row(script=streams(HI * MANY + STOP + DONE), unary=text("Hi" * MANY)),
    "57 a burst of chunks": Row(script=streams(*[HI] * 1000, STOP, DONE), unary=text("Hi" * 1000)),
}

BREAKS = {  # after the caller has read what came before
    "39 reset in an event": (resets, CUT_OFF),
    "39 closed in an event": (closes, CUT_OFF),
    "39 half closed in an event": (half_closes, CUT_OFF),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ROWS)
async def test_a_fault_in_the_stream(case, mode, targets):
    await check(ROWS[case], mode, targets)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", BREAKS)
async def test_a_connection_that_breaks_in_the_middle(case, mode, targets):
    then, outcome = BREAKS[case]
    fault = after(b'" yo', when_read(then) if mode == "stream" else then)
    row = Row(script=streams(HI, YOU, STOP, DONE), fault=fault, unary=UNREACHABLE, stream=outcome)
    await check(row, mode, targets)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", [resets, closes, half_closes], ids=lambda then: then.__name__)
async def test_39_a_unary_answer_cut_in_its_body(then, mode):
    """For a streamed request too, as some hosts answer it with one JSON body."""

    async def whole(call: Call) -> None:
        body = completion("Hi you")
        await call.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        await call.write(body)

    await check(Row(script=whole, fault=after(b'"Hi yo', then), unary=UNREACHABLE), mode, "two targets")


@pytest.mark.parametrize(
    ("usages", "usage"),
    [
        ([], None),
        ([USAGE, USAGE], USAGE),
        ([{"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}, USAGE], USAGE),
        ([{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 99}], USAGE | {"total_tokens": 99}),
        ([{"prompt_tokens": -3, "completion_tokens": "two"}], dict.fromkeys(USAGE, 0)),
    ],
    ids=["missing", "twice", "growing", "wrong sum", "nonsense"],
)
async def test_52_usage_that_is_missing_twice_or_wrong(usages, usage):
    """The usage is sent once, at the end, or not at all; with the values that the host sent, but as numbers."""
    async with running_stage() as stage:
        stage.first.play(streams(HI, STOP, *(event(chunk(choices=[], usage=each)) for each in usages), DONE))
        async with stage.without_leaks():
            received = await stage.ask("stream", stream_options={"include_usage": True})
    payloads = [json.loads(block[6:]) for block in received.body.split(b"\n\n")[:-2]]
    shown = [payload["usage"] for payload in payloads if payload["usage"] is not None]
    assert [{name: each[name] for name in USAGE} for each in shown] == ([] if usage is None else [usage])
    assert received.body.count(b"[DONE]") == 1
    assert received.counted == 1


@pytest.mark.parametrize("mode", MODES)
async def test_53_arguments_cut_by_the_connection(mode):
    """The beginning of the call has left for the caller, so the missing end is an error in band."""
    is_stream = mode == "stream"
    async with running_stage(targets=2) as stage:
        stage.first.play(begins(CALL))
        stage.second.play(streams(*WELL))
        async with stage.without_leaks():
            received = await stage.ask(mode)
    assert received.outcome == (UNFINISHED if is_stream else HI_YOU)
    assert len(stage.second.calls) == (not is_stream)
    assert received.counted == 1


async def test_58_an_upstream_slower_than_the_callers_timeout():
    """Comments are sent until the answer begins; then the answer is sent as usual."""

    async def thinks(call: Call) -> None:
        await call.go.wait()
        await streams(*WELL)(call)

    async with running_stage(server={"comment_every_s": 0.02}) as stage, aiohttp.ClientSession() as session:
        stage.first.play(thinks)
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with session.post(f"{stage.url}/v1/chat/completions", json=body) as answer:
            received = await answer.content.readline()
            (await stage.first.next_call()).go.set()
            received += await answer.content.read()
    assert received.startswith(b": keep-alive\n\n")
    assert received.count(b"[DONE]") == 1


async def test_58_latency_on_every_piece():
    await check(Row(script=streams(*WELL), fault=delays(0.02), unary=HI_YOU), "stream", "one target")
