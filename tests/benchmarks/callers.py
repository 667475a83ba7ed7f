"""Callers of our own, for what wrk cannot tell: time to first token, gaps between chunks, whole streams only.

They are sans parsing: a chunk is counted by its `data: `, an answer ends where the chunked body ends. Running them
takes CPU of the same machine, some 5 to 10 µs a chunk.
"""

import asyncio
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import cast

import uvloop

_END = b"\r\n0\r\n\r\n"
_TOKEN = b'" token"'  # of the mock
_LIMIT_S = 120.0


def ask(port: int, body: str, key: str) -> tuple[int, bytes]:
    """One request on a connection of its own; blocks until the answer is whole: its status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
    try:
        connection.request("POST", "/v1/chat/completions", body=body, headers=_headers(key))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def latencies_s(port: int, bodies: list[str], key: str, rounds: int) -> list[list[float]]:
    """Seconds for each answer, one request at a time on one connection, the bodies in turn; a list for each body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
    taken: list[list[float]] = [[] for _ in bodies]
    for _ in range(rounds):
        for body, times in zip(bodies, taken, strict=True):
            begun_s = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", body=body, headers=_headers(key))
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - begun_s)
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")
    connection.close()
    return taken


@dataclass
class Heard:
    """What a crowd of callers saw; times in seconds.

    `gaps_s` holds for each stream its longest silence between two reads, `failures` counts answers that were not
    200 or broke off.
    """

    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    chunks: int = 0
    streams: int = 0
    failures: int = 0


def crowd(port: int, body: str, key: str, *, callers: int, streams: int, spread_s: float = 0.0) -> Heard:
    """Let `callers` ask for `streams` answers each, one after the other on one connection, starting over `spread_s`.

    Blocks until all are through, or for 120 seconds: what is missing then counts as failed.
    """
    return uvloop.run(hear(port, body, key, callers=callers, streams=streams, spread_s=spread_s))


async def hear(port: int, body: str, key: str, *, callers: int, streams: int, spread_s: float = 0.0) -> Heard:
    """As `crowd`, inside a running loop."""
    loop = asyncio.get_running_loop()
    heard, request = Heard(), _request(port, body, key)

    async def call(number: int) -> None:
        await asyncio.sleep(spread_s * number / callers)
        over = loop.create_future()
        transport, _ = await loop.create_connection(
            lambda: _Caller(request, streams, heard, over), host="127.0.0.1", port=port
        )
        try:
            await over
        finally:
            transport.close()

    tasks = [asyncio.create_task(call(number)) for number in range(callers)]
    _, unfinished = await asyncio.wait(tasks, timeout=_LIMIT_S)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    heard.failures = callers * streams - heard.streams
    return heard


class _Caller(asyncio.Protocol):
    """One connection; asks again as soon as an answer has ended."""

    def __init__(self, request: bytes, streams: int, heard: Heard, over: "asyncio.Future[None]") -> None:
        self._request = request
        self._left = streams
        self._heard = heard
        self._over = over
        self._tail = b""
        self._has_token = False
        self._asked_s = self._last_s = self._gap_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is no subclass
        self._ask()

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if not self._last_s:
            self._begin(data)
        elif now_s - self._last_s > self._gap_s:
            self._gap_s = now_s - self._last_s
        if not self._has_token and _TOKEN in data:  # a role alone is none, and Tidegate holds it back until one comes
            self._has_token = True
            self._heard.first_s.append(now_s - self._asked_s)
        if self._last_s or b"data: " in data:
            self._last_s = now_s
        self._heard.chunks += data.count(b"data: {")
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END:
            self._end()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._last_s = self._gap_s = 0.0
        self._has_token = False
        self._transport.write(self._request)

    def _begin(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            self._transport.abort()

    def _end(self) -> None:
        self._heard.streams += 1
        self._heard.gaps_s.append(self._gap_s)
        self._left -= 1
        if self._left:
            self._ask()
        elif not self._over.done():
            self._over.set_result(None)


def _headers(key: str) -> dict[str, str]:
    return {"content-type": "application/json", "authorization": f"Bearer {key}"}


def _request(port: int, body: str, key: str) -> bytes:
    headers = "".join(f"{name}: {value}\r\n" for name, value in _headers(key).items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{headers}content-length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()
