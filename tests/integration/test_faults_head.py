"""Faults in the head of an answer: numbers 23 to 36 of the list of faults (capabilities 6.5)."""

import gzip

import pytest

from tests.fakes.fault_proxy import after, at_end, closes, half_closes, stalls
from tests.fakes.fault_stage import (
    FAILED,
    MODES,
    TARGETS,
    TIMED_OUT,
    UNREACHABLE,
    ErrorAnswer,
    Row,
    check,
    check_on_stage,
    running_stage,
    text,
)
from tests.fakes.upstream import SSE_HEAD, Call, Script, answers, streams
from tests.fakes.wire import completion, text_stream

JSON = completion("Hi you")
SSE = b"".join(text_stream("Hi", " you"))
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
PLAIN_SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def says(*pieces: bytes) -> Script:
    """Send exactly these bytes; then close the connection."""

    async def script(call: Call) -> None:
        for piece in pieces:
            await call.write(piece)
        call.writer.close()

    return script


def by_mode(unary: Script, stream: Script) -> Script:
    """Use one script for unary requests and one for streamed requests."""

    async def script(call: Call) -> None:
        await (stream if b'"stream":true' in call.body.replace(b" ", b"") else unary)(call)

    return script


def sized(by: int) -> Script:
    """Send a Content-Length that is wrong by so many bytes; then close the connection."""
    length = b"content-length: %d\r\n\r\n"
    return by_mode(
        says(JSON_HEAD + length % (len(JSON) + by) + JSON), says(PLAIN_SSE_HEAD + length % (len(SSE) + by) + SSE)
    )


def chunked(*after_head: bytes) -> Script:
    """Send a chunked answer: one chunk that holds `JSON` or `SSE`, then these bytes as they are."""
    head = b"transfer-encoding: chunked\r\n\r\n"
    whole = [b"%x\r\n%b\r\n" % (len(body), body) for body in (JSON, SSE)]
    unary, stream = ([head, chunk, *after_head] for chunk in whole)
    return by_mode(says(JSON_HEAD, *unary), says(PLAIN_SSE_HEAD, *stream))


async def floods_with_1xx(call: Call) -> None:
    """Send interim responses until the caller disconnects."""
    while not call.gone.is_set():
        await call.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 100)


async def in_bytes(call: Call) -> None:
    """Send chunks of one byte, each in a write of its own."""
    is_stream = b'"stream":true' in call.body.replace(b" ", b"")
    body = SSE if is_stream else JSON
    await call.write((PLAIN_SSE_HEAD if is_stream else JSON_HEAD) + b"transfer-encoding: chunked\r\n\r\n")
    for byte in body:
        await call.chunk(bytes([byte]))
    await call.end()


WELL = by_mode(answers(JSON), streams(SSE))
ERROR = b'{"error": {"message": "busy", "type": "server_error", "code": null}}'
GZIP = b"content-encoding: gzip\r\n"

BEGINNING = ("first_byte", "answer")  # the timeouts for the beginning of a streamed and of a unary answer

ROWS = {
    "23 no status line": Row(script=says(b"content-type: application/json\r\n\r\n" + JSON), unary=UNREACHABLE),
    "23 closed without a byte": Row(script=says(), unary=UNREACHABLE),
    "24 garbage": Row(script=says(b"\x00\xff\x16\x03\x01 garbage\r\n\r\n"), unary=UNREACHABLE),
    "24 garbage among the headers": Row(script=says(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n" + JSON), unary=UNREACHABLE),
    "25 some 1xx": Row(
        script=by_mode(
            says(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + JSON_HEAD + b"\r\n" + JSON),
            says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + PLAIN_SSE_HEAD + b"\r\n" + SSE),
        ),
        unary=text("Hi you"),
    ),
    "25 a flood of 1xx": Row(script=floods_with_1xx, unary=TIMED_OUT, short_timeouts=BEGINNING),
    "26 a header over the limit": Row(script=answers(JSON, head=b"x: %b\r\n" % (b"x" * 100_000)), unary=UNREACHABLE),
    "26 headers without end": Row(script=says(JSON_HEAD, b"x: y\r\n" * 100_000), unary=UNREACHABLE),
    "27 stalled in the status line": Row(
        script=WELL, fault=after(5, stalls), unary=TIMED_OUT, short_timeouts=BEGINNING
    ),
    "27 stalled among the headers": Row(
        script=WELL, fault=after(b"content-type:", stalls), unary=TIMED_OUT, short_timeouts=BEGINNING
    ),
    "28 HTML page": Row(script=answers(b"<html>Down for repairs</html>", content_type="text/html"), unary=FAILED),
    "28 HTML page declared as JSON": Row(script=answers(b"<html>Down for repairs</html>"), unary=FAILED),
    "29 JSON error": Row(script=answers(ERROR), unary=FAILED),
    "29 JSON error that is the caller's fault": Row(
        script=answers(b'{"error": {"message": "no", "type": "invalid_request_error", "code": 400}}'),
        unary=ErrorAnswer(400, None, tries_another=False),
    ),
    "29 JSON error declared as a stream": Row(script=answers(ERROR, content_type="text/event-stream"), unary=FAILED),
    "30 text/plain": Row(
        script=by_mode(answers(JSON, content_type="text/plain"), answers(SSE, content_type="text/plain")),
        unary=text("Hi you"),
    ),
    "30 no content type": Row(
        script=by_mode(says(b"HTTP/1.1 200 OK\r\n\r\n" + JSON), says(b"HTTP/1.1 200 OK\r\n\r\n" + SSE)),
        unary=text("Hi you"),
    ),
    "30 events declared as JSON": Row(script=answers(SSE), unary=text("Hi you")),
    "32 gzip": Row(
        script=by_mode(
            answers(gzip.compress(JSON), head=GZIP),
            answers(gzip.compress(SSE), head=GZIP, content_type="text/event-stream"),
        ),
        unary=text("Hi you"),
    ),
    "32 gzip that is none": Row(
        script=by_mode(answers(JSON, head=GZIP), answers(SSE, head=GZIP, content_type="text/event-stream")),
        unary=text("Hi you"),
    ),
    "32 gzip that is not declared": Row(
        script=by_mode(answers(gzip.compress(JSON)), answers(gzip.compress(SSE), content_type="text/event-stream")),
        unary=text("Hi you"),
    ),
    "33 no length, ended by closing": Row(
        script=by_mode(says(JSON_HEAD + b"\r\n" + JSON), says(PLAIN_SSE_HEAD + b"\r\n" + SSE)), unary=text("Hi you")
    ),
    "33 no length, ended by half a close": Row(
        script=by_mode(says(JSON_HEAD + b"\r\n" + JSON), says(PLAIN_SSE_HEAD + b"\r\n" + SSE)),
        fault=at_end(half_closes),
        unary=text("Hi you"),
    ),
    "34 a length over the body": Row(script=sized(7), unary=UNREACHABLE, stream=text("Hi you")),
    "35 a length under the body": Row(script=sized(-7), unary=UNREACHABLE),
    "35 a length far under the body": Row(script=sized(-len(JSON) // 2), unary=UNREACHABLE),
    "36 a bad chunk size": Row(script=says(SSE_HEAD, b"zz\r\n" + SSE + b"\r\n"), unary=UNREACHABLE),
    "36 a chunk shorter than declared": Row(script=WELL, fault=after(b'{"id"', closes), unary=UNREACHABLE),
    "36 no last chunk": Row(script=chunked(), unary=UNREACHABLE, stream=text("Hi you")),
    "36 a trailer": Row(script=chunked(b"0\r\nx-sum: 1\r\n\r\n"), unary=text("Hi you")),
    "36 chunks of one byte": Row(script=in_bytes, unary=text("Hi you")),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ROWS)
async def test_a_fault_in_the_head(case, mode, targets):
    await check(ROWS[case], mode, targets)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("mode", MODES)
async def test_31_a_redirect_is_not_followed(mode, status):
    """A redirect could send the key and the prompt to another host."""
    async with running_stage() as stage:
        location = b"location: %b/chat/completions\r\n" % stage.second.url.encode()
        stage.first.play(answers(b"", status=status, head=location))
        await check_on_stage(stage, FAILED, mode)
    assert stage.second.connections == 0
