"""Which engine is loaded next, and which engines are evicted for it: a pure function of the state at one moment.

To evict an engine is to put it to sleep or to stop it, so that another one can be loaded. An engine that is to be
loaded makes a claim. Two engines conflict if they do not fit on a GPU together, or are members of an exclusive group.
The rules:

- Claims that compete (for a GPU, or as members of an exclusive group) are met one after another: first those that
  requests wait for, the longest wait first, then the others in the order of the claims.
- A conflicting engine that is idle is evicted at once. Exception: if it has got new requests since it was loaded, it
  stays for `min_loaded_s`.
- A conflicting engine with requests stays, and accepts new ones, until a request for the other engine has waited
  `max_wait_s` and the engine has itself been loaded for `min_loaded_s`. Then it is closed: new requests wait until it
  is loaded the next time, running answers end, and it is evicted. It reopens if no request waits for the other engine
  any more.
- A sleeping engine is stopped for engines whose claims come first, also while requests wait for it.

So every engine that requests wait for is loaded eventually. With n engines of which each conflicts with all others,
that is at the latest after `max_wait_s` plus n + 1 times the sum of `min_loaded_s`, the longest running answer, one
unload and one load: only engines whose requests have waited longer are loaded before it, each once.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import inf

from msgspec import Struct, structs

from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import EvictionPlan, GpuFootprint, State, plan_eviction, rivals


class EngineUse(Struct, frozen=True, kw_only=True):
    """One engine at one moment; durations are seconds.

    Attributes:
        footprint: the memory that it takes; `decide` sets `is_busy` in it, and `last_used_s` of a closed engine.
        is_settled: it is not being loaded, put to sleep, woken or stopped.
        is_closed: it accepts no new requests, as it is to be evicted.
        in_flight: the number of requests that it is answering.
        waited_s: for how long requests have waited for it; None: no request waits.
        loaded_s: how long it has been loaded.
        has_new_requests: requests have come since it was loaded, besides those that it was loaded for.
    """

    footprint: GpuFootprint
    is_settled: bool = True
    is_closed: bool = False
    in_flight: int = 0
    waited_s: float | None = None
    loaded_s: float = 0.0
    has_new_requests: bool = False


class Move(Struct, frozen=True):
    """How an engine is evicted.

    Attributes:
        to: its state afterwards, asleep or out.
        for_engine: the engine that is to be loaded.
    """

    to: State
    for_engine: str


class Decision(Struct, frozen=True, kw_only=True):
    """What to do now.

    Attributes:
        load: the engines whose claims are met: they may be loaded at once.
        never: the engines that can never be loaded beside the pinned engines.
        moves: the engines to evict: each accepts no new requests, and is evicted when it has none.
        decide_again_in_s: seconds after which time alone may change the decision; None: only an event can.
    """

    load: AbstractSet[str] = frozenset()
    never: AbstractSet[str] = frozenset()
    moves: Mapping[str, Move] = {}
    decide_again_in_s: float | None = None


def decide(claims: Sequence[str], snapshots: Mapping[str, EngineUse], swap: SwapConfig) -> Decision:
    """Decide what to do now.

    Args:
        claims: the names of the engines that are to be loaded, in the order of their claims.
        snapshots: every engine by its name.
        swap: the time limits, and the exclusive groups.
    """
    snapshots = dict(snapshots)
    waiting: list[str] = []  # the claims that are not met; a later claim that competes with one of them waits too
    load, never, moves = set(), set(), dict[str, Move]()
    for name in _by_urgency(claims, snapshots):
        if any(_compete(name, other, snapshots, swap) for other in waiting):
            waiting.append(name)
            continue
        eviction = _plan(name, snapshots, swap)
        if eviction.verdict == "never":
            never.add(name)
        elif eviction.verdict == "go" and not eviction.moves:
            load.add(name)
            footprint = structs.replace(snapshots[name].footprint, state="loaded")
            snapshots[name] = structs.replace(snapshots[name], footprint=footprint, is_settled=False)
        else:
            waiting.append(name)
            _add_moves(moves, eviction.moves, name)
    return Decision(
        load=load, never=never, moves=moves, decide_again_in_s=min(_due_in_s(waiting, snapshots, swap), default=None)
    )


def _by_urgency(claims: Sequence[str], snapshots: Mapping[str, EngineUse]) -> Sequence[str]:
    def urgency(name: str) -> float:
        waited_s = snapshots[name].waited_s
        return 1.0 if waited_s is None else -waited_s

    return sorted(claims, key=urgency)


def _compete(name: str, other: str, snapshots: Mapping[str, EngineUse], swap: SwapConfig) -> bool:
    shared = snapshots[name].footprint.awake.keys() & snapshots[other].footprint.awake.keys()
    return bool(shared or rivals(name, (other,), swap.exclusive))


def _plan(name: str, snapshots: Mapping[str, EngineUse], swap: SwapConfig) -> EvictionPlan:
    """A plan that evicts no engine with requests; if there is none after `max_wait_s`, one that may."""
    excluded = rivals(name, snapshots, swap.exclusive)
    eviction = plan_eviction(
        name, [_footprint(each, is_busy=_is_in_use(each, swap)) for each in snapshots.values()], rivals=excluded
    )
    waited_s = snapshots[name].waited_s
    if eviction.verdict != "wait" or waited_s is None or waited_s < swap.max_wait_s:
        return eviction
    footprints = [
        _footprint(each, is_busy=_is_new(each, swap) or _is_being_entered(each)) for each in snapshots.values()
    ]
    return plan_eviction(name, footprints, rivals=excluded)


def _footprint(snapshot: EngineUse, *, is_busy: bool) -> GpuFootprint:
    """The engine for `plan_eviction`. A closed one is evicted first, so the choice does not change meanwhile."""
    footprint = structs.replace(snapshot.footprint, is_busy=is_busy or not snapshot.is_settled)
    return structs.replace(footprint, last_used_s=-inf) if snapshot.is_closed else footprint


def _is_being_entered(snapshot: EngineUse) -> bool:
    """Whether the engine was just loaded, and the requests that it was loaded for are still taking their slots."""
    return snapshot.footprint.state == "loaded" and snapshot.waited_s is not None and not snapshot.is_closed


def _is_in_use(snapshot: EngineUse, swap: SwapConfig) -> bool:
    is_loaded = snapshot.footprint.state == "loaded"
    return (is_loaded and snapshot.in_flight > 0) or _is_being_entered(snapshot) or _is_new(snapshot, swap)


def _is_new(snapshot: EngineUse, swap: SwapConfig) -> bool:
    """Whether the engine gets requests, and was loaded less than `min_loaded_s` ago."""
    has_requests = snapshot.in_flight > 0 or snapshot.has_new_requests
    return snapshot.footprint.state == "loaded" and has_requests and snapshot.loaded_s < swap.min_loaded_s


def _add_moves(moves: dict[str, Move], new_moves: Mapping[str, State], for_engine: str) -> None:
    """Add evictions; an engine that is evicted for two others is stopped if one of them needs that."""
    for name, state in new_moves.items():
        if name not in moves or state == "out":
            moves[name] = Move(state, for_engine)


def _due_in_s(waiting: Sequence[str], snapshots: Mapping[str, EngineUse], swap: SwapConfig) -> Iterator[float]:
    """The seconds until a time limit ends: `max_wait_s` of a claim, or `min_loaded_s` of an engine."""
    if not waiting:
        return
    for name in waiting:
        waited_s = snapshots[name].waited_s
        if waited_s is not None and waited_s < swap.max_wait_s:
            yield swap.max_wait_s - waited_s
    for snapshot in snapshots.values():
        if _is_new(snapshot, swap):
            yield swap.min_loaded_s - snapshot.loaded_s
