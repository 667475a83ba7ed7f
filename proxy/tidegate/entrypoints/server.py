"""The HTTP server: granian in Tidegate's own event loop, in one process.

Granian's embedded server was chosen over its multi-process one because engines, connection pools and the grace time
belong to one event loop. Its measured behaviour:

- `receive()` reports that the caller has disconnected within a millisecond, before and after the answer has begun.
- `send()` waits while the caller does not read (after some 4 MB of kernel buffers), and does not report that the caller
  has disconnected.
- After `stop()`, new connections are refused at once, and `serve()` returns when the running answers have ended.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from tidegate.errors import ConfigError

_BACKLOG = 2048
_MAX_CONCURRENT = 65536  # requests in granian's own queue; the number of connections is limited by the system alone
_CLOSE_TIMEOUT_S = 2.0
_HEADER_TIMEOUT_MS = 30_000


def choose_address(host: str, port: int) -> tuple[str, int]:
    """The IP address of `host`, and `port`, or a free port if it is 0.

    Granian shares ports (SO_REUSEPORT): without this check, a second Tidegate on the same port would receive half of
    the first one's requests.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            chosen = probe.getsockname()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host and --port"
        ) from error
    return chosen[0], chosen[1]


async def serve(
    asgi: Any,  # noqa: ANN401 - an ASGI application
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Serve until `stop` is set; then refuse new connections, wait for `drain`, and return.

    Raises:
        Exception: the server has failed.
    """
    server = Server(
        asgi,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=_HEADER_TIMEOUT_MS),
        websockets=False,
        backlog=_BACKLOG,
        backpressure=_MAX_CONCURRENT,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        server.stop()  # type: ignore[no-untyped-call]  # granian's method is untyped
        await drain()
    # a caller that does not read, or has sent only a part of the request head, would keep the server running
    await asyncio.wait((serving,), timeout=_CLOSE_TIMEOUT_S)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    if not serving.cancelled() and (error := serving.exception()) is not None:
        raise error  # otherwise the command would exit with status 0
