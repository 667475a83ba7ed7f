"""Which replica of an engine gets a request, and whether a further one is to be loaded. Pure.

For policies the replicas of an engine are one candidate: the replica that would get the request represents them, so
that a target's weight, order and `local_first` apply to the whole engine. In the plan the other replicas follow it,
before the next target.

Among the ready replicas, the turns of a conversation stay at one, whose prefix cache holds them: the one with the
highest rendezvous score (`affinity`), so that removing a replica moves only its own sessions. A session goes to the
next highest score if two things are true: its replica has more than `max_load` times an equal part of the work, and its
work is more than one request above that of the least busy replica. (A few requests need not be spread, and would miss
the cache.) Without a session, and for the order of the other replicas, the one with the least work comes first. In slow
start a replica's part of the work is multiplied by its `share`.

A further replica is loaded only when each ready replica has work, one at a time. Until then one unloaded replica comes
last in the order, as a reserve; none does while another one is loading.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tidegate.routing.affinity import rendezvous_score
from tidegate.routing.candidate import Candidate, RankedCandidate

_MIN_SHARE = 0.01  # a candidate's share may be 0, but is a divisor here


class Group(Struct, frozen=True):
    """The replicas of one engine, for one request.

    Attributes:
        order: the replicas to be tried, in order.
        is_sticky: the session stays at the first one.
        to_load: a replica to be loaded in addition; None if there is none.
        unneeded: replicas that are not loaded, and need not be.
    """

    order: Sequence[Candidate]
    is_sticky: bool = False
    to_load: Candidate | None = None
    unneeded: Sequence[Candidate] = ()


def group(candidates: Sequence[Candidate], key: bytes, *, max_load: float) -> Mapping[str, Group]:
    """The candidates grouped by their targets' `shared_name`, in the order of the first one of each group.

    A candidate that is not a replica is a group of its own.

    Args:
        candidates: the candidates of all targets.
        key: the session's key; empty if the request may go to any replica.
        max_load: how many times an equal part of the work a replica may have and still get more; at least 1.
    """
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.target.shared_name, []).append(candidate)
    return {name: arrange(members, key, max_load=max_load) for name, members in groups.items()}


def ungroup(ranked: Sequence[RankedCandidate], groups: Mapping[str, Group]) -> Sequence[RankedCandidate]:
    """All candidates: the replicas of a group follow each other where the policy has placed the first one."""
    ungrouped: list[RankedCandidate] = []
    for first in ranked:
        replica_group = groups[first.candidate.target.shared_name]
        if len(replica_group.order) == 1:
            ungrouped.append(first)
            continue
        why = first.why or ("its session is here" if replica_group.is_sticky else "the replica with the least work")
        ungrouped.append(RankedCandidate(first.candidate, first.score, why))
        ungrouped += [
            RankedCandidate(other, None, "the next replica, by its work") for other in replica_group.order[1:]
        ]
    return ungrouped


def arrange(members: Sequence[Candidate], key: bytes, *, max_load: float) -> Group:
    """The replicas of one engine in the order in which they are to be tried; see `group`."""
    if len(members) == 1:
        return Group(members)
    by_availability: dict[str, list[Candidate]] = {"ready": [], "loading": [], "unloaded": [], "unavailable": []}
    for candidate in members:
        by_availability[candidate.availability].append(candidate)
    ready, unloaded = sorted(by_availability["ready"], key=_rank), by_availability["unloaded"]
    session_replica = _session_replica(ready, key, max_load) if key else None
    if session_replica is not None:
        ready = [session_replica, *(each for each in ready if each is not session_replica)]
    # always the same one: otherwise several requests would load several replicas
    reserve = [] if by_availability["loading"] else unloaded[:1]
    is_needed = bool(ready) and all(each.work for each in ready)
    return Group(
        [*ready, *by_availability["loading"], *reserve, *by_availability["unavailable"]],
        is_sticky=session_replica is not None,
        to_load=reserve[0] if reserve and is_needed else None,
        unneeded=unloaded[len(reserve) :],
    )


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return candidate.is_overloaded, (candidate.work + 1) / _share(candidate)


def _session_replica(ready: Sequence[Candidate], key: bytes, max_load: float) -> Candidate | None:
    """The replica with room that has the highest score; an overloaded one only if all are. None: no choice."""
    eligible = [each for each in ready if not each.is_overloaded] or ready
    if len(eligible) < 2:
        return None
    work_per_share = max_load * (sum(each.work for each in eligible) + 1) / sum(map(_share, eligible))
    least_work = min(each.work for each in eligible)
    with_room = [
        each
        for each in eligible
        if each.work < work_per_share * _share(each) or (each.share >= 1 and each.work <= least_work + 1)
    ]
    return max(with_room, key=lambda each: rendezvous_score(each.target.name, key), default=None)


def _share(candidate: Candidate) -> float:
    return max(candidate.share, _MIN_SHARE)
