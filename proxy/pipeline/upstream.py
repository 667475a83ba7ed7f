"""`Upstream`: a target's dialect, wire and readiness under one name, as the pipeline sees it."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from proxy.dialects.base import Dialect
from proxy.errors import ProxyError


class Response(Protocol):
    """An answer whose head has arrived (see `proxy.transport.Response`)."""

    status: int
    headers: Mapping[str, str]

    async def read_some(self) -> bytes:
        """What has arrived; empty at the end."""

    async def read_all(self) -> bytes:
        """The whole body."""

    def got_event(self) -> None:
        """What was read held an event; comments alone are a kind of silence."""

    def expect_end(self) -> None:
        """Nothing more is wanted, but the body may end by itself, so that the connection can be kept."""

    def close(self) -> None:
        """Give the connection back, or close it where the body has not ended."""


class Transport(Protocol):
    """The wire (see `proxy.transport.Transport`)."""

    async def post(self, path: str, body: bytes, *, is_stream: bool) -> Response:
        """Send a body, wait for the head of the answer."""


Leave = Callable[[], None]


class Enter(Protocol):
    """Takes a place at an engine, which may have to be started for it (see `proxy.engines.supervisor`)."""

    async def __call__(self, *, can_wait: bool) -> Leave:
        """What gives the place back, once; raises `EngineUnavailable`, at once if it cannot wait."""


async def always_open(*, can_wait: bool) -> Leave:  # noqa: ARG001 - there is nothing to wait for
    """A host elsewhere is tried, not asked."""
    return nothing_to_leave


def nothing_to_leave() -> None:
    """Nobody counts who is there."""


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """One host or engine.

    Attributes:
        secrets: keys that no message of the host's may show to a caller.
        enter: takes a place there; raises `EngineUnavailable` while there is no use in trying.
        always_streams: ask for a stream even where the caller wants one answer, because the host does not notice a
            caller who leaves a unary request (llama.cpp).
        api_version: of Azure's deployment URLs.
    """

    name: str
    dialect: Dialect
    transport: Transport
    secrets: tuple[str, ...] = ()
    enter: Enter = always_open
    always_streams: bool = False
    api_version: str | None = None

    def mask(self, error: ProxyError) -> None:
        """Take our keys out of an error in the host's words."""
        for secret in self.secrets:
            error.message = error.message.replace(secret, "***")
            error.param = error.param and error.param.replace(secret, "***")
            error.code = error.code and error.code.replace(secret, "***")
