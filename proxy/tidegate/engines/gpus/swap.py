"""Which engine is loaded next, and which ones make room for it: a pure function of the state at one moment.

An engine that is to be loaded claims room. The rules:

- Claims that compete (for a GPU, or as members of an exclusive group) are met one after another: first those that
  requests wait for, the longest wait first, then the others in the order of the claims.
- An idle engine in the way makes room at once. Exception: if it has got new requests since it was loaded, it stays for
  `min_loaded_s`.
- An engine with requests stays, and takes new ones, until a request for another engine has waited `max_wait_s` and it
  has itself been loaded for `min_loaded_s`. Then it closes: new requests wait for its next turn, running answers end,
  and it makes room. It reopens if no request waits for the other engine any more.
- A sleeping engine makes room for engines whose claims come first, also while requests wait for it.

So every engine that requests wait for gets its turn. With n engines of which each is in the way of all others, that is
at the latest after `max_wait_s`, and n + 1 times the sum of `min_loaded_s`, the longest running answer, one unload and
one load: only engines whose requests have waited longer come before it, each once.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import inf

from msgspec import Struct, structs

from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import EvictionPlan, GpuFootprint, State, plan, rivals


class SwapCandidate(Struct, frozen=True, kw_only=True):
    """One engine at one moment; durations are seconds.

    Attributes:
        seat: what it takes; whether it is busy is decided here.
        is_settled: it is not being loaded, put to sleep, woken or stopped.
        is_closed: it takes no new requests, as it is to make room.
        in_flight: how many requests it has.
        waited_s: for how long requests have waited for it; None: none waits.
        loaded_s: how long it has been loaded.
        has_new_requests: requests have come since it was loaded, beside those that it was loaded for.
    """

    footprint: GpuFootprint
    is_settled: bool = True
    is_closed: bool = False
    in_flight: int = 0
    waited_s: float | None = None
    loaded_s: float = 0.0
    has_new_requests: bool = False


class Move(Struct, frozen=True):
    """An engine that makes room.

    Attributes:
        to: its state afterwards.
        wanted: the engine that it makes room for.
    """

    to: State
    wanted: str


class Decision(Struct, frozen=True, kw_only=True):
    """What to do now.

    Attributes:
        load: the engines whose claims are met.
        never: the engines for which pinned engines leave no room.
        moves: the engines that make room: they take no new requests, and do so when they have none.
        look_in_s: seconds after which time alone may change the decision; None: only an event can.
    """

    load: AbstractSet[str] = frozenset()
    never: AbstractSet[str] = frozenset()
    moves: Mapping[str, Move] = {}
    look_in_s: float | None = None


def decide(claims: Sequence[str], snapshots: Mapping[str, SwapCandidate], swap: SwapConfig) -> Decision:
    """What to do now.

    Args:
        claims: the engines that are to be loaded, in the order of their claims.
        snapshots: every engine by its name.
        swap: the waits, and the exclusive groups.
    """
    snapshots = dict(snapshots)
    waiting: list[str] = []  # the claims that are not met, and come before the next one
    load, never, moves = set(), set(), dict[str, Move]()
    for name in _in_order(claims, snapshots):
        if any(_compete(name, other, snapshots, swap) for other in waiting):
            waiting.append(name)
            continue
        made = _plan(name, snapshots, swap)
        if made.verdict == "never":
            never.add(name)
        elif made.verdict == "go" and not made.moves:
            load.add(name)
            footprint = structs.replace(snapshots[name].footprint, state="loaded")
            snapshots[name] = structs.replace(snapshots[name], footprint=footprint, is_settled=False)
        else:
            waiting.append(name)
            _add(moves, made.moves, name)
    return Decision(
        load=load, never=never, moves=moves, look_in_s=min(_due_in_s(waiting, snapshots, swap), default=None)
    )


def _in_order(claims: Sequence[str], snapshots: Mapping[str, SwapCandidate]) -> Sequence[str]:
    def urgency(name: str) -> float:
        waited_s = snapshots[name].waited_s
        return 1.0 if waited_s is None else -waited_s

    return sorted(claims, key=urgency)


def _compete(name: str, other: str, snapshots: Mapping[str, SwapCandidate], swap: SwapConfig) -> bool:
    shared = snapshots[name].footprint.awake.keys() & snapshots[other].footprint.awake.keys()
    return bool(shared or rivals(name, (other,), swap.exclusive))


def _plan(name: str, snapshots: Mapping[str, SwapCandidate], swap: SwapConfig) -> EvictionPlan:
    """A plan that disturbs no requests; if that fails after `max_wait_s`, one that includes engines with requests."""
    excluded = rivals(name, snapshots, swap.exclusive)
    made = plan(name, [_seat(each, is_busy=_is_in_use(each, swap)) for each in snapshots.values()], rivals=excluded)
    waited_s = snapshots[name].waited_s
    if made.verdict != "wait" or waited_s is None or waited_s < swap.max_wait_s:
        return made
    seats = [_seat(each, is_busy=_is_new(each, swap) or _is_entered(each)) for each in snapshots.values()]
    return plan(name, seats, rivals=excluded)


def _seat(snapshot: SwapCandidate, *, is_busy: bool) -> GpuFootprint:
    """The engine as `plan` takes it. A closed one makes room first, so that the choice does not change meanwhile."""
    footprint = structs.replace(snapshot.footprint, is_busy=is_busy or not snapshot.is_settled)
    return structs.replace(footprint, last_used_s=-inf) if snapshot.is_closed else footprint


def _is_entered(snapshot: SwapCandidate) -> bool:
    """Whether it was just loaded, and the requests that it was loaded for are getting their places."""
    return snapshot.footprint.state == "loaded" and snapshot.waited_s is not None and not snapshot.is_closed


def _is_in_use(snapshot: SwapCandidate, swap: SwapConfig) -> bool:
    is_loaded = snapshot.footprint.state == "loaded"
    return (is_loaded and snapshot.in_flight > 0) or _is_entered(snapshot) or _is_new(snapshot, swap)


def _is_new(snapshot: SwapCandidate, swap: SwapConfig) -> bool:
    """Whether it gets requests, and was loaded less than `min_loaded_s` ago."""
    is_asked = snapshot.in_flight > 0 or snapshot.has_new_requests
    return snapshot.footprint.state == "loaded" and is_asked and snapshot.loaded_s < swap.min_loaded_s


def _add(moves: dict[str, Move], further: Mapping[str, State], wanted: str) -> None:
    """Add moves; an engine that makes room for two others stops if one of them needs that."""
    for name, state in further.items():
        if name not in moves or state == "out":
            moves[name] = Move(state, wanted)


def _due_in_s(waiting: Sequence[str], snapshots: Mapping[str, SwapCandidate], swap: SwapConfig) -> Iterator[float]:
    """The seconds after which a wait or a minimum time is over."""
    if not waiting:
        return
    for name in waiting:
        waited_s = snapshots[name].waited_s
        if waited_s is not None and waited_s < swap.max_wait_s:
            yield swap.max_wait_s - waited_s
    for snapshot in snapshots.values():
        if _is_new(snapshot, swap):
            yield swap.min_loaded_s - snapshot.loaded_s
