"""`FakeResolver`: names to addresses, as the test says."""

import asyncio
import socket

from aiohttp.abc import AbstractResolver, ResolveResult


class FakeResolver(AbstractResolver):
    """Answers every name with `addresses`; without any there is no such name. Held, it does not answer yet (`go`)."""

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
        """Nothing is open."""
