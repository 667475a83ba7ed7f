"""`HealthRecheck`: a failed request may mean that its engine is dead, so the engine is checked again at once."""

import asyncio
import contextlib

from tidegate.errors import ProxyError, StreamBroken, UpstreamFailed, UpstreamUnreachable

REFUSED = "it refuses connections"
NO_ANSWER = "its health route breaks connections off"
UNHEALTHY = "its health route reports a failure"
_MAX_WAIT_S = 1.0  # `wait_closed` waits no longer than this for the health check


def may_be_dead(error: ProxyError) -> bool:
    """Whether an engine whose request failed with `error` may be dead: the connection broke, or the answer was a 5xx.

    vLLM answers with 500 for a while after its core has died (reference `vllm.md`, section 4).
    """
    return isinstance(error, UpstreamUnreachable | UpstreamFailed | StreamBroken)


def is_refusal(error: ProxyError) -> bool:
    """Whether the engine refused the connection: nothing listens there, so it is dead without a further check."""
    return isinstance(error, UpstreamUnreachable) and error.is_unconnected


class HealthRecheck:
    """Whether a health check of one engine is due because a request failed.

    `StatusOwner` owns it. `Watch` closes it after the check; `StatusOwner` closes it if the engine is no longer ready.
    """

    def __init__(self) -> None:
        self._closed: asyncio.Event | None = None

    @property
    def is_due(self) -> bool:
        """Whether a health check is due."""
        return self._closed is not None

    def request(self) -> None:
        """Make a health check due, after a failed request."""
        if self._closed is None:
            self._closed = asyncio.Event()

    def finish(self) -> None:
        """End the wait: the check has been made, or is not needed any more."""
        if self._closed is not None:
            self._closed.set()
            self._closed = None

    async def wait_closed(self) -> None:
        """Wait until the check has been made, at most a second."""
        if self._closed is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MAX_WAIT_S):
                    await self._closed.wait()
