"""`Policy`, and what it orders: a `Candidate` is a target as a policy sees it, a `RankedCandidate` one in an order."""

from collections.abc import Sequence
from random import Random
from typing import Literal, Protocol

from msgspec import Struct

from tidegate.routing.request import RoutingRequest
from tidegate.routing.targets import Target

Signal = Literal["latency", "price", "quality"]
Signals = frozenset[Signal]
Availability = Literal["ready", "loading", "unloaded", "unavailable"]

SIGNALS: Signals = frozenset({"latency", "price", "quality"})


class Candidate(Struct, frozen=True, kw_only=True, gc=False):
    """A target that may take this request: a snapshot of this moment, for this prompt.

    Fields of a signal that the policy does not read (`Policy.reads`) may have their defaults. `ttft_s`, `per_token_s`
    and `failure_rate` belong to latency, `price_usd` to price, `quality` to quality.

    Attributes:
        in_flight: Tidegate's requests at the target now.
        ttft_s: expected time to first token if the request were sent now, in seconds; 0 if unknown.
        per_token_s: expected time for each further token, in seconds; 0 if unknown.
        failure_rate: the recent share of failed requests, 0 to 1.
        price_usd: the estimated price of the request there; None if it is unknown. 0 at local engines.
        quality: how good its answers to such a task are, 0 to 1.
        share: the share of its usual requests that it may take: 1, or less after it was ejected (slow start).
        is_overloaded: a local engine whose `ttft_s` is over the model's `overflow_ttft_s`, or which is not ready.
        work: the number of requests in a replica of an engine, Tidegate's and others'; 0 for other targets.
        availability: of a replica: `ready`, `loading` (soon ready), `unloaded` (not loaded, but a request would load
            it), or `unavailable`. `ready` for other targets.
    """

    target: Target
    in_flight: int = 0
    ttft_s: float = 0.0
    per_token_s: float = 0.0
    failure_rate: float = 0.0
    price_usd: float | None = None
    quality: float = 0.5
    share: float = 1.0
    is_overloaded: bool = False
    work: float = 0.0
    availability: Availability = "ready"


class RankedCandidate(Struct, frozen=True, gc=False):
    """A candidate at its position in an order.

    Attributes:
        score: the value that the policy compared, lower is better; None if it compared nothing.
        why: a text for people: the reason for this position, if it is not the policy alone; else empty.
    """

    candidate: Candidate
    score: float | None = None
    why: str = ""


class Policy(Protocol):
    """Puts candidates in the order in which they are to be tried. Pure, except for the random numbers from `rng`.

    Attributes:
        reads: the signals that it compares.
        allows_affinity: whether the session's target may be put first; False where the operator has fixed the order.
    """

    @property
    def reads(self) -> Signals:
        """The signals that it compares."""

    @property
    def allows_affinity(self) -> bool:
        """Whether the session's target may be put first."""

    def rank(
        self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random
    ) -> Sequence[RankedCandidate]:
        """Every candidate once, in the order in which they are to be tried."""
