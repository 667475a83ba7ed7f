"""Which engines are evicted so that another can be loaded: a pure function of all engines' footprints.

To evict an engine is to put it to sleep or to stop it. Memory is counted in shares of each GPU, as vLLM takes it
(`gpu_memory_utilization`). Engines on the CPU take none. Engines of an exclusive group are not loaded together, however
little memory they take. An engine that sleeps counts as not loaded, but its memory still counts.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import Struct

from tidegate.config.replicas import engine_of

Shares = Mapping[int, float]  # by the number of the GPU, 0 to 1
State = Literal["loaded", "asleep", "out"]

_ROUNDING = 1e-6


class GpuFootprint(Struct, frozen=True, kw_only=True):
    """The GPU memory of one engine, and whether the engine may be evicted.

    Attributes:
        name: the engine's name.
        state: "loaded" (or being loaded), "asleep", or "out", which is neither of them.
        awake: the shares that it takes when it is loaded.
        asleep: the shares that it still takes when it sleeps; empty where it takes none, or cannot sleep.
        can_sleep: it can sleep; an engine with shares in `asleep` can sleep in any case.
        is_busy: it has requests, or is being loaded, put to sleep, woken or stopped: it cannot be evicted now.
        is_pinned: it is never evicted.
        last_used_s: when it was last used; the engine that has been idle the longest is evicted first.
    """

    name: str
    state: State
    awake: Shares
    asleep: Shares = {}
    can_sleep: bool = False
    is_busy: bool = False
    is_pinned: bool = False
    last_used_s: float = 0.0

    @property
    def eviction_state(self) -> State:
        """The state that a loaded engine gets when it is evicted: asleep where it can sleep, else out."""
        return "asleep" if self.asleep or self.can_sleep else "out"

    def shares_in(self, state: State) -> Shares:
        """The shares that it takes in `state`."""
        return self.awake if state == "loaded" else self.asleep if state == "asleep" else {}


class EvictionPlan(Struct, frozen=True):
    """Whether an engine can be loaded, and which others have to be evicted first.

    Attributes:
        verdict: "go": it fits once `moves` have been made; "wait": busy engines have to finish first; "never": it does
            not fit, alone or beside the pinned engines.
        moves: the new state of each engine that is evicted, by its name, the longest idle first.
    """

    verdict: Literal["go", "wait", "never"]
    moves: Mapping[str, State] = {}


def rivals(name: str, names: Collection[str], exclusive: Sequence[Sequence[str]]) -> AbstractSet[str]:
    """Those of `names` that may not be loaded together with `name`.

    Groups contain names of engines in the config, which mean all their replicas. Replicas of one engine are no rivals.
    """
    own = engine_of(name)
    listed = {member for group in exclusive if own in group for member in group} - {own}
    return {other for other in names if engine_of(other) in listed}


def plan_eviction(
    name: str, footprints: Sequence[GpuFootprint], *, rivals: AbstractSet[str] = frozenset(), total: float = 1.0
) -> EvictionPlan:
    """Which engines to evict so that the engine `name` can be loaded; evicts no more than necessary.

    Args:
        name: the engine that is to be loaded, one of `footprints`.
        footprints: all engines.
        rivals: the names of engines that may not be loaded together with it.
        total: the share of each GPU that may be allocated.
    """
    need = _Need(next(footprint.awake for footprint in footprints if footprint.name == name), rivals, total)
    others = sorted(
        (footprint for footprint in footprints if footprint.name != name), key=lambda footprint: footprint.last_used_s
    )
    if not need.fits(others, {footprint.name: "out" for footprint in others if not footprint.is_pinned}):
        return EvictionPlan("never")
    moves: dict[str, State] = {}
    steps = _steps(need, others)
    while not need.fits(others, moves):
        step = next(steps, None)
        if step is None:
            return EvictionPlan("wait")
        moves |= step
    return EvictionPlan("go", _drop_needless(need, others, moves))


class _Need(Struct, frozen=True):
    """What the engine that is to be loaded needs.

    Attributes:
        shares: its share of each GPU.
        rivals: the names of engines that may not be loaded together with it.
        total: the share of each GPU that may be allocated.
    """

    shares: Shares
    rivals: AbstractSet[str]
    total: float

    def may_conflict(self, footprint: GpuFootprint) -> bool:
        """Whether another engine can prevent the load: it is a rival, or uses the same GPU."""
        return footprint.name in self.rivals or bool(footprint.awake.keys() & self.shares.keys())

    def fits(self, others: Sequence[GpuFootprint], moves: Mapping[str, State]) -> bool:
        """Whether the engine can be loaded after `moves`."""
        states = {footprint.name: moves.get(footprint.name, footprint.state) for footprint in others}
        if any(states[name] == "loaded" for name in self.rivals & states.keys()):
            return False
        held = [footprint.shares_in(states[footprint.name]) for footprint in others]
        return all(
            share + sum(shares.get(gpu, 0.0) for shares in held) <= self.total + _ROUNDING
            for gpu, share in self.shares.items()
        )


def _steps(need: _Need, others: Sequence[GpuFootprint]) -> Iterator[dict[str, State]]:
    """The moves to try, one by one: loaded engines to sleep (or out, if they cannot), then sleeping ones out."""
    evictable = [
        footprint
        for footprint in others
        if not (footprint.is_busy or footprint.is_pinned) and need.may_conflict(footprint)
    ]
    for footprint in evictable:
        if footprint.state == "loaded":
            yield {footprint.name: footprint.eviction_state}
    for footprint in evictable:
        if footprint.eviction_state == "asleep" and footprint.state != "out":
            yield {footprint.name: "out"}


def _drop_needless(need: _Need, others: Sequence[GpuFootprint], moves: dict[str, State]) -> dict[str, State]:
    """Remove moves that turned out to be unnecessary, first those of the engines used last."""
    for footprint in reversed(others):
        for smaller in _smaller_moves(footprint, moves):
            if need.fits(others, smaller):
                moves = smaller
                break
    return moves


def _smaller_moves(footprint: GpuFootprint, moves: dict[str, State]) -> Iterator[dict[str, State]]:
    """Smaller variants of `moves` for one engine: no move, or asleep in place of out."""
    if footprint.name in moves:
        yield {name: state for name, state in moves.items() if name != footprint.name}
        if moves[footprint.name] == "out" and footprint.state == "loaded" and footprint.eviction_state == "asleep":
            yield moves | {footprint.name: "asleep"}
