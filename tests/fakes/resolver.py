"""`FakeResolver`: a DNS resolver that returns the addresses that the test sets."""

import asyncio
import socket

from aiohttp.abc import AbstractResolver, ResolveResult


class FakeResolver(AbstractResolver):
    """Resolves every name to `addresses`; if there are none, raises `OSError`. Waits while `go` is not set."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.go = asyncio.Event()
        self.go.set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await self.go.wait()
        if not self.addresses:
            raise OSError(socket.EAI_NONAME, "no such name")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Do nothing: no resource is open."""
