"""`Doubt`: a request failed at an engine in a way that may mean that the engine is dead, and a look at it will tell."""

import asyncio
import contextlib

from proxy.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamUnreachable

REFUSED = "it refuses connections"
BREAKS_OFF = "its health check breaks off"
ILL = "its own health check says that it does not work"
_VERDICT_S = 1.0  # a health route that takes longer says nothing soon


def may_be_dead(error: ProxyError) -> bool:
    """Whether an engine that a request failed at with `error` may be dead: it broke off, or told of a fault of its own.

    vLLM answers requests with 500 for a while after its core has died (reference `vllm.md`, section 4).
    """
    return isinstance(error, UpstreamUnreachable | UpstreamFailed | StreamBroken)


def is_refusal(error: ProxyError) -> bool:
    """Whether the engine accepts no connections, which needs no look: nothing listens there."""
    return isinstance(error, UpstreamUnreachable) and error.is_unconnected


class Doubt:
    """Whether a look at one engine is wanted now; owned by the engine, which closes the doubt when it has looked."""

    def __init__(self) -> None:
        self._closed: asyncio.Event | None = None

    @property
    def is_open(self) -> bool:
        """A look is wanted, and has not been made."""
        return self._closed is not None

    def open(self) -> None:
        """A request failed."""
        if self._closed is None:
            self._closed = asyncio.Event()

    def close(self) -> None:
        """The look has been made, or is not needed any more."""
        if self._closed is not None:
            self._closed.set()
            self._closed = None

    async def settled(self) -> None:
        """Wait until it is closed, at most a second."""
        if self._closed is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_VERDICT_S):
                    await self._closed.wait()
