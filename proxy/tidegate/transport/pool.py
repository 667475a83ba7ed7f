"""Pools of connections: aiohttp's connectors with two changes.

1. Opening a connection, including name resolution and TLS, has one time limit.
2. A connection that has received a byte which belongs to no request (RFC 9112, 6.3 and 9.2) is closed and never reused.
   Otherwise the next request on it could take that byte for the beginning of its answer.

    a byte arrives on an idle connection                    closed at once
    the byte arrived together with the end of an answer,    closed when the connection is taken from the pool
    or is unread in the kernel
    a byte arrives before the next request is written       closed at once; the request uses another connection
"""

import asyncio
import select
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

has_connected = ContextVar("has_connected", default=False)  # whether this task's request opened a connection


class _Connection(ResponseHandler):
    """A connection; it is idle from the end of an answer until the next request is written.

    Args:
        loop: the event loop.
        poll: shared by all connections of the pool; no descriptor is registered in it between calls.

    Attributes:
        is_idle: see above; `Request` and `_Pool` set it.
    """

    is_idle = True

    def __init__(self, loop: asyncio.AbstractEventLoop, poll: select.poll) -> None:
        super().__init__(loop)
        self._poll = poll

    def data_received(self, data: bytes) -> None:
        if self.is_idle and data:  # aiohttp passes no bytes when it resumes reading
            self.close()
        else:
            ResponseHandler.data_received(self, data)

    @property
    def has_surplus(self) -> bool:
        """Whether the parser has received bytes after the end of the last answer."""
        if self.should_close:
            return True
        if self._parser is None:
            return False
        try:
            return self._parser.feed_eof() is not None  # the beginning of a message
        except Exception:  # noqa: BLE001 - the parser's errors: the bytes begin no message
            return True

    @property
    def is_readable(self) -> bool:
        """Whether the socket has unread bytes, or was closed by the host."""
        socket = None if self.transport is None else self.transport.get_extra_info("socket")
        if socket is None:
            return True
        number = socket.fileno()
        self._poll.register(number, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(number)


class Request(aiohttp.ClientRequest):
    """A request; it marks its connection as no longer idle when the request is written.

    Up to Python 3.11 the request is written one iteration of the event loop after its connection was taken from the
    pool; a byte may arrive in between.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:  # noqa: ANN401 - aiohttp's internal types
        response = await super().send(conn)
        if self._writer is None and isinstance(conn.protocol, _Connection):  # the request has been written
            conn.protocol.is_idle = False
        return response

    async def write_bytes(self, writer: Any, conn: Any, content_length: int | None = None) -> None:  # noqa: ANN401
        connection = conn.protocol
        if isinstance(connection, _Connection) and connection.is_idle:
            if connection.is_readable:
                connection.close()  # the write then fails
            connection.is_idle = False
        await super().write_bytes(writer, conn, content_length)


class _Pool(aiohttp.BaseConnector):
    """The part that both kinds of connector share.

    Args:
        connect_s: the time limit for opening a connection; the wait for one while the pool is full does not count.
            aiohttp's own limit does not include name resolution.
        options: the options of aiohttp's connector.
    """

    def __init__(self, connect_s: float, **options: Any) -> None:  # noqa: ANN401 - aiohttp's options
        super().__init__(**options)
        self._connect_s = connect_s
        self._poll = select.poll()
        self._factory = lambda: _Connection(self._loop, self._poll)  # type: ignore[assignment] # aiohttp's is a `partial`

    async def _get(self, *key_and_traces: Any) -> Any:  # noqa: ANN401 - aiohttp's internal types
        while (taken := await super()._get(*key_and_traces)) is not None:
            connection = taken.protocol
            if isinstance(connection, _Connection) and not (connection.has_surplus or connection.is_readable):
                return taken
            taken.close()
        return None

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:  # noqa: ANN401 - see above
        protocol.is_idle = True
        super()._release(key, protocol, should_close=should_close)

    async def _create_connection(self, *request: Any) -> Any:  # noqa: ANN401 - see above
        has_connected.set(True)
        async with asyncio.timeout(self._connect_s):
            try:
                connection: Any = await super()._create_connection(*request)
            except KeyError:  # aiohttp's DNS cache was cleared while it waited for the addresses
                connection = await super()._create_connection(*request)
        connection.is_idle = False
        return connection


class TCPPool(_Pool, aiohttp.TCPConnector):
    """Connections to one host."""

    async def _create_connection(self, *request: Any) -> Any:  # noqa: ANN401 - see above
        try:
            return await super()._create_connection(*request)
        except (TimeoutError, aiohttp.ClientConnectorError):
            self.clear_dns_cache()  # the host's address may have changed; the next request resolves the name again
            raise


class UnixPool(_Pool, aiohttp.UnixConnector):
    """Connections to one Unix socket."""
