"""How any connection of ours is made, and what its failures are called here.

What is fixed: no redirects (whoever calls says so, a host could send our key elsewhere), no cookies, no proxies from
the environment, no compression (a compressed stream arrives late; `decoding` handles hosts that compress anyway).
"""

import errno
from collections.abc import Sequence

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict

from tidegate.errors import ProxyError, UpstreamTimeout, UpstreamUnreachable
from tidegate.transport.pool import Request, TCPPool, UnixPool

# A Unix socket whose queue is full: its server lives, and is slow to accept. asyncio takes the first of these for a
# connection in progress, and meets the second when it sends.
_NO_ROOM = (errno.EAGAIN, errno.ENOTCONN)
_REASONS: Sequence[tuple[type[Exception], str]] = (  # the first that fits
    (aiohttp.ClientConnectorDNSError, "its name is not known"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not valid"),
    (aiohttp.ClientSSLError, "no TLS connection came about"),
    (aiohttp.ClientConnectorError, "no connection came about"),
    (aiohttp.ClientPayloadError, "the answer was cut short"),
    (aiohttp.ServerDisconnectedError, "it hung up"),
    (aiohttp.ClientResponseError, "what it said is not HTTP"),
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
    """A pool of connections to one host, or to a Unix socket; for `open_session`.

    `connect_s` is for all of opening a connection (name, TCP, TLS), not for the wait for a place in the pool.
    `resolver` turns the host's name into addresses; the system's where omitted.
    """
    if socket_path is None:
        return TCPPool(
            connect_s, limit=max_connections, keepalive_timeout=keepalive_s, ttl_dns_cache=60, resolver=resolver
        )
    return UnixPool(connect_s, path=socket_path, limit=max_connections, keepalive_timeout=keepalive_s)


def open_session(connector: aiohttp.BaseConnector, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A session; whoever asks for it closes it. Bodies are not decompressed (see `decoding`).

    Its requests say who we are (`USER_AGENT`), or aiohttp would say who it is: to be told not to, it would copy the
    headers of each request.
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
    """What every request to a host has."""
    return CIMultiDict(
        {
            hdrs.ACCEPT: "application/json, text/event-stream",
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.USER_AGENT: USER_AGENT,
        }
    )


def translate(error: aiohttp.ClientError | OSError) -> ProxyError:
    """A failure before the answer, in our words."""
    if isinstance(error, aiohttp.ConnectionTimeoutError | TimeoutError):
        late = UpstreamTimeout("The upstream could not be connected to in time.")
        late.is_unconnected = True
        return late
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return UpstreamTimeout("The upstream has no room for another connection.")
    gone = UpstreamUnreachable(f"The upstream cannot be reached: {reason(error)}.")
    gone.is_unconnected = isinstance(error, aiohttp.ClientConnectorError)
    return gone


def reason(error: Exception) -> str:
    """The kind of failure in our words: those of aiohttp name hosts and sockets, which are not the caller's to know."""
    return next((words for kind, words in _REASONS if isinstance(error, kind)), "it failed")
