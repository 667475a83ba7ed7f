"""`Upstream`: one host or engine as the pipeline uses it: its dialect, transport, and the state of its engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from tidegate.dialects.base import Dialect
from tidegate.errors import ProxyError, UpstreamError
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.context import SentCredential
from tidegate.reasoning_memory import ReasoningMemory
from tidegate.routing.offline import Offline
from tidegate.routing.planner import EngineSnapshot
from tidegate.routing.quality import Qualities
from tidegate.routing.target_registry import TargetRegistry
from tidegate.routing.targets import Target
from tidegate.telemetry.redaction import mask

_NO_ENGINE = EngineSnapshot()


class UpstreamResponse(Protocol):
    """A response whose status and headers have arrived (see `tidegate.transport.wire`)."""

    status: int
    headers: Mapping[str, str]

    @property
    def credential(self) -> SentCredential:
        """The credential that the request was sent with."""

    async def read_some(self) -> bytes:
        """Return the bytes that have arrived, waiting for at least one; empty at the end of the body."""

    async def read_all(self) -> bytes:
        """Return the rest of the body."""

    async def read_error_body(self) -> bytes:
        """Return the body of an error response, as far as it arrives soon."""

    def got_event(self, *, has_content: bool) -> None:
        """Restart the idle timeout, as an event was read; comments alone do not restart it.

        Args:
            has_content: whether the answer has had content. Until then an event does not extend the time limit of a
                whole answer, which all events together have.
        """

    def expect_end(self) -> None:
        """Say that no more data is needed: the body may still end by itself, so that the connection can be reused."""

    def close(self) -> None:
        """Return the connection to the pool, or close it if the body has not ended."""


class UpstreamTransport(Protocol):
    """Sends requests to one upstream (see `tidegate.transport.wire`)."""

    @property
    def secrets(self) -> Sequence[str]:
        """The current credentials, which are masked in messages of the host before a caller or a log gets them."""

    @property
    def has_cooldowns(self) -> bool:
        """Whether `limited_for_s` or `refused_for_s` may be more than 0."""

    def limited_for_s(self) -> float:
        """The seconds until one of the credentials may be used; 0 if one may be used now."""

    def refused_for_s(self, model: str) -> float:
        """The seconds for which all credentials are refused for that model; 0 if one is not."""

    async def post(self, path: str, body: bytes, *, is_stream: bool, model: str) -> UpstreamResponse:
        """Send a request body for a model, and wait for the status and headers of the response."""

    async def get(self, path: str) -> bytes:
        """Return the body of a GET request to the path."""


ReleaseSlot = Callable[[], None]


class AcquireSlot(Protocol):
    """Acquires a slot in an engine, which may have to be started for it (see `tidegate.engines.supervision`)."""

    async def __call__(self, *, can_wait: bool) -> ReleaseSlot:
        """Return the function that releases the slot; it is called once.

        Args:
            can_wait: whether to wait for an engine that does not take requests now.

        Raises:
            EngineUnavailable: the engine takes no requests; raised at once if `can_wait` is False.
        """


async def acquire_nothing(*, can_wait: bool) -> ReleaseSlot:  # noqa: ARG001 - there is nothing to wait for
    """The `AcquireSlot` of a hosted upstream, which has no slots to count."""
    return release_nothing


def release_nothing() -> None:
    """Do nothing: there is no slot to release."""


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """One host or engine.

    Attributes:
        acquire_slot: acquires a slot in the engine; raises `EngineUnavailable` while the engine takes no requests.
        always_streams: whether a stream is requested even for a unary answer, because the engine does not notice that
            the connection of a unary request was closed (llama.cpp).
        api_version: the API version in Azure's deployment URLs.
        snapshot: returns the engine's current state; None for a hosted upstream.
        report_failure: reports that a request to the engine failed, as the engine may be dead; None for a hosted
            upstream.
        interruptible_waits: one function for each attempt that waits for its first content while another target is
            left; called if the engine hangs, to end the attempt (see `tidegate.engines.requests`). None for a hosted
            upstream.
        in_flight: returns the number of Tidegate's requests in the engine.
        load: loads the engine, if it is not loaded; returns at once.
    """

    name: str
    dialect: Dialect
    transport: UpstreamTransport
    acquire_slot: AcquireSlot = acquire_nothing
    always_streams: bool = False
    api_version: str | None = None
    snapshot: Callable[[], EngineSnapshot] | None = None
    report_failure: Callable[[ProxyError], None] | None = None
    interruptible_waits: set[Callable[[str], None]] | None = None
    in_flight: Callable[[], int] = int
    load: Callable[[], None] = release_nothing


class Upstreams(Mapping[str, Upstream]):
    """All upstreams by name; gives the planner the state of the engine or host of each target."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams

    def mask(self, error: ProxyError) -> None:
        """Mask the keys of every upstream in an error, as a host that routes requests may quote another host's key."""
        secrets = {secret for each in self._upstreams.values() for secret in each.transport.secrets}
        error.message = mask(error.message, secrets)
        error.param = error.param and mask(error.param, secrets)
        error.code = error.code and mask(error.code, secrets)
        if isinstance(error, UpstreamError) and error.original:
            error.original = mask(error.original, secrets)
        error.args = (error.message,)  # shown in tracebacks

    def snapshot(self, target: Target) -> EngineSnapshot:
        """The current state of the target's engine or host, for the target's model."""
        upstream = self._upstreams[target.upstream]
        snapshot = _NO_ENGINE if upstream.snapshot is None else upstream.snapshot()
        transport = upstream.transport
        if not transport.has_cooldowns:
            return snapshot
        return msgspec.structs.replace(
            snapshot, limited_for_s=transport.limited_for_s(), refused_for_s=transport.refused_for_s(target.model)
        )

    def in_flight(self, target: Target) -> int:
        """The number of Tidegate's requests in the target's engine, for all of its models."""
        return self._upstreams[target.upstream].in_flight()

    def __getitem__(self, name: str) -> Upstream:
        return self._upstreams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._upstreams)

    def __len__(self) -> int:
        return len(self._upstreams)


class ServingState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a request may be sent to, with its state; shared by all requests, probes and reports.

    Attributes:
        concurrency: the concurrency limits by upstream name; an upstream that is missing here has no limit.
        target_registry: health, latency and requests in flight of each target.
        offline: whether the hosted upstreams can be reached.
        qualities: the measured quality of each target's answers.
        reasoning_memory: the reasoning of past turns that called tools.
    """

    upstreams: Upstreams
    concurrency: Mapping[str, ConcurrencyLimit]
    target_registry: TargetRegistry
    offline: Offline
    qualities: Qualities
    reasoning_memory: ReasoningMemory
