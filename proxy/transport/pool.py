"""Pools of connections: aiohttp's connectors with two changes.

Opening a connection, including name resolution and TLS, has one time limit. And a connection that has received a byte
which belongs to no request (RFC 9112, 6.3 and 9.2) is closed and never reused, as the byte may begin the answer to
another request.

    a byte arrives on an idle connection                    closed at once
    the byte arrived together with the end of an answer,    closed when the connection is taken from the pool
    or is unread in the kernel
"""

import asyncio
import select
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

has_connected = ContextVar("has_connected", default=False)  # whether this task's request opened a connection


class _Connection(ResponseHandler):
    """A connection; it is idle while no request uses it."""

    is_idle = True

    def data_received(self, data: bytes) -> None:
        if self.is_idle and data:  # aiohttp passes no bytes when it resumes reading
            self.close()
        else:
            ResponseHandler.data_received(self, data)

    @property
    def has_surplus(self) -> bool:
        """Whether the parser has received bytes behind the last answer."""
        if self.should_close:
            return True
        if self._parser is None:
            return False
        try:
            return self._parser.feed_eof() is not None  # the beginning of a message
        except Exception:  # noqa: BLE001 - the parser's errors: the bytes begin no message
            return True


class _Pool(aiohttp.BaseConnector):
    """The part that both kinds of connector share.

    Args:
        connect_s: the time limit for opening a connection, without the wait for a place in the pool. aiohttp's own
            limit does not include name resolution.
        options: the options of aiohttp's connector.
    """

    def __init__(self, connect_s: float, **options: Any) -> None:  # noqa: ANN401 - aiohttp's business
        super().__init__(**options)
        self._connect_s = connect_s
        self._poll = select.poll()
        self._factory = lambda: _Connection(self._loop)  # type: ignore[assignment] # aiohttp's is a `partial`

    async def _get(self, *key_and_traces: Any) -> Any:  # noqa: ANN401 - aiohttp's business
        while (taken := await super()._get(*key_and_traces)) is not None:
            connection = taken.protocol
            if isinstance(connection, _Connection) and not (connection.has_surplus or self._is_readable(connection)):
                connection.is_idle = False
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

    def _is_readable(self, connection: ResponseHandler) -> bool:
        """Whether the socket has unread bytes, or was closed by the host."""
        socket = None if connection.transport is None else connection.transport.get_extra_info("socket")
        if socket is None:
            return True
        number = socket.fileno()
        self._poll.register(number, select.POLLIN)
        try:
            return bool(self._poll.poll(0))
        finally:
            self._poll.unregister(number)


class TCPPool(_Pool, aiohttp.TCPConnector):
    """Connections to one host."""

    async def _create_connection(self, *request: Any) -> Any:  # noqa: ANN401 - see above
        try:
            return await super()._create_connection(*request)
        except (TimeoutError, aiohttp.ClientConnectorError):
            self.clear_dns_cache()  # the host may have moved, and the next request should find it
            raise


class UnixPool(_Pool, aiohttp.UnixConnector):
    """Connections to one Unix socket."""
