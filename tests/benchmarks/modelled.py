"""Simulated time, servers and requests for `simulation.py`; no I/O, and no real event loop."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

from tidegate.routing.targets import Target

REFUSAL_S = 0.001
FAILURE_S = 0.05  # a 5xx answer takes a round trip

Behaviour = Callable[[float], str]  # from the time to healthy, refuses, fails or hangs


class SimulatedLoop:
    """Runs events in the order of their times; owns the future events.

    It is a `tidegate.clock.Clock` too; its time is that of the event being run.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._number = count()

    def monotonic_s(self) -> float:
        return self._now_s

    now_s = monotonic_s

    def after(self, delay_s: float, callback: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (self._now_s + delay_s, next(self._number), callback, arguments))

    def run(self) -> None:
        while self._events:
            self._now_s, _, callback, arguments = heapq.heappop(self._events)
            callback(*arguments)


class Job:
    """One attempt at one server.

    The server calls `began`, `ended` and `failed`, but not after the attempt was abandoned.
    """

    __slots__ = (
        "answer_tokens",
        "began",
        "ended",
        "failed",
        "has_begun",
        "holds_slot",
        "is_abandoned",
        "prompt_tokens",
    )

    def __init__(self, prompt_tokens: int, answer_tokens: int, *, began, ended, failed) -> None:
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        self.began = began
        self.ended = ended
        self.failed = failed
        self.is_abandoned = False
        self.has_begun = False
        self.holds_slot = False


def healthy(_now_s: float) -> str:
    return "healthy"


@dataclass
class ModelledServer:
    """A simulated server with a number of slots, and an unbounded queue for requests that find no free slot.

    A request holds its slot while its prompt is read and its answer is written. With `reads_in_turn`, the server reads
    one prompt at a time, as an engine with one GPU does; otherwise all slots read in parallel.
    """

    loop: SimulatedLoop
    target: Target
    slots: int
    base_s: float
    read_tokens_per_s: float
    per_token_s: float
    usd_per_m_in: float = 0.0
    usd_per_m_out: float = 0.0
    quality: float = 0.5
    behaviour: Behaviour = healthy
    reads_in_turn: bool = False
    queue: deque[Job] = field(default_factory=deque)
    busy: int = 0
    reads_until_s: float = 0.0

    def price_usd(self, prompt_tokens: int, answer_tokens: int) -> float:
        return (prompt_tokens * self.usd_per_m_in + answer_tokens * self.usd_per_m_out) / 1e6

    def send(self, job: Job) -> None:
        behaviour = self.behaviour(self.loop.monotonic_s())
        if behaviour == "healthy":
            self.queue.append(job)
            self._start()
        elif behaviour != "hangs":
            self.loop.after(REFUSAL_S if behaviour == "refuses" else FAILURE_S, job.failed)

    def abandon(self, job: Job) -> None:
        """Abandon a job whose caller no longer waits for the first token."""
        job.is_abandoned = True
        if job.holds_slot:
            self._free()

    def generates(self) -> bool:
        """Whether the server would answer a probe of one token."""
        return self.behaviour(self.loop.monotonic_s()) == "healthy"

    def _start(self) -> None:
        while self.busy < self.slots and self.queue:
            job = self.queue.popleft()
            if job.is_abandoned:
                continue
            self.busy += 1
            job.holds_slot = True
            self.loop.after(self._reading_s(job), self._begin, job)

    def _reading_s(self, job: Job) -> float:
        reading_s = self.base_s + job.prompt_tokens / self.read_tokens_per_s
        if not self.reads_in_turn:
            return reading_s
        now_s = self.loop.monotonic_s()
        self.reads_until_s = max(self.reads_until_s, now_s) + reading_s
        return self.reads_until_s - now_s

    def _begin(self, job: Job) -> None:
        if not job.is_abandoned:
            job.has_begun = True
            job.began()
            self.loop.after(job.answer_tokens * self.per_token_s, self._end, job)

    def _end(self, job: Job) -> None:
        job.ended()
        self._free()

    def _free(self) -> None:
        self.busy -= 1
        self._start()


@dataclass(frozen=True)
class ModelledRequest:
    """The part of `tidegate.routing.request.RoutingRequest` that policies read."""

    prompt_tokens: int
    answer_tokens: int


def arrivals(
    rng: Random, request_count: int, rate: Callable[[float], float]
) -> Iterator[tuple[float, ModelledRequest]]:
    """`request_count` requests with their times, as a Poisson process; `rate` is the number a second at a given time.

    Most prompts are short, some are very long (log-normal).
    """
    at_s = 0.0
    for _ in range(request_count):
        at_s += rng.expovariate(rate(at_s))
        prompt_tokens = min(int(rng.lognormvariate(math.log(700), 1.4)) + 1, 100_000)
        yield at_s, ModelledRequest(prompt_tokens, min(int(rng.expovariate(1 / 200)) + 1, 2_000))


def fails_periodically(healthy_s: float, failing_s: float) -> Behaviour:
    """In turn, healthy for `healthy_s`, and a 5xx answer to every request for `failing_s`."""
    return lambda now_s: "healthy" if now_s % (healthy_s + failing_s) < healthy_s else "fails"


def bursts(calm: float, busy: float, *, calm_s: float, busy_s: float) -> Callable[[float], float]:
    """Requests a second: in turn, `calm` for `calm_s` seconds, and `busy` for `busy_s`."""
    return lambda at_s: calm if at_s % (calm_s + busy_s) < calm_s else busy
