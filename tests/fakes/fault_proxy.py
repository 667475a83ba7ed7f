"""`FaultProxy`: a real TCP relay in front of an upstream, which applies a fault of the test to each connection.

A `Fault` is a coroutine function of a `ProxiedConnection`. `after`, `at_end`, `when_read` and `on_second_request` say
when another fault happens; `stalls`, `resets`, `closes`, `half_closes`, `passes`, `drips` and `delays` are what happens
then. `closed_port` and `blackhole` are ports to which no connection can be made.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

_READ_BYTES = 64 * 1024
_LINGER_0 = struct.pack("ii", 1, 0)  # with this option, closing sends RST, and drops the data that was not sent yet


class ProxiedConnection:
    """One connection that the proxy has accepted; closed by the proxy when its fault ends.

    The downstream side is Tidegate, which connected; the upstream side is the host behind the proxy.

    Attributes:
        received: all bytes received from downstream.
        go: set by the test; `when_read` waits for it.
        gone: set when downstream has closed or broken the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream_port: int) -> None:
        self.received = bytearray()
        self.go = asyncio.Event()
        self.gone = asyncio.Event()
        self._downstream, self._downstream_writer = reader, writer
        self._upstream_port = upstream_port
        self._upstream: asyncio.StreamReader | None = None
        self._upstream_writer: asyncio.StreamWriter | None = None
        self._unread = b""
        self._received_more = asyncio.Event()

    async def answer(self) -> bytes:
        """Read up to 64 KiB of the upstream's answer; empty at its end. The first call connects to the upstream."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        if self._upstream is None:
            self._upstream, self._upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            self._upstream_writer.write(bytes(self.received))
        return await self._upstream.read(_READ_BYTES)

    def unread(self, data: bytes) -> None:
        """Give bytes of the answer back; the next `answer` returns them."""
        self._unread = data + self._unread

    async def send(self, data: bytes) -> None:
        """Send bytes downstream."""
        self._downstream_writer.write(data)
        await self._downstream_writer.drain()

    def close_sending(self) -> None:
        """Send FIN downstream, and go on reading."""
        self._downstream_writer.write_eof()

    def reset(self) -> None:
        """Send RST downstream."""
        self._downstream_writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self._downstream_writer.transport.abort()

    async def wait_for_data(self) -> None:
        """Wait until more bytes have been received from downstream."""
        self._received_more.clear()
        await self._received_more.wait()

    async def relay_requests(self) -> None:
        """Relay bytes to the upstream until downstream disconnects; then the upstream's side is closed too."""
        with suppress(ConnectionError):
            while data := await self._downstream.read(_READ_BYTES):
                self.received += data
                self._received_more.set()
                if self._upstream_writer is not None:
                    self._upstream_writer.write(data)
        self.gone.set()
        self.close()

    def close(self) -> None:
        """Close both sides."""
        self._downstream_writer.close()
        if self._upstream_writer is not None:
            self._upstream_writer.close()


Fault = Callable[[ProxiedConnection], Awaitable[None]]


class FaultProxy:
    """Applies the next fault to each connection, and repeats the last one; records the connections.

    Args:
        upstream_port: the port on loopback that it relays to; 0 if no fault relays.
    """

    def __init__(self, upstream_port: int = 0) -> None:
        self.connections: list[ProxiedConnection] = []
        self.port = 0
        self._faults: list[Fault] = [passes]
        self._upstream_port = upstream_port
        self._tasks: set[asyncio.Task[None]] = set()

    def play(self, *faults: Fault) -> None:
        self._faults = list(faults)

    @asynccontextmanager
    async def running(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["FaultProxy"]:
        """Listen on a free port of loopback, with or without TLS; close all connections at the end."""
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
        connection = ProxiedConnection(reader, writer, self._upstream_port)
        self.connections.append(connection)
        fault = self._faults.pop(0) if len(self._faults) > 1 else self._faults[0]
        relaying_requests = asyncio.create_task(connection.relay_requests())
        try:
            with suppress(ConnectionError):
                await fault(connection)
        finally:
            relaying_requests.cancel()
            await asyncio.gather(relaying_requests, return_exceptions=True)
            connection.close()
            self._tasks.discard(task)


# --- what happens -------------------------------------------------------------------------------------------------


async def passes(connection: ProxiedConnection) -> None:
    """Relay the upstream's answers as they arrive."""
    while data := await connection.answer():
        await connection.send(data)


async def drips(connection: ProxiedConnection) -> None:
    """Relay the answers byte by byte, each in a write of its own."""
    while data := await connection.answer():
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0)  # let the other side read the byte


def delays(latency_s: float) -> Fault:
    """Relay each piece of the answers after so many seconds."""

    async def fault(connection: ProxiedConnection) -> None:
        while data := await connection.answer():
            await asyncio.sleep(latency_s)
            await connection.send(data)

    return fault


async def stalls(connection: ProxiedConnection) -> None:
    """Send nothing more until downstream disconnects."""
    await connection.gone.wait()


async def resets(connection: ProxiedConnection) -> None:
    """Send RST."""
    connection.reset()


async def closes(connection: ProxiedConnection) -> None:
    """Send FIN, and close the connection."""
    connection.close()


async def half_closes(connection: ProxiedConnection) -> None:
    """Send FIN, but go on reading, and keep the connection until downstream closes it."""
    connection.close_sending()
    await connection.gone.wait()


# --- when it happens ----------------------------------------------------------------------------------------------


def after(position: int | bytes, then: Fault) -> Fault:
    """Relay so many bytes of the answer, or up to and including these bytes; then apply the other fault."""

    async def fault(connection: ProxiedConnection) -> None:
        relayed = b""
        while (end := _end(relayed, position)) is None:
            data = await connection.answer()
            assert data, f"the answer ended before {position!r}"
            relayed += data
        connection.unread(relayed[end:])
        await connection.send(relayed[:end])
        await then(connection)

    return fault


def at_end(then: Fault) -> Fault:
    """Relay the whole answer; apply the other fault when the upstream has closed its side."""

    async def fault(connection: ProxiedConnection) -> None:
        await passes(connection)
        await then(connection)

    return fault


def when_read(then: Fault) -> Fault:
    """Apply the other fault once the test has set `go`, after the caller has read what was relayed."""

    async def fault(connection: ProxiedConnection) -> None:
        await connection.go.wait()
        await then(connection)

    return fault


def on_second_request(then: Fault) -> Fault:
    """Relay one answer; apply the other fault when a second request arrives on the same connection."""

    async def fault(connection: ProxiedConnection) -> None:
        relaying = asyncio.create_task(passes(connection))
        try:
            while connection.received.count(b" HTTP/1.1\r\n") < 2:
                await connection.wait_for_data()
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
        await then(connection)

    return fault


def _end(relayed: bytes, position: int | bytes) -> int | None:
    if isinstance(position, int):
        return position if len(relayed) >= position else None
    start = relayed.find(position)
    return None if start < 0 else start + len(position)


# --- no connection ------------------------------------------------------------------------------------------------


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections: a socket is bound to it, so that no process can listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def blackhole() -> Iterator[int]:
    """A port that does not answer SYN: the listener's queue is full, and Linux drops further SYN packets.

    A backlog of 0 takes one connection; a few more are begun, so that the queue is full whatever the system adds.
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
