"""`Upstream`: a target's dialect, wire and readiness under one name, as the pipeline sees it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from tidegate.dialects.base import Dialect
from tidegate.errors import ProxyError, UpstreamError
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.context import ShownCredential
from tidegate.reasoning_memory import ReasoningMemory
from tidegate.routing.offline import Offline
from tidegate.routing.planner import EngineSnapshot
from tidegate.routing.quality import Qualities
from tidegate.routing.target_registry import TargetRegistry
from tidegate.routing.targets import Target
from tidegate.telemetry.redaction import mask

_ELSEWHERE = EngineSnapshot()


class UpstreamResponse(Protocol):
    """An answer whose head has arrived (see `tidegate.transport.wire.UpstreamResponse`)."""

    status: int
    headers: Mapping[str, str]

    @property
    def credential(self) -> ShownCredential:
        """What the host was shown."""

    async def read_some(self) -> bytes:
        """What has arrived; empty at the end."""

    async def read_all(self) -> bytes:
        """The whole body."""

    async def read_complaint(self) -> bytes:
        """The body of an error, as far as it comes soon."""

    def got_event(self, *, has_content: bool) -> None:
        """What was read held an event; comments alone are a kind of silence.

        `has_content` says whether the answer has really begun.
        """

    def expect_end(self) -> None:
        """Nothing more is wanted, but the body may end by itself, so that the connection can be kept."""

    def close(self) -> None:
        """Give the connection back, or close it where the body has not ended."""


class UpstreamTransport(Protocol):
    """The wire (see `tidegate.transport.wire.UpstreamTransport`)."""

    @property
    def secrets(self) -> Sequence[str]:
        """What no message of the host's may show to a caller, of this moment."""

    @property
    def holds_back(self) -> bool:
        """Whether `free_in_s` or `refused_for_s` may be more than 0."""

    def free_in_s(self) -> float:
        """0, or the seconds until one of the credentials may be used again."""

    def refused_for_s(self, model: str) -> float:
        """0, or the seconds for which each of the credentials is refused, for that model."""

    async def post(self, path: str, body: bytes, *, is_stream: bool, model: str) -> UpstreamResponse:
        """Send a body that asks for a model, wait for the head of the answer."""

    async def get(self, path: str) -> bytes:
        """The body at a path."""


Leave = Callable[[], None]


class Enter(Protocol):
    """Takes a place at an engine, which may have to be started for it (see `tidegate.engines.supervision`)."""

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
        enter: takes a place there; raises `EngineUnavailable` while there is no use in trying.
        always_streams: ask for a stream even where the caller wants one answer, because the host does not notice a
            caller who leaves a unary request (llama.cpp).
        api_version: of Azure's deployment URLs.
        look: what an engine does now; None for a host elsewhere.
        doubt: is told that a request to the engine failed, as the engine may be dead; None for a host elsewhere.
        movable: the waits for the engine that may be ended when it hangs (see `tidegate.engines.slots`); None for a
            host elsewhere.
        in_flight: how many requests of ours are in the engine.
        load: loads the engine, if it is not loaded; returns at once.
    """

    name: str
    dialect: Dialect
    transport: UpstreamTransport
    enter: Enter = always_open
    always_streams: bool = False
    api_version: str | None = None
    look: Callable[[], EngineSnapshot] | None = None
    doubt: Callable[[ProxyError], None] | None = None
    movable: set[Callable[[str], None]] | None = None
    in_flight: Callable[[], int] = int
    load: Callable[[], None] = nothing_to_leave


class Upstreams(Mapping[str, Upstream]):
    """All of them by name; tells the planner what lies behind its targets."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams

    def mask(self, error: ProxyError) -> None:
        """Mask the keys of every upstream in an error: a router may quote another host's."""
        secrets = {secret for each in self._upstreams.values() for secret in each.transport.secrets}
        error.message = mask(error.message, secrets)
        error.param = error.param and mask(error.param, secrets)
        error.code = error.code and mask(error.code, secrets)
        if isinstance(error, UpstreamError) and error.original:
            error.original = mask(error.original, secrets)
        error.args = (error.message,)  # shown in tracebacks

    def look(self, target: Target) -> EngineSnapshot:
        """At the engine or host, for the target's model."""
        upstream = self._upstreams[target.upstream]
        seen = _ELSEWHERE if upstream.look is None else upstream.look()
        wire = upstream.transport
        if not wire.holds_back:
            return seen
        return msgspec.structs.replace(
            seen, limited_for_s=wire.free_in_s(), refused_for_s=wire.refused_for_s(target.model)
        )

    def in_flight(self, target: Target) -> int:
        """Requests of ours in the target's engine, for any of its models."""
        return self._upstreams[target.upstream].in_flight()

    def __getitem__(self, name: str) -> Upstream:
        return self._upstreams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._upstreams)

    def __len__(self) -> int:
        return len(self._upstreams)


class ServingState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a request may be sent to, and what is known of it; shared by all requests, probes and reports.

    Attributes:
        concurrency: the concurrency limits by upstream; an upstream that is missing here has no limit.
        reasoning_memory: of the reasoning of past turns.
    """

    upstreams: Upstreams
    concurrency: Mapping[str, ConcurrencyLimit]
    target_registry: TargetRegistry
    offline: Offline
    qualities: Qualities
    reasoning_memory: ReasoningMemory
