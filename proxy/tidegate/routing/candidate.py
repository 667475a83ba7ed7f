"""What a policy sees of a target, and what it says to that."""

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
    """A target that may take this request: a picture of this moment, for this prompt.

    What belongs to a signal that the policy does not read (`Policy.reads`) may stand as if nothing were known:
    `ttft_s`, `per_token_s` and `failure_rate` are of latency, `price_usd` of price, `quality` of quality.

    Attributes:
        in_flight: requests that we have there now.
        ttft_s: expected time to first token if the request were sent now, in seconds; 0 where nothing is known yet.
        per_token_s: expected time for each further token; 0 where nothing is known yet.
        failure_rate: of late, 0 to 1.
        price_usd: about what the request will cost there; None where the price is not known. 0 at engines of ours.
        quality: how good its answers to such a task are, 0 to 1.
        share: how much of its part it may take: 1, or less after it was ejected (slow start).
        is_pressed: an engine of ours whose `ttft_s` is over what the model allows, or which is not ready.
        work: requests in a replica of an engine, ours and others'; 0 for other targets.
        availability: of a replica: ready, soon ready (loading), loaded by a request (unloaded), or unavailable.
    """

    target: Target
    in_flight: int = 0
    ttft_s: float = 0.0
    per_token_s: float = 0.0
    failure_rate: float = 0.0
    price_usd: float | None = None
    quality: float = 0.5
    share: float = 1.0
    is_pressed: bool = False
    work: float = 0.0
    availability: Availability = "ready"


class Placed(Struct, frozen=True, gc=False):
    """A candidate in its place.

    Attributes:
        score: what it was placed by, lower is better; None where nothing was compared.
        why: for people, where more than the policy put it there.
    """

    candidate: Candidate
    score: float | None = None
    why: str = ""


class Policy(Protocol):
    """Puts candidates in the order in which they are to be tried. Pure, but for the dice it is handed.

    Attributes:
        reads: the signals that it compares by.
        sticks: whether a session may put another one first; no where the order is the operator's word.
    """

    @property
    def reads(self) -> Signals:
        """See above."""

    @property
    def sticks(self) -> bool:
        """See above."""

    def place(self, candidates: Sequence[Candidate], routing_request: RoutingRequest, rng: Random) -> Sequence[Placed]:
        """Every candidate, once, the one to be tried first in front."""
