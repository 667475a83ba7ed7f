"""`Machine`: simulates engines that are loaded and evicted on GPUs, in virtual time.

The decisions come from a function argument (`tidegate.engines.gpus.swap.decide`); the machine executes them and
advances the time. At each moment it asserts that no GPU is allocated by more than its whole memory, and that exclusive
engines are not loaded together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import GpuFootprint, rivals
from tidegate.engines.gpus.swap import Decision, EngineUse

_TICK_S = 1e-6  # the least advance of time in each iteration


class Arrival(NamedTuple):
    """A request: when it comes, for which engine, and how long its answer takes; in seconds."""

    at_s: float
    engine: str
    takes_s: float = 1.0


class Engine:
    """One engine; `goes_to` is the state that it is changing to (None: none), `until_s` when that is finished."""

    def __init__(
        self, name: str, *, awake, asleep=None, load_s=20.0, wake_s=3.0, requests=10_000, is_pinned=False
    ) -> None:
        self.name = name
        self.footprint = GpuFootprint(name=name, state="out", awake=awake, asleep=asleep or {}, is_pinned=is_pinned)
        self.load_s = load_s
        self.wake_s = wake_s
        self.requests = requests
        self.state = "out"
        self.goes_to: str | None = None
        self.until_s = inf
        self.opened_s = self.last_used_s = 0.0
        self.last_came_s = -inf
        self.is_closed = False
        self.waiting: list[Arrival] = []
        self.ends_s: list[float] = []

    @property
    def is_open(self) -> bool:
        return self.state == "loaded" and self.goes_to is None and not self.is_closed

    @property
    def memory_state(self) -> str:
        """The state whose memory it holds: while it is loaded the later one, while it is unloaded the earlier one."""
        return "loaded" if self.goes_to == "loaded" else self.state

    def acquire_slot(self, arrival: Arrival, now_s: float) -> None:
        """Begin the answer in the next slot that is free."""
        free = sorted(self.ends_s)
        begins_s = now_s if len(free) < self.requests else max(now_s, free[-self.requests])
        self.ends_s.append(begins_s + arrival.takes_s)

    def snapshot(self, now_s: float) -> EngineUse:
        footprint = GpuFootprint(
            name=self.name,
            state=self.memory_state,
            awake=self.footprint.awake,
            asleep=self.footprint.asleep,
            is_pinned=self.footprint.is_pinned,
            last_used_s=self.last_used_s,
        )
        return EngineUse(
            footprint=footprint,
            is_settled=self.goes_to is None,
            is_closed=self.is_closed,
            in_flight=len(self.ends_s),
            waited_s=now_s - self.waiting[0].at_s if self.waiting else None,
            loaded_s=now_s - self.opened_s,
            has_new_requests=self.last_came_s > self.opened_s,
        )


class Machine:
    """Simulates arrivals of requests.

    Args:
        engines: in any order.
        decide: has the signature of `swap.decide`.
        swap: the settings for `decide`.

    Attributes:
        waits_s: how long each request has waited for its engine.
        swaps: how often an engine was loaded or woken.
    """

    def __init__(self, engines: Sequence[Engine], decide: Callable[..., Decision], swap: SwapConfig) -> None:
        self.engines = {engine.name: engine for engine in engines}
        self.decide = decide
        self.swap = swap
        self.now_s = 0.0
        self.swaps = 0
        self.waits_s: list[float] = []
        self.claims: list[str] = []

    def play(self, arrivals: Sequence[Arrival], *, until_s: float = inf) -> None:
        """Run until the last answer, or `until_s`; the waits of requests that have no slot by then count as well."""
        coming = sorted(arrivals)[::-1]
        while self.now_s <= until_s:
            while coming and coming[-1].at_s <= self.now_s:
                self._arrive(coming.pop())
            self._advance()
            decide_again_in_s = self._act()
            next_s = min(
                [*self._events(), coming[-1].at_s if coming else inf, self.now_s + max(decide_again_in_s, _TICK_S)]
            )
            if next_s == inf:
                break
            self.now_s = max(self.now_s, next_s)
        left = [one for engine in self.engines.values() for one in engine.waiting]
        self.waits_s += [self.now_s - one.at_s for one in left]

    def _events(self):
        for engine in self.engines.values():
            yield from (engine.until_s, *engine.ends_s)

    def _arrive(self, arrival: Arrival) -> None:
        engine = self.engines[arrival.engine]
        engine.last_came_s = self.now_s
        engine.waiting.append(arrival)

    def _advance(self) -> None:
        for engine in self.engines.values():
            ended = [end_s for end_s in engine.ends_s if end_s <= self.now_s]
            engine.ends_s = [end_s for end_s in engine.ends_s if end_s > self.now_s]
            if ended:
                engine.last_used_s = self.now_s
            if engine.until_s <= self.now_s:
                engine.state, engine.goes_to, engine.until_s = engine.goes_to, None, inf
                engine.is_closed = False
                if engine.state == "loaded":
                    engine.opened_s = engine.last_used_s = self.now_s
                    self._decide()  # a decision is also made before the waiting requests have entered

    def _act(self) -> float:
        """Execute decisions until nothing changes any more; returns the seconds until the next decision."""
        while True:
            for engine in self.engines.values():
                if engine.is_open:
                    for arrival in engine.waiting:
                        engine.acquire_slot(arrival, self.now_s)
                        engine.last_used_s = self.now_s
                        self.waits_s.append(self.now_s - arrival.at_s)
                    engine.waiting.clear()
                if engine.waiting and engine.memory_state != "loaded" and engine.name not in self.claims:
                    self.claims.append(engine.name)
            before = self._state()
            decision = self._decide()
            self._check()
            if self._state() == before:
                return inf if decision.decide_again_in_s is None else decision.decide_again_in_s

    def _decide(self) -> Decision:
        decision = self.decide(
            self.claims, {name: one.snapshot(self.now_s) for name, one in self.engines.items()}, self.swap
        )
        assert not decision.never
        for engine in self.engines.values():
            if engine.is_closed and engine.goes_to is None and engine.name not in decision.moves:
                engine.is_closed = False
        for name, move in decision.moves.items():
            self._close(self.engines[name], move.to)
        for name in decision.load:
            engine = self.engines[name]
            took_s = engine.wake_s if engine.state == "asleep" else engine.load_s
            engine.goes_to, engine.until_s = "loaded", self.now_s + took_s
            self.claims.remove(name)
            self.swaps += 1
        return decision

    def _close(self, engine: Engine, to: str) -> None:
        assert engine.goes_to is None
        engine.is_closed = True
        if not engine.ends_s:
            engine.goes_to, engine.until_s = to, self.now_s + (engine.wake_s if to == "asleep" else 1.0)
            if engine.name in self.claims:
                self.claims.remove(engine.name)

    def _state(self):
        return [
            (one.state, one.goes_to, one.is_closed, len(one.waiting), one.name in self.claims)
            for one in self.engines.values()
        ]

    def _check(self) -> None:
        taken = Counter()
        for engine in self.engines.values():
            taken.update(engine.footprint.shares_in(engine.memory_state))
        assert all(share <= 1 + 1e-6 for share in taken.values()), taken
        loaded = [engine.name for engine in self.engines.values() if engine.memory_state == "loaded"]
        assert not any(rivals(name, loaded, self.swap.exclusive) for name in loaded), loaded
