"""Faults in the head of an answer: 23 to 36 of the reference's list (capabilities 6.5)."""

import gzip

import pytest

from tests.fakes.fault_proxy import after, at_end, closes, half_closes, stalls
from tests.fakes.fault_stage import (
    FAILED,
    MODES,
    SILENT,
    TARGETS,
    UNREACHABLE,
    Refused,
    Row,
    check,
    check_at,
    stage,
    text,
)
from tests.fakes.upstream import SSE_HEAD, Call, Script, answers, streams
from tests.fakes.wire import completion, text_stream

JSON = completion("Hi you")
SSE = b"".join(text_stream("Hi", " you"))
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
PLAIN_SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def says(*pieces: bytes) -> Script:
    """Exactly these bytes; then the connection is closed."""

    async def script(call: Call) -> None:
        for piece in pieces:
            await call.write(piece)
        call.writer.close()

    return script


def by_mode(unary: Script, stream: Script) -> Script:
    """One for each kind of request."""

    async def script(call: Call) -> None:
        await (stream if b'"stream":true' in call.body.replace(b" ", b"") else unary)(call)

    return script


def sized(by: int) -> Script:
    """A Content-Length that is wrong by so many bytes; then the connection is closed."""
    length = b"content-length: %d\r\n\r\n"
    return by_mode(
        says(JSON_HEAD + length % (len(JSON) + by) + JSON), says(PLAIN_SSE_HEAD + length % (len(SSE) + by) + SSE)
    )


def chunked(*after_head: bytes) -> Script:
    """A chunked answer whose chunks are written as they stand here; `JSON` and `SSE` are what they hold."""
    head = b"transfer-encoding: chunked\r\n\r\n"
    whole = [b"%x\r\n%b\r\n" % (len(body), body) for body in (JSON, SSE)]
    unary, stream = ([head, chunk, *after_head] for chunk in whole)
    return by_mode(says(JSON_HEAD, *unary), says(PLAIN_SSE_HEAD, *stream))


async def floods_with_1xx(call: Call) -> None:
    """For ever."""
    while not call.gone.is_set():
        await call.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 100)


async def in_bytes(call: Call) -> None:
    """Chunks of one byte, each in a write of its own."""
    is_stream = b'"stream":true' in call.body.replace(b" ", b"")
    body = SSE if is_stream else JSON
    await call.write((PLAIN_SSE_HEAD if is_stream else JSON_HEAD) + b"transfer-encoding: chunked\r\n\r\n")
    for byte in body:
        await call.chunk(bytes([byte]))
    await call.end()


WELL = by_mode(answers(JSON), streams(SSE))
ERROR = b'{"error": {"message": "busy", "type": "server_error", "code": null}}'
GZIP = b"content-encoding: gzip\r\n"

BEGINNING = ("first_byte", "answer")  # what a stream and what a unary answer has

ROWS = {
    "23 no status line": Row(plays=says(b"content-type: application/json\r\n\r\n" + JSON), unary=UNREACHABLE),
    "23 closed without a byte": Row(plays=says(), unary=UNREACHABLE),
    "24 garbage": Row(plays=says(b"\x00\xff\x16\x03\x01 garbage\r\n\r\n"), unary=UNREACHABLE),
    "24 garbage among the headers": Row(plays=says(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n" + JSON), unary=UNREACHABLE),
    "25 some 1xx": Row(
        plays=by_mode(
            says(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + JSON_HEAD + b"\r\n" + JSON),
            says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + PLAIN_SSE_HEAD + b"\r\n" + SSE),
        ),
        unary=text("Hi you"),
    ),
    "25 a flood of 1xx": Row(plays=floods_with_1xx, unary=SILENT, short=BEGINNING),
    "26 a header over the limit": Row(plays=answers(JSON, head=b"x: %b\r\n" % (b"x" * 100_000)), unary=UNREACHABLE),
    "26 headers without end": Row(plays=says(JSON_HEAD, b"x: y\r\n" * 100_000), unary=UNREACHABLE),
    "27 stalled in the status line": Row(plays=WELL, fault=after(5, stalls), unary=SILENT, short=BEGINNING),
    "27 stalled among the headers": Row(
        plays=WELL, fault=after(b"content-type:", stalls), unary=SILENT, short=BEGINNING
    ),
    "28 HTML page": Row(plays=answers(b"<html>Down for repairs</html>", content_type="text/html"), unary=FAILED),
    "28 HTML page said to be JSON": Row(plays=answers(b"<html>Down for repairs</html>"), unary=FAILED),
    "29 JSON error": Row(plays=answers(ERROR), unary=FAILED),
    "29 JSON error of the caller's": Row(
        plays=answers(b'{"error": {"message": "no", "type": "invalid_request_error", "code": 400}}'),
        unary=Refused(400, None, tries_another=False),
    ),
    "29 JSON error said to be a stream": Row(plays=answers(ERROR, content_type="text/event-stream"), unary=FAILED),
    "30 text/plain": Row(
        plays=by_mode(answers(JSON, content_type="text/plain"), answers(SSE, content_type="text/plain")),
        unary=text("Hi you"),
    ),
    "30 no content type": Row(
        plays=by_mode(says(b"HTTP/1.1 200 OK\r\n\r\n" + JSON), says(b"HTTP/1.1 200 OK\r\n\r\n" + SSE)),
        unary=text("Hi you"),
    ),
    "30 events said to be JSON": Row(plays=answers(SSE), unary=text("Hi you")),
    "32 gzip": Row(
        plays=by_mode(
            answers(gzip.compress(JSON), head=GZIP),
            answers(gzip.compress(SSE), head=GZIP, content_type="text/event-stream"),
        ),
        unary=text("Hi you"),
    ),
    "32 gzip that is none": Row(
        plays=by_mode(answers(JSON, head=GZIP), answers(SSE, head=GZIP, content_type="text/event-stream")),
        unary=text("Hi you"),
    ),
    "32 gzip that is not said": Row(
        plays=by_mode(answers(gzip.compress(JSON)), answers(gzip.compress(SSE), content_type="text/event-stream")),
        unary=text("Hi you"),
    ),
    "33 no length, ended by closing": Row(
        plays=by_mode(says(JSON_HEAD + b"\r\n" + JSON), says(PLAIN_SSE_HEAD + b"\r\n" + SSE)), unary=text("Hi you")
    ),
    "33 no length, ended by half a close": Row(
        plays=by_mode(says(JSON_HEAD + b"\r\n" + JSON), says(PLAIN_SSE_HEAD + b"\r\n" + SSE)),
        fault=at_end(half_closes),
        unary=text("Hi you"),
    ),
    "34 a length over the body": Row(plays=sized(7), unary=UNREACHABLE, stream=text("Hi you")),
    "35 a length under the body": Row(plays=sized(-7), unary=UNREACHABLE),
    "35 a length far under the body": Row(plays=sized(-len(JSON) // 2), unary=UNREACHABLE),
    "36 a bad chunk size": Row(plays=says(SSE_HEAD, b"zz\r\n" + SSE + b"\r\n"), unary=UNREACHABLE),
    "36 a chunk shorter than said": Row(plays=WELL, fault=after(b'{"id"', closes), unary=UNREACHABLE),
    "36 no last chunk": Row(plays=chunked(), unary=UNREACHABLE, stream=text("Hi you")),
    "36 a trailer": Row(plays=chunked(b"0\r\nx-sum: 1\r\n\r\n"), unary=text("Hi you")),
    "36 chunks of one byte": Row(plays=in_bytes, unary=text("Hi you")),
}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ROWS)
async def test_a_fault_in_the_head(case, mode, targets):
    await check(ROWS[case], mode, targets)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("mode", MODES)
async def test_31_a_redirect_is_not_followed(mode, status):
    """It may lead our key, and the prompt, elsewhere."""
    async with stage() as made:
        location = b"location: %b/chat/completions\r\n" % made.second.url.encode()
        made.first.play(answers(b"", status=status, head=location))
        await check_at(made, FAILED, mode)
    assert made.second.connections == 0
