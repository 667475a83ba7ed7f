"""Opens connectors and sessions of aiohttp, and translates their exceptions to `ProxyError`.

Fixed for every session: no cookies, no proxies from the environment, no compression (a compressed stream arrives late;
`content_coding` handles hosts that compress anyway). No redirects either, as a host could then make Tidegate send its
key elsewhere; aiohttp takes that setting per request, so each caller passes `allow_redirects=False`.
"""

import errno
from collections.abc import Sequence

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict

from tidegate.errors import ProxyError, UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.pool import Request, TCPPool, UnixPool

# The accept queue of a Unix socket is full: its server runs, but is slow to accept. connect() fails with EAGAIN, which
# asyncio takes for a connection in progress; sending on it then fails with ENOTCONN.
_QUEUE_IS_FULL = (errno.EAGAIN, errno.ENOTCONN)
_REASONS: Sequence[tuple[type[Exception], str]] = (  # the first class that matches counts
    (aiohttp.ClientConnectorDNSError, "its host name cannot be resolved"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not valid"),
    (aiohttp.ClientSSLError, "no TLS connection could be opened"),
    (aiohttp.ClientConnectorError, "no connection could be opened"),
    (aiohttp.ClientPayloadError, "the answer was cut short"),
    (aiohttp.ServerDisconnectedError, "it closed the connection"),
    (aiohttp.ClientResponseError, "its answer is not HTTP"),
    (aiohttp.ClientOSError, "the connection was reset"),
    (OSError, "the connection was reset"),
)
USER_AGENT = "tidegate"


def open_connector(
    socket_path: str | None,
    max_connections: int,
    keepalive_s: float,
    connect_s: float,
    resolver: AbstractResolver | None = None,
) -> aiohttp.BaseConnector:
    """Return a pool of connections to one host or one Unix socket, to be passed to `open_session`.

    Args:
        socket_path: the Unix socket; None: connect by TCP to the host of each request's URL.
        max_connections: the most connections that are open at once; further requests wait.
        keepalive_s: how long an idle connection is kept.
        connect_s: the time limit for opening a connection (name resolution, TCP and TLS together), without the wait
            until the pool has fewer than `max_connections`.
        resolver: resolves the host's name to addresses; the system's resolver where omitted.
    """
    if socket_path is None:
        return TCPPool(
            connect_s, limit=max_connections, keepalive_timeout=keepalive_s, ttl_dns_cache=60, resolver=resolver
        )
    return UnixPool(connect_s, path=socket_path, limit=max_connections, keepalive_timeout=keepalive_s)


def open_session(connector: aiohttp.BaseConnector, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """Return a session, which the caller of this function closes. Its bodies stay compressed (see `content_coding`).

    Each request has to set User-Agent (`USER_AGENT`); otherwise aiohttp adds its own. The session's option against
    that (`skip_auto_headers`) is not used, as aiohttp would then copy the headers of each request.
    """
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=timeout,
        trust_env=False,
        auto_decompress=False,
        request_class=Request,
    )


def base_headers() -> CIMultiDict[str]:
    """Return a new mapping of the headers that every request to a host has."""
    return CIMultiDict(
        {
            hdrs.ACCEPT: "application/json, text/event-stream",
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.USER_AGENT: USER_AGENT,
        }
    )


def translate(error: aiohttp.ClientError | OSError) -> ProxyError:
    """Return the `ProxyError` for an exception that was raised before the head of the answer arrived."""
    if isinstance(error, aiohttp.ConnectionTimeoutError | TimeoutError):
        timeout = UpstreamTimeout("The upstream could not be connected to in time.")
        timeout.is_unconnected = True
        return timeout
    if isinstance(error, OSError) and error.errno in _QUEUE_IS_FULL:
        return UpstreamTimeout("The upstream does not accept another connection at present.")
    unreachable = UpstreamUnreachable(f"The upstream cannot be reached: {reason(error)}.")
    unreachable.is_unconnected = isinstance(error, aiohttp.ClientConnectorError)
    return unreachable


def reason(error: Exception) -> str:
    """Return a text for the kind of failure. aiohttp's own texts name hosts and sockets, which callers must not see."""
    return next((text for kind, text in _REASONS if isinstance(error, kind)), "it failed")
