"""Callers for what wrk cannot measure: time to first token, gaps between chunks, whole streams only.

They do not parse answers: a chunk is counted by its `data: `, an answer ends where the chunked body ends. They run on
the same machine, and take some 5 to 10 µs of CPU for each chunk.
"""

import asyncio
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import cast

import uvloop

_END = b"\r\n0\r\n\r\n"
_TOKEN = b'" token"'  # the text that the mock sends
_LIMIT_S = 120.0


def send_request(port: int, body: str, key: str) -> tuple[int, bytes]:
    """Send a request on a new connection; blocks until the whole answer is here, and returns its status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
    try:
        connection.request("POST", "/v1/chat/completions", body=body, headers=_headers(key))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def latencies_s(port: int, bodies: list[str], key: str, rounds: int) -> list[list[float]]:
    """The durations of answers, in seconds, as one list for each of `bodies`.

    One request at a time is sent on one connection, with the bodies in turn, `rounds` times each.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=_LIMIT_S)
    times_by_body: list[list[float]] = [[] for _ in bodies]
    for _ in range(rounds):
        for body, times in zip(bodies, times_by_body, strict=True):
            begun_s = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", body=body, headers=_headers(key))
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - begun_s)
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")
    connection.close()
    return times_by_body


@dataclass
class StreamStats:
    """What all callers of one run measured; times in seconds.

    Attributes:
        first_s: for each stream, the time to its first token.
        gaps_s: for each stream, the longest gap between two reads.
        chunks: the number of chunks.
        streams: the number of whole streams.
        failures: the number of answers that were not 200 or broke off.
    """

    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    chunks: int = 0
    streams: int = 0
    failures: int = 0


def run_callers(port: int, body: str, key: str, *, callers: int, streams: int, spread_s: float = 0.0) -> StreamStats:
    """Run `callers` callers at once; each requests `streams` answers, one after the other on one connection.

    The callers start spread over `spread_s` seconds. Blocks until all answers have ended, at most 120 seconds; answers
    that are missing then count as failures.
    """
    return uvloop.run(measure_streams(port, body, key, callers=callers, streams=streams, spread_s=spread_s))


async def measure_streams(
    port: int, body: str, key: str, *, callers: int, streams: int, spread_s: float = 0.0
) -> StreamStats:
    """The same as `run_callers`, but in the running event loop."""
    loop = asyncio.get_running_loop()
    stats, request = StreamStats(), _request(port, body, key)

    async def call(number: int) -> None:
        await asyncio.sleep(spread_s * number / callers)
        done = loop.create_future()
        transport, _ = await loop.create_connection(
            lambda: _Caller(request, streams, stats, done), host="127.0.0.1", port=port
        )
        try:
            await done
        finally:
            transport.close()

    tasks = [asyncio.create_task(call(number)) for number in range(callers)]
    _, unfinished = await asyncio.wait(tasks, timeout=_LIMIT_S)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    stats.failures = callers * streams - stats.streams
    return stats


class _Caller(asyncio.Protocol):
    """One connection; sends the next request as soon as an answer has ended."""

    def __init__(self, request: bytes, streams: int, stats: StreamStats, done: "asyncio.Future[None]") -> None:
        self._request = request
        self._remaining = streams
        self._stats = stats
        self._done = done
        self._tail = b""
        self._has_token = False
        self._sent_s = self._last_s = self._gap_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass of it
        self._send_request()

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if not self._last_s:
            self._begin(data)
        elif now_s - self._last_s > self._gap_s:
            self._gap_s = now_s - self._last_s
        # a chunk with the role alone does not count; Tidegate holds it back until the first token
        if not self._has_token and _TOKEN in data:
            self._has_token = True
            self._stats.first_s.append(now_s - self._sent_s)
        if self._last_s or b"data: " in data:
            self._last_s = now_s
        self._stats.chunks += data.count(b"data: {")
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END:
            self._end()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _send_request(self) -> None:
        self._sent_s = time.perf_counter()
        self._last_s = self._gap_s = 0.0
        self._has_token = False
        self._transport.write(self._request)

    def _begin(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            self._transport.abort()

    def _end(self) -> None:
        self._stats.streams += 1
        self._stats.gaps_s.append(self._gap_s)
        self._remaining -= 1
        if self._remaining:
            self._send_request()
        elif not self._done.done():
            self._done.set_result(None)


def _headers(key: str) -> dict[str, str]:
    return {"content-type": "application/json", "authorization": f"Bearer {key}"}


def _request(port: int, body: str, key: str) -> bytes:
    headers = "".join(f"{name}: {value}\r\n" for name, value in _headers(key).items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{headers}content-length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()
