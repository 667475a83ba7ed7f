"""Which engine is loaded next, and which ones make room for it: a pure function of what holds at one moment.

An engine that is to be loaded claims its room. The rules:

- Claims that compete (for a GPU, or as members of an exclusive group) are met one after another. First those whose
  engines requests have waited for, the longest wait first; then those that no request waits for, in the order of
  their coming.
- An idle engine in the way makes room at once, except that one to which further requests have come since it was
  loaded stays for `min_loaded_s`.
- An engine with requests stays, and takes new ones, until a request for another one has waited `max_wait_s`; nor does
  it go before it was loaded for `min_loaded_s`. Then it closes: new requests wait for its next turn, running answers
  end, and it makes room. It opens again where no request waits for the other one any more.
- A sleeping engine makes room for those that are before it, also while requests wait for it.

So every engine that requests wait for gets its turn. Where each of n engines is in the way of every other one, that
is at the latest after `max_wait_s`, and n + 1 times the sum of `min_loaded_s`, the longest running answer, one unload
and one load: only the engines whose requests have waited longer come before it, each once.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import inf

from msgspec import Struct, structs

from proxy.config.swap import SwapConfig
from proxy.engines.plan import Plan, Seat, State, plan, rivals


class Standing(Struct, frozen=True, kw_only=True):
    """One engine at one moment; durations are seconds.

    Attributes:
        seat: what it takes; whether it is busy is decided here.
        is_settled: it is loaded, asleep or out, and not on its way from one to another.
        is_closed: it takes no new requests, as it is to make room.
        in_flight: requests that it has.
        waited_s: for how long requests have waited for it; None: none waits.
        loaded_s: how long it has been loaded.
        has_further: requests have come since it was loaded, beside those that it was loaded for.
    """

    seat: Seat
    is_settled: bool = True
    is_closed: bool = False
    in_flight: int = 0
    waited_s: float | None = None
    loaded_s: float = 0.0
    has_further: bool = False


class Move(Struct, frozen=True):
    """An engine that makes room.

    Attributes:
        to: what it comes down to.
        wanted: the engine that it makes room for.
    """

    to: State
    wanted: str


class Turn(Struct, frozen=True, kw_only=True):
    """What to do now.

    Attributes:
        load: the claims that have their room.
        never: the claims that pinned engines leave no room for.
        moves: the engines that make room: they take no new requests, and go when they have none.
        look_in_s: when to look again, in seconds; None: when something has changed.
    """

    load: AbstractSet[str] = frozenset()
    never: AbstractSet[str] = frozenset()
    moves: Mapping[str, Move] = {}
    look_in_s: float | None = None


def decide(claims: Sequence[str], standings: Mapping[str, Standing], swap: SwapConfig) -> Turn:
    """What to do now.

    Args:
        claims: the engines that are to be loaded, in the order of their coming.
        standings: every engine by its name.
        swap: how patient to be, and what may not be loaded together.
    """
    standings = dict(standings)
    waiting: list[str] = []  # the claims that are not met yet, and come before the next one
    load, never, moves = set(), set(), dict[str, Move]()
    for name in _in_order(claims, standings):
        if any(_compete(name, other, standings, swap) for other in waiting):
            waiting.append(name)
            continue
        made = _plan(name, standings, swap)
        if made.verdict == "never":
            never.add(name)
        elif made.verdict == "go" and not made.moves:
            load.add(name)
            seat = structs.replace(standings[name].seat, state="loaded")
            standings[name] = structs.replace(standings[name], seat=seat, is_settled=False)
        else:
            waiting.append(name)
            _add(moves, made.moves, name)
    return Turn(load=load, never=never, moves=moves, look_in_s=min(_due_in_s(waiting, standings, swap), default=None))


def _in_order(claims: Sequence[str], standings: Mapping[str, Standing]) -> Sequence[str]:
    def urgency(name: str) -> float:
        waited_s = standings[name].waited_s
        return 1.0 if waited_s is None else -waited_s

    return sorted(claims, key=urgency)


def _compete(name: str, other: str, standings: Mapping[str, Standing], swap: SwapConfig) -> bool:
    shared = standings[name].seat.awake.keys() & standings[other].seat.awake.keys()
    return bool(shared or rivals(name, (other,), swap.exclusive))


def _plan(name: str, standings: Mapping[str, Standing], swap: SwapConfig) -> Plan:
    """Without disturbing requests; or, where it has waited long enough, with engines that have some as well."""
    excluded = rivals(name, standings, swap.exclusive)
    made = plan(name, [_seat(each, is_busy=_is_in_use(each, swap)) for each in standings.values()], rivals=excluded)
    waited_s = standings[name].waited_s
    if made.verdict != "wait" or waited_s is None or waited_s < swap.max_wait_s:
        return made
    seats = [_seat(each, is_busy=_is_new(each, swap) or _is_entered(each)) for each in standings.values()]
    return plan(name, seats, rivals=excluded)


def _seat(standing: Standing, *, is_busy: bool) -> Seat:
    """As the planner sees it; a closed one comes first, lest the choice change with each answer that ends."""
    seat = structs.replace(standing.seat, is_busy=is_busy or not standing.is_settled)
    return structs.replace(seat, last_used_s=-inf) if standing.is_closed else seat


def _is_entered(standing: Standing) -> bool:
    """Whether the requests that it was loaded for are about to get their places."""
    return standing.seat.state == "loaded" and standing.waited_s is not None and not standing.is_closed


def _is_in_use(standing: Standing, swap: SwapConfig) -> bool:
    is_loaded = standing.seat.state == "loaded"
    return (is_loaded and standing.in_flight > 0) or _is_entered(standing) or _is_new(standing, swap)


def _is_new(standing: Standing, swap: SwapConfig) -> bool:
    """Whether it gets requests, and was loaded a moment ago."""
    is_asked = standing.in_flight > 0 or standing.has_further
    return standing.seat.state == "loaded" and is_asked and standing.loaded_s < swap.min_loaded_s


def _add(moves: dict[str, Move], further: Mapping[str, State], wanted: str) -> None:
    """What is asked of an engine for two others is the most of it."""
    for name, state in further.items():
        if name not in moves or state == "out":
            moves[name] = Move(state, wanted)


def _due_in_s(waiting: Sequence[str], standings: Mapping[str, Standing], swap: SwapConfig) -> Iterator[float]:
    """When the passing of time alone may change the decision."""
    if not waiting:
        return
    for name in waiting:
        waited_s = standings[name].waited_s
        if waited_s is not None and waited_s < swap.max_wait_s:
            yield swap.max_wait_s - waited_s
    for standing in standings.values():
        if _is_new(standing, swap):
            yield swap.min_loaded_s - standing.loaded_s
