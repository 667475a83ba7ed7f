"""`Machine`: engines that change places on GPUs, with time of its own; nothing waits.

What is decided comes from outside (`tidegate.engines.gpus.swap.decide`); the machine only lets the time go by. At each
moment it asserts that no GPU is taken over its whole, and that exclusive engines are not loaded together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import GpuFootprint, rivals
from tidegate.engines.gpus.swap import Decision, SwapCandidate

_TICK_S = 1e-6  # time goes by with every look


class Arrival(NamedTuple):
    """A request: when it comes, for which engine, and how long its answer takes, in seconds."""

    at_s: float
    engine: str
    takes_s: float = 1.0


class Engine:
    """One engine; `goes_to` and `until_s` say where it is on its way to, and when it is there."""

    def __init__(
        self, name: str, *, awake, asleep=None, load_s=20.0, wake_s=3.0, slots=10_000, is_pinned=False
    ) -> None:
        self.name = name
        self.footprint = GpuFootprint(name=name, state="out", awake=awake, asleep=asleep or {}, is_pinned=is_pinned)
        self.load_s = load_s
        self.wake_s = wake_s
        self.slots = slots
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
    def held(self) -> str:
        """While it comes up it holds what it will, and while it goes down what it did."""
        return "loaded" if self.goes_to == "loaded" else self.state

    def enter(self, arrival: Arrival, now_s: float) -> None:
        """Its answer begins in the next slot that is free."""
        free = sorted(self.ends_s)
        begins_s = now_s if len(free) < self.slots else max(now_s, free[-self.slots])
        self.ends_s.append(begins_s + arrival.takes_s)

    def snapshot(self, now_s: float) -> SwapCandidate:
        footprint = GpuFootprint(
            name=self.name,
            state=self.held,
            awake=self.footprint.awake,
            asleep=self.footprint.asleep,
            is_pinned=self.footprint.is_pinned,
            last_used_s=self.last_used_s,
        )
        return SwapCandidate(
            footprint=footprint,
            is_settled=self.goes_to is None,
            is_closed=self.is_closed,
            in_flight=len(self.ends_s),
            waited_s=now_s - self.waiting[0].at_s if self.waiting else None,
            loaded_s=now_s - self.opened_s,
            has_new_requests=self.last_came_s > self.opened_s,
        )


class Machine:
    """Plays arrivals; `waits_s` are those of the requests, `swaps` how often an engine was loaded or woken.

    Args:
        engines: by any order.
        decide: what `turns.decide` is.
        swap: its rules.
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
        """From the first to the last answer, or `until_s`; requests that have no place by then have waited so long."""
        coming = sorted(arrivals)[::-1]
        while self.now_s <= until_s:
            while coming and coming[-1].at_s <= self.now_s:
                self._arrive(coming.pop())
            self._pass()
            look_in_s = self._act()
            next_s = min([*self._events(), coming[-1].at_s if coming else inf, self.now_s + max(look_in_s, _TICK_S)])
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

    def _pass(self) -> None:
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
                    self._look()  # also before the requests that waited have entered

    def _act(self) -> float:
        """Do what is decided, until nothing changes any more; when to look again."""
        while True:
            for engine in self.engines.values():
                if engine.is_open:
                    for arrival in engine.waiting:
                        engine.enter(arrival, self.now_s)
                        engine.last_used_s = self.now_s
                        self.waits_s.append(self.now_s - arrival.at_s)
                    engine.waiting.clear()
                if engine.waiting and engine.held != "loaded" and engine.name not in self.claims:
                    self.claims.append(engine.name)
            before = self._picture()
            turn = self._look()
            self._check()
            if self._picture() == before:
                return inf if turn.look_in_s is None else turn.look_in_s

    def _look(self) -> Decision:
        turn = self.decide(
            self.claims, {name: one.snapshot(self.now_s) for name, one in self.engines.items()}, self.swap
        )
        assert not turn.never
        for engine in self.engines.values():
            if engine.is_closed and engine.goes_to is None and engine.name not in turn.moves:
                engine.is_closed = False
        for name, move in turn.moves.items():
            self._close(self.engines[name], move.to)
        for name in turn.load:
            engine = self.engines[name]
            took_s = engine.wake_s if engine.state == "asleep" else engine.load_s
            engine.goes_to, engine.until_s = "loaded", self.now_s + took_s
            self.claims.remove(name)
            self.swaps += 1
        return turn

    def _close(self, engine: Engine, to: str) -> None:
        assert engine.goes_to is None
        engine.is_closed = True
        if not engine.ends_s:
            engine.goes_to, engine.until_s = to, self.now_s + (engine.wake_s if to == "asleep" else 1.0)
            if engine.name in self.claims:
                self.claims.remove(engine.name)

    def _picture(self):
        return [
            (one.state, one.goes_to, one.is_closed, len(one.waiting), one.name in self.claims)
            for one in self.engines.values()
        ]

    def _check(self) -> None:
        taken = Counter()
        for engine in self.engines.values():
            taken.update(engine.footprint.held(engine.held))
        assert all(share <= 1 + 1e-6 for share in taken.values()), taken
        loaded = [engine.name for engine in self.engines.values() if engine.held == "loaded"]
        assert not any(rivals(name, loaded, self.swap.exclusive) for name in loaded), loaded
