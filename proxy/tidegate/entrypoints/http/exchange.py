"""`Exchange`: one HTTP request and its answer, over ASGI."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tidegate.clock import Clock
from tidegate.deadline import Deadline
from tidegate.entrypoints.credentials import read_credentials
from tidegate.errors import (
    ClientGone,
    MethodNotAllowed,
    ProxyError,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.protocol import errors

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

_VALID_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_JSON = (b"content-type", b"application/json")
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_MAX_NAME_CHARS = 256
_SECONDS = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,6})?")
_NO_CACHE = (b"x-tidegate-cache", b"none")
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers the events
]


class Exchange:
    """Reads one request and writes its answer; owned by the task that serves the request.

    Attributes:
        context: the request's context; its id is the answer's `x-request-id`.
        credentials: the caller's key and address, from the headers.
        has_started: whether the head of the answer has been sent.
        headers: the request headers; the values of a repeated header are joined.
        method: the HTTP method.
        receive: the ASGI `receive`.
    """

    __slots__ = ("_allowed", "_id", "_send", "context", "credentials", "has_started", "headers", "method", "receive")

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, endpoint: str, clock: Clock) -> None:
        self.headers = _by_name(scope["headers"])
        self.method: str = scope["method"]
        self.receive = receive
        self._send = send
        self._id = _request_id(self.headers.get(b"x-request-id"))
        self.credentials = read_credentials(self.headers, scope.get("client"))
        self.context = RequestContext(
            self._id.decode(),
            endpoint,
            clock,
            caller_retries=_count(self.headers.get(b"x-stainless-retry-count")),
            caller_timeout_s=_caller_timeout_s(self.headers),
        )
        self.has_started = False
        self._allowed: tuple[str, ...] = ()

    def allow(self, *methods: str) -> None:
        """Check that the method is one of `methods`.

        Raises:
            MethodNotAllowed: it is not.
        """
        self._allowed = methods
        if self.method not in methods:
            raise MethodNotAllowed(
                f"Not allowed to {self.method} here. (HINT: Perhaps you meant to make a {methods[0]} request?)"
            )

    async def read_json(self, *, max_bytes: int, deadline: Deadline) -> bytes:
        """The body, which must be declared to be JSON.

        A web page in a browser can send a body of any other or no declared type to a server on this machine without a
        preflight request, so a body without a declaration is refused too.

        Raises:
            UnsupportedMediaType: the body is declared to be of another type, or of none.
            RequestTooLarge: the body is over `max_bytes`; if its length is declared, it is refused unread.
            RequestTimeout: the body did not arrive within the deadline.
            ClientGone: the caller disconnected before the end of the body.
        """
        declared = self.headers.get(b"content-type", b"")
        if declared.partition(b";")[0].strip().lower() != b"application/json":
            shown = declared.decode("latin-1")[:100]
            raise UnsupportedMediaType(f"Unsupported content type: '{shown}'. Send 'Content-Type: application/json'.")
        length = _count(self.headers.get(b"content-length"))
        if length > max_bytes:
            raise _too_large(max_bytes)
        deadline.start()
        try:
            return await self._read_body(max_bytes, length)
        except asyncio.CancelledError:
            if deadline.has_expired():
                raise RequestTimeout(f"The body did not arrive within {deadline.limit_s:g} s.") from None
            raise
        finally:
            deadline.stop()

    async def send_json(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """Send a whole answer."""
        own_headers = [_JSON, (b"content-length", b"%d" % len(body)), *headers]
        await self._start(status, own_headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_error(self, error: ProxyError) -> None:
        """Send a whole answer that reports `error`."""
        headers = errors.to_headers(error)
        if error.status == 405:
            headers.append((b"allow", ", ".join(self._allowed).encode()))
        if error.status in {401, 403, 405, 408, 413, 415}:
            headers.append((b"connection", b"close"))  # otherwise an unread body would be parsed as the next request
        await self.send_json(error.status, errors.to_json(error, self.context.id), headers)

    async def send_text(self, body: bytes, content_type: bytes) -> None:
        """Send a whole answer of another type than JSON."""
        await self._start(200, [(b"content-type", content_type), (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start_stream(self) -> None:
        """Send the head of a streamed answer."""
        await self._start(200, _STREAM)

    async def send_chunk(self, chunk: bytes) -> None:
        """Send a part of a streamed answer; waits while the caller does not read."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end_stream(self, chunk: bytes) -> None:
        """Send the last part of a streamed answer, and end it."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        self.context.has_sent_status = status == 200
        all_headers = [*headers, (b"x-request-id", self._id)]
        record = self.context.record
        if record.upstream:
            all_headers += self._attempt_headers(record)
        if record.adjusted and status == 200:
            all_headers.append((b"x-tidegate-adjusted", ", ".join(record.adjusted).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    def _attempt_headers(self, record: AttemptRecord) -> list[tuple[bytes, bytes]]:
        """The headers with the target that answered, the number of attempts, and the time that Tidegate added.

        The added time ends when the first attempt is sent. There is no cache, so `x-tidegate-cache` is always `none`.
        """
        context = self.context
        overhead_s = max(0.0, (context.first_sent_s or record.sent_s) - context.received_s) if record.sent_s else 0.0
        return [
            (b"x-tidegate-target", _header_value(record.name)),
            (b"x-tidegate-attempts", b"%d" % context.attempts),
            (b"x-tidegate-overhead-ms", b"%.3f" % (overhead_s * 1000)),
            _NO_CACHE,
        ]

    async def _read_body(self, max_bytes: int, length: int) -> bytes:
        chunks: list[bytes] = []
        size, has_more = 0, True
        while has_more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The caller disconnected while sending the body.")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > max_bytes:
                raise _too_large(max_bytes)
            # granian reports the end of the body in a separate message; all declared bytes are here, so do not wait
            has_more = message.get("more_body", False) and not 0 < length <= size
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; repeated ones are joined (RFC 9110, 5.3), so no `x-tidegate-reach` can hide another."""
    found = dict(headers)
    if len(found) != len(headers):
        found.clear()
        for name, value in headers:
            found[name] = b"%b, %b" % (found[name], value) if name in found else value
    return found


@lru_cache(maxsize=1024)
def _header_value(name: str) -> bytes:
    """A target's name as a safe header value: a part of the name may come from the caller."""
    return _NOT_PRINTABLE.sub("?", name[:_MAX_NAME_CHARS]).encode()


def _caller_timeout_s(headers: Mapping[bytes, bytes]) -> float:
    """How many seconds the caller's SDK waits (openai-python and openai-node send that); 0 if unknown."""
    seconds = headers.get(b"x-stainless-read-timeout") or headers.get(b"x-stainless-timeout")
    return float(seconds) if seconds is not None and _SECONDS.fullmatch(seconds) else 0.0


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is over the limit of {max_bytes} bytes.")


def _request_id(given: bytes | None) -> bytes:
    if given is not None and _VALID_ID.fullmatch(given):
        return given
    return b"req_%032x" % random.getrandbits(128)


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 16 else 0
