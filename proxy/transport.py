"""The wire to one upstream: an aiohttp session, its pool and its timeouts; foreign exceptions become ours here.

What is fixed: no redirects (a host could send our key elsewhere), no cookies, no proxies from the environment, no
compression (a compressed stream arrives late), HTTP/1.1 keep-alive shorter than the upstream's own.
"""

import asyncio
import errno
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import aiohttp
import msgspec
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from proxy.deadline import Deadline, Deadlines
from proxy.errors import ProxyError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from proxy.protocol.chat import MAX_ANSWER_BYTES

_READ_BYTES = 256 * 1024
_DRAIN_S = 1.0
# A Unix socket whose queue is full: its server lives, and is slow to accept. asyncio takes the first of these for a
# connection in progress, and meets the second when it sends.
_NO_ROOM = (errno.EAGAIN, errno.ENOTCONN)
_has_connected = ContextVar("has_connected", default=False)  # whether this task's request opened a connection
# A path may name a deployment that the caller chose.
_MAX_URLS = 256
_MAX_KEPT_PATH = 256


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait, in seconds: for a connection, for a stream or an answer to begin, in the middle of one."""

    connect_s: float
    first_byte_s: float
    answer_s: float
    idle_s: float


class Response:
    """An answer whose head has arrived. Whoever holds it closes it; closing early ends the upstream's work."""

    __slots__ = ("_answer", "_deadline", "_drain", "_has_event", "_is_over", "_timeouts", "headers", "status")

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        deadline: Deadline,
        timeouts: Timeouts,
        drain: Callable[[aiohttp.ClientResponse], None],
    ) -> None:
        self._answer = answer
        self._deadline = deadline
        self._timeouts = timeouts
        self._has_event = False
        self._drain = drain
        self._is_over = False
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def read_some(self) -> bytes:
        """What has arrived, at least one byte; empty at the end.

        Raises:
            UpstreamTimeout: no event (see `got_event`) for the idle time, or until the first for the time it has.
            UpstreamUnreachable: the connection broke.
        """
        self._deadline.start()
        try:
            data = await self._answer.content.readany()
        except asyncio.CancelledError:
            if self._deadline.has_expired():
                raise UpstreamTimeout("The upstream fell silent in the middle of its answer.") from None
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable(f"The connection to the upstream broke: {_reason(error)}.") from error
        finally:
            self._deadline.stop()
        if not self._has_event:
            # comments before the first event: the host lives, and has the request in its queue
            self._deadline.limit_s = self._timeouts.answer_s
        return data

    async def read_all(self) -> bytes:
        """The whole body.

        Raises:
            UpstreamFailed: it is over `MAX_ANSWER_BYTES`.
            UpstreamTimeout, UpstreamUnreachable: as `read_some`.
        """
        pieces, size = [], 0
        while not self._answer.content.at_eof():
            pieces.append(await self.read_some())
            self.got_event()
            size += len(pieces[-1])
            if size > MAX_ANSWER_BYTES:
                raise UpstreamFailed(f"The upstream's answer is over {MAX_ANSWER_BYTES} bytes.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def got_event(self) -> None:
        """What was read held an event; comments alone are a kind of silence."""
        self._has_event = True
        self._deadline.reset(self._timeouts.idle_s)

    def expect_end(self) -> None:
        """Nothing more is wanted, but the body is about to end by itself, so that the connection can be kept."""
        self._is_over = True

    def close(self) -> None:
        """Give the connection back to the pool if the body has ended, close it if not. Never raises, never waits."""
        if self._answer.content.at_eof():
            self._answer.release()
        elif self._is_over:
            self._drain(self._answer)
        else:
            self._answer.close()


class Transport:
    """The connections to one upstream; owns the session, which is opened at first use and closed by `close`.

    Args:
        base_url: without a trailing slash; for a Unix socket any `http://` host.
        timeouts: see `Timeouts`.
        api_keys: sent in turn.
        key_header: where a key goes; in `authorization` as a bearer token.
        socket_path: a Unix socket to connect to instead of the URL's host.
        max_connections: how many may be open at once; further requests wait for one.
        keepalive_s: how long an idle connection is kept; less than the upstream's own limit.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts,
        api_keys: Sequence[str] = (),
        key_header: str = "authorization",
        socket_path: str | None = None,
        max_connections: int = 1000,
        keepalive_s: float = 4.0,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self.api_keys = tuple(api_keys)
        self._key_header = key_header
        self.use_keys(api_keys)
        self._timeouts = timeouts
        self._client_timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_read=None, sock_connect=timeouts.connect_s
        )
        self._socket_path = socket_path
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._deadlines = Deadlines()
        self._draining: set[asyncio.Task[None]] = set()

    def use_keys(self, api_keys: Sequence[str]) -> None:
        """The keys from now on, sent in turn."""
        self._headers = itertools.cycle([_headers(key, self._key_header) for key in api_keys] or [_headers()])

    async def post(self, path: str, body: bytes, *, is_stream: bool) -> Response:
        """Send `body` and wait for the head of the answer, whatever its status; a stream's comes before its content.

        A pooled connection that the upstream closed before it answered anything was stale: the request goes out once
        more, on another connection.

        Raises:
            UpstreamUnreachable: no connection, or it broke.
            UpstreamTimeout: no connection, or no first byte, in time.
        """
        wait_s = self._timeouts.first_byte_s if is_stream else self._timeouts.answer_s
        _has_connected.set(False)
        try:
            return await self._request(hdrs.METH_POST, path, body, wait_s)
        except UpstreamUnreachable:
            if _has_connected.get():
                raise
        return await self._request(hdrs.METH_POST, path, body, wait_s)

    async def ask(self, path: str, body: bytes) -> bytes:
        """The body of the answer to a POST.

        Raises:
            UpstreamFailed: the status is not 200.
            UpstreamUnreachable, UpstreamTimeout: as `post`.
        """
        return await _body(await self.post(path, body, is_stream=False), f"POST {path}")

    async def get(self, path: str) -> bytes:
        """The body at `path`.

        Raises:
            UpstreamFailed: the status is not 200.
            UpstreamUnreachable, UpstreamTimeout: as `post`.
        """
        return await _body(await self._request(hdrs.METH_GET, path, None, self._timeouts.first_byte_s), f"GET {path}")

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(self, method: str, path: str, body: bytes | None, wait_s: float) -> Response:
        url = self._urls.get(path)
        if url is None:
            url = URL(self._base_url + path, encoded=True)
            if len(self._urls) < _MAX_URLS and len(path) < _MAX_KEPT_PATH:
                self._urls[path] = url
        deadline = Deadline(self._deadlines, wait_s)
        deadline.start()
        try:
            answer = await self._open_session().request(
                method, url, data=body, headers=next(self._headers), allow_redirects=False, read_bufsize=_READ_BYTES
            )
        except asyncio.CancelledError:
            if deadline.has_expired():
                raise UpstreamTimeout("The upstream did not begin to answer in time.") from None
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise _translate(error) from error
        finally:
            deadline.stop()
        # many hosts send the head at once and think then: their time for the first event goes on
        return Response(answer, deadline, self._timeouts, self._drain)

    def _drain(self, answer: aiohttp.ClientResponse) -> None:
        task = asyncio.create_task(_read_to_end(answer))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._client_timeout,
                trust_env=False,
                auto_decompress=True,
                skip_auto_headers=(hdrs.USER_AGENT,),
            )
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        connector: aiohttp.BaseConnector
        if self._socket_path is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=self._keepalive_s, ttl_dns_cache=60
            )
        else:
            connector = aiohttp.UnixConnector(
                self._socket_path, limit=self._max_connections, keepalive_timeout=self._keepalive_s
            )
        _note_connections(connector)
        return connector


def _note_connections(connector: aiohttp.BaseConnector) -> None:
    # The one method a connector must define: wrapping it tells a new connection from a pooled one without the
    # price of aiohttp's tracing on every request.
    create = connector._create_connection  # noqa: SLF001 - see above

    async def noted(*args: Any) -> Any:  # noqa: ANN401 - aiohttp's business
        _has_connected.set(True)
        return await create(*args)

    connector._create_connection = noted  # type: ignore[method-assign, assignment]  # noqa: SLF001 - see above


def _headers(api_key: str | None = None, key_header: str = "authorization") -> CIMultiDict[str]:
    headers = CIMultiDict(
        {
            hdrs.ACCEPT: "application/json, text/event-stream",
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.USER_AGENT: "tidegate",
        }
    )
    if api_key is not None:
        headers[key_header] = f"Bearer {api_key}" if key_header == "authorization" else api_key
    return headers


async def _body(response: Response, asked: str) -> bytes:
    try:
        body = await response.read_all()
    finally:
        response.close()
    if response.status != 200:
        raise UpstreamFailed(f"{asked} answered {response.status}.")
    return body


async def _read_to_end(answer: aiohttp.ClientResponse) -> None:
    """See the end of a body after its last event; a host that keeps it open loses the connection."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            while await answer.content.readany():
                pass
        answer.release()
    except (TimeoutError, aiohttp.ClientError, OSError):
        answer.close()


def _translate(error: aiohttp.ClientError | OSError) -> ProxyError:
    if isinstance(error, aiohttp.ConnectionTimeoutError | TimeoutError):
        return UpstreamTimeout("The upstream could not be connected to in time.")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return UpstreamTimeout("The upstream has no room for another connection.")
    return UpstreamUnreachable(f"The upstream cannot be reached: {_reason(error)}.")


def _reason(error: Exception) -> str:
    """The kind of failure; the text of aiohttp's errors names hosts and sockets, which are not the caller's to know."""
    return type(error).__name__
