"""Pools of connections, as aiohttp's connectors with two changes.

Opening a connection, name and TLS included, has one time limit. And a connection that has received a byte which belongs
to no request (RFC 9112, 6.3 and 9.2) is closed and never used again: its next caller would get somebody else's answer.

    idle, and a byte comes                                  closed at once
    the byte came together with the end of an answer,       closed when the connection is taken from the pool
    or waits in the kernel unread
    taken, and a byte comes before the request is written   closed at once; the request goes out on another one
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
        poll: watches nothing; that of the pool.
    """

    is_idle = True

    def __init__(self, loop: asyncio.AbstractEventLoop, poll: select.poll) -> None:
        super().__init__(loop)
        self._poll = poll

    def data_received(self, data: bytes) -> None:
        if self.is_idle and data:  # aiohttp calls with nothing when it goes on reading
            self.close()
        else:
            ResponseHandler.data_received(self, data)

    @property
    def has_surplus(self) -> bool:
        """Whether more than the last answer has been parsed."""
        if self.should_close:
            return True
        if self._parser is None:
            return False
        try:
            return self._parser.feed_eof() is not None  # a message that has begun
        except Exception:  # noqa: BLE001 - the parser's: what has begun is no message
            return True

    @property
    def is_readable(self) -> bool:
        """Whether something waits to be read: a byte, or the end."""
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
    """Has its connection from when it is written: up to Python 3.11 that is a turn of the loop after it was taken."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:  # noqa: ANN401 - aiohttp's business
        response = await super().send(conn)
        if self._writer is None and isinstance(conn.protocol, _Connection):  # it has been written
            conn.protocol.is_idle = False
        return response

    async def write_bytes(self, writer: Any, conn: Any, content_length: int | None = None) -> None:  # noqa: ANN401
        connection = conn.protocol
        if isinstance(connection, _Connection) and connection.is_idle:
            if connection.is_readable:
                connection.close()  # which makes writing fail
            connection.is_idle = False
        await super().write_bytes(writer, conn, content_length)


class _Pool(aiohttp.BaseConnector):
    """What both kinds of connector have in common.

    Args:
        connect_s: for all of opening a connection, but not for the wait for a place in the pool. aiohttp's own limit
            leaves out the resolution of the name.
        options: the connector's.
    """

    def __init__(self, connect_s: float, **options: Any) -> None:  # noqa: ANN401 - aiohttp's business
        super().__init__(**options)
        self._connect_s = connect_s
        self._poll = select.poll()
        self._factory = lambda: _Connection(self._loop, self._poll)  # type: ignore[assignment] # aiohttp's is a `partial`

    async def _get(self, *key_and_traces: Any) -> Any:  # noqa: ANN401 - aiohttp's business
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
            except KeyError:  # the addresses that it had waited for were forgotten at that moment
                connection = await super()._create_connection(*request)
        connection.is_idle = False
        return connection


class TCPPool(_Pool, aiohttp.TCPConnector):
    """To one host."""

    async def _create_connection(self, *request: Any) -> Any:  # noqa: ANN401 - see above
        try:
            return await super()._create_connection(*request)
        except (TimeoutError, aiohttp.ClientConnectorError):
            self.clear_dns_cache()  # the host may have moved, and the next request should find it
            raise


class UnixPool(_Pool, aiohttp.UnixConnector):
    """To one Unix socket."""
