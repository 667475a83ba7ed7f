"""Which engines make room so that another can be loaded: a pure function of who is there.

Memory is counted in shares of each GPU, as vLLM takes it (`gpu_memory_utilization`). Engines on the CPU take none.
Engines of an exclusive group are not loaded together, whatever they take. One that sleeps counts as not loaded, but
its memory still counts.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import Struct

from tidegate.config.replicas import engine_of

Shares = Mapping[int, float]  # of each GPU, by its number, 0 to 1
State = Literal["loaded", "asleep", "out"]

_ROUNDING = 1e-6


class GpuFootprint(Struct, frozen=True, kw_only=True):
    """One engine, as the planner sees it.

    Attributes:
        state: loaded (or about to be), asleep, or out.
        awake: what it takes loaded.
        asleep: what it still takes asleep; nothing where it cannot sleep.
        can_sleep: it can sleep, and takes nothing of the GPUs then.
        is_busy: it has requests, or is on its way up or down.
        is_pinned: it makes room for nobody.
        last_used_s: when it was last asked, for who goes first.
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
    def makes_room_by(self) -> State:
        """The state to which it goes first to make room, if it is loaded."""
        return "asleep" if self.asleep or self.can_sleep else "out"

    def held(self, state: State) -> Shares:
        """What it takes in that state."""
        return self.awake if state == "loaded" else self.asleep if state == "asleep" else {}


class EvictionPlan(Struct, frozen=True):
    """What to do.

    Attributes:
        verdict: go: there is room once the others have moved; wait: busy ones have to finish first; never: even alone,
            or beside the pinned ones, it does not fit.
        moves: what each engine that makes room comes down to, by its name, the longest idle first.
    """

    verdict: Literal["go", "wait", "never"]
    moves: Mapping[str, State] = {}


def rivals(name: str, names: Collection[str], exclusive: Sequence[Sequence[str]]) -> AbstractSet[str]:
    """Those of `names` that may not be loaded together with `name`.

    Groups hold names of engines in the config, which mean all their replicas. Replicas of one engine are no rivals.
    """
    own = engine_of(name)
    listed = {member for group in exclusive if own in group for member in group} - {own}
    return {other for other in names if engine_of(other) in listed}


def plan(
    wanted: str, seats: Sequence[GpuFootprint], *, rivals: AbstractSet[str] = frozenset(), total: float = 1.0
) -> EvictionPlan:
    """How `wanted`, one of `seats`, gets its memory, if it can; no more is moved than has to be.

    Args:
        wanted: its name.
        seats: everybody's.
        rivals: the names of engines that may not be loaded together with it.
        total: share of each GPU that may be given out.
    """
    need = _Need(next(footprint.awake for footprint in seats if footprint.name == wanted), rivals, total)
    others = sorted(
        (footprint for footprint in seats if footprint.name != wanted), key=lambda footprint: footprint.last_used_s
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
    return EvictionPlan("go", _fewest(need, others, moves))


class _Need(Struct, frozen=True):
    """What the engine that is to be loaded needs.

    Attributes:
        shares: of each GPU.
        rivals: the names of engines that may not be loaded together with it.
        total: share of each GPU that may be given out.
    """

    shares: Shares
    rivals: AbstractSet[str]
    total: float

    def concerns(self, footprint: GpuFootprint) -> bool:
        """Whether an engine can be in its way."""
        return footprint.name in self.rivals or bool(footprint.awake.keys() & self.shares.keys())

    def fits(self, others: Sequence[GpuFootprint], moves: Mapping[str, State]) -> bool:
        """Whether there is room when `moves` have been made."""
        states = {footprint.name: moves.get(footprint.name, footprint.state) for footprint in others}
        if any(states[name] == "loaded" for name in self.rivals & states.keys()):
            return False
        held = [footprint.held(states[footprint.name]) for footprint in others]
        return all(
            share + sum(one.get(gpu, 0.0) for one in held) <= self.total + _ROUNDING
            for gpu, share in self.shares.items()
        )


def _steps(need: _Need, others: Sequence[GpuFootprint]) -> Iterator[dict[str, State]]:
    """First the loaded ones fall asleep (or out, if they cannot sleep), then the sleeping ones out."""
    movable = [
        footprint for footprint in others if not (footprint.is_busy or footprint.is_pinned) and need.concerns(footprint)
    ]
    for footprint in movable:
        if footprint.state == "loaded":
            yield {footprint.name: footprint.makes_room_by}
    for footprint in movable:
        if footprint.makes_room_by == "asleep" and footprint.state != "out":
            yield {footprint.name: "out"}


def _fewest(need: _Need, others: Sequence[GpuFootprint], moves: dict[str, State]) -> dict[str, State]:
    """Without what was done on the way, but proved needless; those used last are spared first."""
    for footprint in reversed(others):
        for lesser in _lesser(footprint, moves):
            if need.fits(others, lesser):
                moves = lesser
                break
    return moves


def _lesser(footprint: GpuFootprint, moves: dict[str, State]) -> Iterator[dict[str, State]]:
    """Moves that ask less of one engine: nothing, or sleep in place of going out."""
    if footprint.name in moves:
        yield {name: state for name, state in moves.items() if name != footprint.name}
        if moves[footprint.name] == "out" and footprint.state == "loaded" and footprint.makes_room_by == "asleep":
            yield moves | {footprint.name: "asleep"}
