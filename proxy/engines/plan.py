"""Which engines make room so that another can be loaded: a pure function of who is there.

Memory is counted in shares of each GPU, as vLLM takes it (`gpu_memory_utilization`). Engines on the CPU take none.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

Shares = Mapping[int, float]  # of each GPU, by its number, 0 to 1
State = Literal["loaded", "asleep", "out"]

_ROUNDING = 1e-6


class Seat(Struct, frozen=True, kw_only=True):
    """One engine, as the planner sees it.

    Attributes:
        state: loaded (or about to be), asleep, or out.
        awake: what it takes loaded.
        asleep: what it still takes asleep; nothing where it cannot sleep.
        is_busy: it has requests, or is on its way up or down.
        is_pinned: it makes room for nobody.
        last_used_s: when it was last asked, for who goes first.
    """

    name: str
    state: State
    awake: Shares
    asleep: Shares = {}
    is_busy: bool = False
    is_pinned: bool = False
    last_used_s: float = 0.0

    def held(self, state: State) -> Shares:
        """What it takes in that state."""
        return self.awake if state == "loaded" else self.asleep if state == "asleep" else {}


class Plan(Struct, frozen=True):
    """What to do.

    Attributes:
        verdict: go: there is room once the others have moved; wait: busy ones have to finish first; never: even alone,
            or beside the pinned ones, it does not fit.
        moves: what each engine that makes room comes down to, by its name, the longest idle first.
    """

    verdict: Literal["go", "wait", "never"]
    moves: Mapping[str, State] = {}


def plan(wanted: str, seats: Sequence[Seat], *, total: float = 1.0) -> Plan:
    """How `wanted`, one of `seats`, gets its memory, if it can; no more is moved than has to be.

    Args:
        wanted: its name.
        seats: everybody's.
        total: share of each GPU that may be given out.
    """
    need = next(seat.awake for seat in seats if seat.name == wanted)
    others = sorted((seat for seat in seats if seat.name != wanted), key=lambda seat: seat.last_used_s)
    if not _fits(need, others, {seat.name: "out" for seat in others if not seat.is_pinned}, total):
        return Plan("never")
    moves: dict[str, State] = {}
    steps = _steps(need, others)
    while not _fits(need, others, moves, total):
        step = next(steps, None)
        if step is None:
            return Plan("wait")
        moves |= step
    return Plan("go", _fewest(need, others, moves, total))


def _steps(need: Shares, others: Sequence[Seat]) -> Iterator[dict[str, State]]:
    """First the loaded ones fall asleep (or out, if they cannot sleep), then the sleeping ones out."""
    movable = [seat for seat in others if not (seat.is_busy or seat.is_pinned) and seat.awake.keys() & need.keys()]
    for seat in movable:
        if seat.state == "loaded":
            yield {seat.name: "asleep" if seat.asleep else "out"}
    for seat in movable:
        if seat.asleep and seat.state != "out":
            yield {seat.name: "out"}


def _fewest(need: Shares, others: Sequence[Seat], moves: dict[str, State], total: float) -> dict[str, State]:
    """Without what was done on the way, but proved needless; those used last are spared first."""
    for seat in reversed(others):
        for lesser in _lesser(seat, moves):
            if _fits(need, others, lesser, total):
                moves = lesser
                break
    return moves


def _lesser(seat: Seat, moves: dict[str, State]) -> Iterator[dict[str, State]]:
    """Moves that ask less of one engine: nothing, or sleep in place of going out."""
    if seat.name in moves:
        yield {name: state for name, state in moves.items() if name != seat.name}
        if moves[seat.name] == "out" and seat.state == "loaded" and seat.asleep:
            yield moves | {seat.name: "asleep"}


def _fits(need: Shares, others: Sequence[Seat], moves: Mapping[str, State], total: float) -> bool:
    held = [seat.held(moves.get(seat.name, seat.state)) for seat in others]
    return all(share + sum(one.get(gpu, 0.0) for one in held) <= total + _ROUNDING for gpu, share in need.items())
