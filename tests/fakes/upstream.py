"""`ScenarioUpstream`: a real HTTP server that sends scripted bytes, and notices when its caller disconnects."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


PAUSE = b""  # among the pieces of a script: wait until the test calls `call.go.set()`


class Call:
    """One request that the server received, and the connection to answer it on.

    Attributes:
        go: set by the test; scripts wait for it at a `PAUSE`.
        gone: set when the caller has closed the connection.
    """

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes, writer) -> None:
        self.go = asyncio.Event()
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.writer = writer
        self.gone = asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body, or wait at a `PAUSE`."""
        if data == PAUSE:
            await self.go.wait()
            return
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, payload: bytes) -> None:
        await self.chunk(b"data: %b\n\n" % payload)

    async def end(self) -> None:
        await self.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """Break the connection off without an end of the body."""
        self.writer.transport.abort()


Script = Callable[[Call], Awaitable[None]]


class ScenarioUpstream:
    """Answers each request with the next script, and repeats the last one; records the requests.

    Attributes:
        calls: the requests received so far.
        connections: the number of connections accepted so far.
        url: the base URL, set while it runs.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.connections = 0
        self.scripts: list[Script] = []
        self.url = ""
        self.port = 0
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()

    def play(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    async def next_call(self) -> Call:
        """Wait for a request that this method has not returned yet, and return the latest one."""
        await self._arrived.wait()
        self._arrived.clear()
        return self.calls[-1]

    @asynccontextmanager
    async def running(self, *, path: str | None = None, tls: ssl.SSLContext | None = None):
        """Listen on a free port, or on a Unix socket at `path`."""
        if path is None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
            self.port = server.sockets[0].getsockname()[1]
            self.url = f"http{'' if tls is None else 's'}://127.0.0.1:{self.port}/v1"
        else:
            server = await asyncio.start_unix_server(self._serve, path)
            self.url = "http://engine/v1"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        try:
            while (call := await _read_call(reader, writer)) is not None:
                self.calls.append(call)
                self._arrived.set()
                watching = asyncio.create_task(_watch(reader, call))
                try:
                    script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                    await script(call)
                    if call.headers.get("connection") == "close" or writer.is_closing():
                        return
                finally:
                    if not watching.done():
                        watching.cancel()
                        await asyncio.gather(watching, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.close()


async def _read_call(reader, writer) -> Call | None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name:
            headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(method, path, headers, body, writer)


async def _watch(reader, call: Call) -> None:
    """Set `call.gone` at the end of what the caller sends: its request is complete, so it has disconnected."""
    try:
        while not reader.at_eof():
            if reader._buffer:
                return
            await reader._wait_for_data("watch")
    except ConnectionError:
        pass
    call.gone.set()


# --- scripts ------------------------------------------------------------------------------------------------------


def answers(body: bytes, *, status: int = 200, content_type: str = "application/json", head: bytes = b"") -> Script:
    """Send a whole answer with a Content-Length."""

    async def script(call: Call) -> None:
        start = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
        await call.write(start % (status, content_type.encode(), len(body), head) + body)

    return script


def streams(*pieces: bytes) -> Script:
    """Send server-sent events: each piece is one chunk of the body, exactly as given."""

    async def script(call: Call) -> None:
        await call.write(SSE_HEAD)
        for piece in pieces:
            await call.chunk(piece)
        await call.end()

    return script


def breaks_off(*pieces: bytes) -> Script:
    """Send events, then break the connection off."""

    async def script(call: Call) -> None:
        await call.write(SSE_HEAD)
        for piece in pieces:
            await call.chunk(piece)
        call.cut()

    return script


async def hangs(call: Call) -> None:
    """Send nothing until the caller disconnects."""
    await call.gone.wait()


async def breaks_without_answer(call: Call) -> None:
    """Break the connection off without an answer."""
    call.cut()
