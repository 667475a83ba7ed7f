"""Modelled time, targets and callers for `simulation.py`: queues and arithmetic, no I/O and no event loop."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

from tidegate.routing.targets import Target

REFUSAL_S = 0.001
FAILURE_S = 0.05  # a 5xx takes a round trip

Mood = Callable[[float], str]  # the time -> well, refuses, fails or hangs


class World:
    """A `tidegate.clock.Clock` whose time is that of the event at hand; owner of the events to come."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._number = count()

    def monotonic_s(self) -> float:
        return self._now_s

    now_s = monotonic_s

    def after(self, delay_s: float, act: Callable[..., None], *told: object) -> None:
        heapq.heappush(self._events, (self._now_s + delay_s, next(self._number), act, told))

    def run(self) -> None:
        while self._events:
            self._now_s, _, act, told = heapq.heappop(self._events)
            act(*told)


class Job:
    """One try at one target, as the target sees it; whoever calls is told by the three functions, unless it left."""

    __slots__ = ("answer_tokens", "began", "ended", "failed", "has_begun", "holds_slot", "is_left", "prompt_tokens")

    def __init__(self, prompt_tokens: int, answer_tokens: int, *, began, ended, failed) -> None:
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        self.began = began
        self.ended = ended
        self.failed = failed
        self.is_left = False
        self.has_begun = False
        self.holds_slot = False


def well(_now_s: float) -> str:
    return "well"


@dataclass
class Modelled:
    """A server with so many slots; who finds none waits in a queue without end.

    A request holds its slot while its prompt is read and its answer is written. `reads_in_turn`: it reads one prompt at
    a time, as an engine with one GPU does; else each slot reads by itself.
    """

    world: World
    target: Target
    slots: int
    base_s: float
    read_tokens_per_s: float
    per_token_s: float
    usd_per_m_in: float = 0.0
    usd_per_m_out: float = 0.0
    quality: float = 0.5
    mood: Mood = well
    reads_in_turn: bool = False
    queue: deque[Job] = field(default_factory=deque)
    busy: int = 0
    reads_until_s: float = 0.0

    def price_usd(self, prompt_tokens: int, answer_tokens: int) -> float:
        return (prompt_tokens * self.usd_per_m_in + answer_tokens * self.usd_per_m_out) / 1e6

    def send(self, job: Job) -> None:
        mood = self.mood(self.world.monotonic_s())
        if mood == "well":
            self.queue.append(job)
            self._start()
        elif mood != "hangs":
            self.world.after(REFUSAL_S if mood == "refuses" else FAILURE_S, job.failed)

    def leave(self, job: Job) -> None:
        """The caller does not wait for the first token any longer."""
        job.is_left = True
        if job.holds_slot:
            self._free()

    def generates(self) -> bool:
        """Whether a one-token probe would be answered."""
        return self.mood(self.world.monotonic_s()) == "well"

    def _start(self) -> None:
        while self.busy < self.slots and self.queue:
            job = self.queue.popleft()
            if job.is_left:
                continue
            self.busy += 1
            job.holds_slot = True
            self.world.after(self._reading_s(job), self._begin, job)

    def _reading_s(self, job: Job) -> float:
        reading_s = self.base_s + job.prompt_tokens / self.read_tokens_per_s
        if not self.reads_in_turn:
            return reading_s
        now_s = self.world.monotonic_s()
        self.reads_until_s = max(self.reads_until_s, now_s) + reading_s
        return self.reads_until_s - now_s

    def _begin(self, job: Job) -> None:
        if not job.is_left:
            job.has_begun = True
            job.began()
            self.world.after(job.answer_tokens * self.per_token_s, self._end, job)

    def _end(self, job: Job) -> None:
        job.ended()
        self._free()

    def _free(self) -> None:
        self.busy -= 1
        self._start()


@dataclass(frozen=True)
class Wish:
    """What policies read of a `tidegate.routing.request.RoutingRequest`."""

    prompt_tokens: int
    answer_tokens: int


def arrivals(rng: Random, number: int, rate: Callable[[float], float]) -> Iterator[tuple[float, Wish]]:
    """A Poisson process of that many requests; most prompts are short, some are very long (log-normal)."""
    at_s = 0.0
    for _ in range(number):
        at_s += rng.expovariate(rate(at_s))
        prompt_tokens = min(int(rng.lognormvariate(math.log(700), 1.4)) + 1, 100_000)
        yield at_s, Wish(prompt_tokens, min(int(rng.expovariate(1 / 200)) + 1, 2_000))


def flaps(well_s: float, ill_s: float) -> Mood:
    """Well for so long, then a 5xx to everything for so long, and again."""
    return lambda now_s: "well" if now_s % (well_s + ill_s) < well_s else "fails"


def bursts(calm: float, busy: float, *, calm_s: float, busy_s: float) -> Callable[[float], float]:
    """Requests a second: calm for so long, then busy for so long, and again."""
    return lambda at_s: calm if at_s % (calm_s + busy_s) < calm_s else busy
