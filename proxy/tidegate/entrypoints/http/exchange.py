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

_GOOD_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_JSON = (b"content-type", b"application/json")
_NOT_SHOWN = re.compile(r"[^\x21-\x7e]")
_MAX_NAME = 256
_SECONDS = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,6})?")
_NO_CACHE = (b"x-tidegate-cache", b"none")
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


class Exchange:
    """Reads the request, writes the answer; owned by the task that serves it."""

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
            patience_s=_patience_s(self.headers),
        )
        self.has_started = False
        self._allowed: tuple[str, ...] = ()

    def allow(self, *methods: str) -> None:
        """Go on if the method is one of `methods`.

        Raises:
            MethodNotAllowed: it is not.
        """
        self._allowed = methods
        if self.method not in methods:
            raise MethodNotAllowed(
                f"Not allowed to {self.method} here. (HINT: Perhaps you meant to make a {methods[0]} request?)"
            )

    async def read_json(self, *, max_bytes: int, deadline: Deadline) -> bytes:
        """The body, declared to be JSON.

        A browser may send anything but JSON to a server on this machine without asking first, so a missing
        declaration is refused too.

        Raises:
            UnsupportedMediaType: it is declared to be something else, or nothing.
            RequestTooLarge: it is over `max_bytes`; refused unread where its length is declared.
            RequestTimeout: it did not arrive within the deadline.
            ClientGone: the caller left in the middle.
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
        """A whole answer."""
        own = [_JSON, (b"content-length", b"%d" % len(body)), *headers]
        await self._start(status, own)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_error(self, error: ProxyError) -> None:
        """A whole answer that says what went wrong."""
        headers = errors.to_headers(error)
        if error.status == 405:
            headers.append((b"allow", ", ".join(self._allowed).encode()))
        if error.status in {401, 403, 405, 408, 413, 415}:
            headers.append((b"connection", b"close"))  # an unread body would be taken for the next request
        await self.send_json(error.status, errors.to_json(error, self.context.id), headers)

    async def send_text(self, body: bytes, content_type: bytes) -> None:
        """A whole answer that is not JSON."""
        await self._start(200, [(b"content-type", content_type), (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start_stream(self) -> None:
        """The head of a streamed answer."""
        await self._start(200, _STREAM)

    async def send_piece(self, piece: bytes) -> None:
        """A piece of a streamed answer; waits while the caller does not read."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end_stream(self, piece: bytes) -> None:
        """The last piece of a streamed answer, and its end."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        self.context.has_begun = status == 200
        all_headers = [*headers, (b"x-request-id", self._id)]
        record = self.context.record
        if record.upstream:
            all_headers += self._told(record)
        if record.adjusted and status == 200:
            all_headers.append((b"x-tidegate-adjusted", ", ".join(record.adjusted).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})

    def _told(self, record: AttemptRecord) -> list[tuple[bytes, bytes]]:
        """Who answered, at which try, what we added before the first one was sent; no answer comes from a cache."""
        context = self.context
        overhead_s = max(0.0, (context.first_sent_s or record.sent_s) - context.received_s) if record.sent_s else 0.0
        return [
            (b"x-tidegate-target", _shown(record.name)),
            (b"x-tidegate-attempts", b"%d" % context.attempts),
            (b"x-tidegate-overhead-ms", b"%.3f" % (overhead_s * 1000)),
            _NO_CACHE,
        ]

    async def _read_body(self, max_bytes: int, length: int) -> bytes:
        pieces: list[bytes] = []
        size, has_more = 0, True
        while has_more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The caller left while sending.")
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > max_bytes:
                raise _too_large(max_bytes)
            # granian tells of the end in a message of its own; who has counted need not wait for it
            has_more = message.get("more_body", False) and not 0 < length <= size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Those of one name as one (RFC 9110, 5.3), so that a second `x-tidegate-reach` cannot hide the first."""
    found = dict(headers)
    if len(found) != len(headers):
        found.clear()
        for name, value in headers:
            found[name] = b"%b, %b" % (found[name], value) if name in found else value
    return found


@lru_cache(maxsize=1024)
def _shown(name: str) -> bytes:
    """A target's name as it may stand in a header: parts of it may be a caller's."""
    return _NOT_SHOWN.sub("?", name[:_MAX_NAME]).encode()


def _patience_s(headers: Mapping[bytes, bytes]) -> float:
    """How long the caller's SDK waits: openai-python and openai-node say so, in seconds."""
    told = headers.get(b"x-stainless-read-timeout") or headers.get(b"x-stainless-timeout")
    return float(told) if told is not None and _SECONDS.fullmatch(told) else 0.0


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is over the limit of {max_bytes} bytes.")


def _request_id(given: bytes | None) -> bytes:
    if given is not None and _GOOD_ID.fullmatch(given):
        return given
    return b"req_%032x" % random.getrandbits(128)


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 16 else 0
