"""A bare relay: the same ASGI server and HTTP client as Tidegate's, but no features.

Its cost is the least that a Python gateway with this server and client can have. It is run as a child process:
`relay.py PORT UPSTREAM_PORT`.
"""

import asyncio
import sys
from typing import Any

import aiohttp
import uvloop
from yarl import URL

from tidegate.entrypoints import server

_HEADERS = {"content-type": "application/json"}


class Relay:
    """An ASGI application that forwards every POST request to the upstream, and its answer to the caller."""

    def __init__(self, upstream: URL, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        body, has_more = b"", True
        while has_more:
            message = await receive()
            body += message["body"]
            has_more = message["more_body"]
        async with self._session.post(self._upstream, data=body, headers=_HEADERS) as answer:
            headers = [(b"content-type", answer.headers["content-type"].encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if answer.content_length is not None:
                await send({"type": "http.response.body", "body": await answer.read(), "more_body": False})
                return
            while chunk := await answer.content.readany():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _serve(port: int, upstream_port: int) -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )
    upstream = URL(f"http://127.0.0.1:{upstream_port}/v1/chat/completions")

    async def drain() -> None:
        pass

    async with session:
        relay = Relay(upstream, session)
        await server.serve(relay, host="127.0.0.1", port=port, stop=asyncio.Event(), drain=drain)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
