"""`FaultProxy`: a real TCP relay in front of an upstream, which does to each connection what the test says.

A `Fault` is a coroutine function of a `Passage`, one connection. Faults are made of few words: `after` relays up to a
place and hands on, `when_read` waits for the test; `stalls`, `resets`, `closes`, `half_closes`, `passes`, `drips` and
`delays` are what happens then. Two faults are no connections at all: `closed_port` and `blackhole`.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

_READ_BYTES = 64 * 1024
_LINGER_0 = struct.pack("ii", 1, 0)  # closing sends RST, and drops what was not sent yet


class Passage:
    """One connection that came in; closed by the proxy when its fault ends.

    Attributes:
        received: every byte that came in.
        go: for the test to set; `when_read` waits for it.
        gone: the one who connected has closed the connection, or broken it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream_port: int) -> None:
        self.received = bytearray()
        self.go = asyncio.Event()
        self.gone = asyncio.Event()
        self._near, self._near_writer = reader, writer
        self._upstream_port = upstream_port
        self._far: asyncio.StreamReader | None = None
        self._far_writer: asyncio.StreamWriter | None = None
        self._kept = b""
        self._heard = asyncio.Event()

    async def answer(self) -> bytes:
        """What the upstream says next, up to some KB; empty at its end. Connects to it at first."""
        if self._kept:
            data, self._kept = self._kept, b""
            return data
        if self._far is None:
            self._far, self._far_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            self._far_writer.write(bytes(self.received))
        return await self._far.read(_READ_BYTES)

    def give_back(self, data: bytes) -> None:
        """That much of the answer is for later."""
        self._kept = data + self._kept

    async def send(self, data: bytes) -> None:
        """Say it to the one who connected."""
        self._near_writer.write(data)
        await self._near_writer.drain()

    def close_sending(self) -> None:
        """FIN, while we go on reading."""
        self._near_writer.write_eof()

    def reset(self) -> None:
        """RST."""
        self._near_writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self._near_writer.transport.abort()

    async def hear(self) -> None:
        """Wait until something more has come in."""
        self._heard.clear()
        await self._heard.wait()

    async def listen(self) -> None:
        """Relay what comes in, until the one who connected goes; then the upstream's side is closed too."""
        with suppress(ConnectionError):
            while data := await self._near.read(_READ_BYTES):
                self.received += data
                self._heard.set()
                if self._far_writer is not None:
                    self._far_writer.write(data)
        self.gone.set()
        self.close()

    def close(self) -> None:
        """Both sides."""
        self._near_writer.close()
        if self._far_writer is not None:
            self._far_writer.close()


Fault = Callable[[Passage], Awaitable[None]]


class FaultProxy:
    """Gives each connection the next fault, the last one again and again; remembers the connections.

    Args:
        upstream_port: where it relays to, on loopback; 0 where no fault does.
    """

    def __init__(self, upstream_port: int = 0) -> None:
        self.passages: list[Passage] = []
        self.port = 0
        self._faults: list[Fault] = [passes]
        self._upstream_port = upstream_port
        self._tasks: set[asyncio.Task[None]] = set()

    def play(self, *faults: Fault) -> None:
        self._faults = list(faults)

    @asynccontextmanager
    async def running(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["FaultProxy"]:
        """Listen on a free port of loopback, with TLS or not; whatever is open at the end is closed."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        passage = Passage(reader, writer, self._upstream_port)
        self.passages.append(passage)
        fault = self._faults.pop(0) if len(self._faults) > 1 else self._faults[0]
        listening = asyncio.create_task(passage.listen())
        try:
            with suppress(ConnectionError):
                await fault(passage)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            passage.close()
            self._tasks.discard(task)


# --- what happens -------------------------------------------------------------------------------------------------


async def passes(passage: Passage) -> None:
    """The upstream's answers, as they come."""
    while data := await passage.answer():
        await passage.send(data)


async def drips(passage: Passage) -> None:
    """Byte by byte, each of them a packet."""
    while data := await passage.answer():
        for byte in data:
            await passage.send(bytes([byte]))
            await asyncio.sleep(0)  # let it be read


def delays(latency_s: float) -> Fault:
    """Each piece comes so much later."""

    async def fault(passage: Passage) -> None:
        while data := await passage.answer():
            await asyncio.sleep(latency_s)
            await passage.send(data)

    return fault


async def stalls(passage: Passage) -> None:
    """Nothing more, until the other side gives up."""
    await passage.gone.wait()


async def resets(passage: Passage) -> None:
    """RST."""
    passage.reset()


async def closes(passage: Passage) -> None:
    """FIN, and the connection is closed."""
    passage.close()


async def half_closes(passage: Passage) -> None:
    """FIN, but we go on reading, and keep the connection until the other side closes it."""
    passage.close_sending()
    await passage.gone.wait()


# --- when it happens ----------------------------------------------------------------------------------------------


def after(place: int | bytes, then: Fault) -> Fault:
    """Relay so many bytes of the answer, or up to these bytes and with them; then the other fault."""

    async def fault(passage: Passage) -> None:
        seen = b""
        while (end := _end(seen, place)) is None:
            data = await passage.answer()
            assert data, f"the answer ended before {place!r}"
            seen += data
        passage.give_back(seen[end:])
        await passage.send(seen[:end])
        await then(passage)

    return fault


def at_end(then: Fault) -> Fault:
    """Relay everything; the other fault when the upstream has closed its side."""

    async def fault(passage: Passage) -> None:
        await passes(passage)
        await then(passage)

    return fault


def when_read(then: Fault) -> Fault:
    """The other fault, as soon as the test has seen what was relayed."""

    async def fault(passage: Passage) -> None:
        await passage.go.wait()
        await then(passage)

    return fault


def when_asked_again(then: Fault) -> Fault:
    """Relay one answer; the other fault when a second request comes in on the same connection."""

    async def fault(passage: Passage) -> None:
        relaying = asyncio.create_task(passes(passage))
        try:
            while passage.received.count(b" HTTP/1.1\r\n") < 2:
                await passage.hear()
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
        await then(passage)

    return fault


def _end(seen: bytes, place: int | bytes) -> int | None:
    if isinstance(place, int):
        return place if len(seen) >= place else None
    at = seen.find(place)
    return None if at < 0 else at + len(place)


# --- no connection ------------------------------------------------------------------------------------------------


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses: it is taken, so that nobody else listens there, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def blackhole() -> Iterator[int]:
    """A port that does not answer SYN: a listener's queue is full, and Linux drops what comes then.

    A queue for 0 takes one connection; a few more are begun, so that it is full whatever the system adds to it.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.settimeout(0)
                filler.connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()
