"""Which replica of an engine gets a request, and whether a further one is to be loaded. Pure.

For policies the replicas of an engine are one candidate: the replica that would get the request represents them, so
that a target's weight, order and `local_first` hold for the whole engine. The other replicas follow it in the plan,
before the next target.

Among replicas that answer, the turns of a conversation stay at one, whose prefix cache has them: the one with the
highest rendezvous draw (`affinity`), so that only the sessions of a removed replica move. A session goes to the next
highest draw if its replica has more than `max_load` times its part of the work, and more than one request more than the
least busy one: a few requests need not be spread, and would miss the cache. Without a session, and for the order of the
others, the least work comes first. In slow start a replica's part is smaller by its share.

A further replica is loaded only when each replica that answers has work, one at a time. Until then one unloaded replica
comes last in the order, as a reserve; none does while another one is loading.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tidegate.routing.affinity import draw
from tidegate.routing.candidate import Candidate, Placed

_LEAST_SHARE = 0.01  # share may be 0, and is divided by


class Group(Struct, frozen=True):
    """The replicas of one engine, for one request.

    Attributes:
        order: the replicas to be tried, in order.
        is_sticky: the session stays at the first one.
        wanted: a replica that is to be loaded in addition; None: none is.
        spared: replicas that are not loaded, and need not be.
    """

    order: Sequence[Candidate]
    is_sticky: bool = False
    wanted: Candidate | None = None
    spared: Sequence[Candidate] = ()


def group(candidates: Sequence[Candidate], key: bytes, *, max_load: float) -> Mapping[str, Group]:
    """The candidates grouped by their targets' `shared_name`, in the order of the first one of each group.

    A candidate that is no replica is a group of its own.

    Args:
        candidates: of every target.
        key: the session's; empty: the request may go to any replica.
        max_load: how many times its part of the work a replica may have and still get more; at least 1.
    """
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.target.shared_name, []).append(candidate)
    return {name: arrange(members, key, max_load=max_load) for name, members in groups.items()}


def ungroup(placed: Sequence[Placed], groups: Mapping[str, Group]) -> Sequence[Placed]:
    """All candidates: each group takes the place that a policy has given to its first one."""
    ungrouped: list[Placed] = []
    for first in placed:
        found = groups[first.candidate.target.shared_name]
        if len(found.order) == 1:
            ungrouped.append(first)
            continue
        why = first.why or ("its session is here" if found.is_sticky else "the replica with the least work")
        ungrouped.append(Placed(first.candidate, first.score, why))
        ungrouped += [Placed(other, None, "the next replica, by its work") for other in found.order[1:]]
    return ungrouped


def arrange(members: Sequence[Candidate], key: bytes, *, max_load: float) -> Group:
    """The replicas of one engine in the order in which they are to be tried; see `group`."""
    if len(members) == 1:
        return Group(members)
    by: dict[str, list[Candidate]] = {"ready": [], "loading": [], "unloaded": [], "unavailable": []}
    for candidate in members:
        by[candidate.availability].append(candidate)
    ready, unloaded = sorted(by["ready"], key=_rank), by["unloaded"]
    sticky = _sticky(ready, key, max_load) if key else None
    if sticky is not None:
        ready = [sticky, *(one for one in ready if one is not sticky)]
    # always the first: otherwise several requests would load several replicas
    reserve = [] if by["loading"] else unloaded[:1]
    is_needed = bool(ready) and all(one.work for one in ready)
    return Group(
        [*ready, *by["loading"], *reserve, *by["unavailable"]],
        is_sticky=sticky is not None,
        wanted=reserve[0] if reserve and is_needed else None,
        spared=unloaded[len(reserve) :],
    )


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return candidate.is_pressed, (candidate.work + 1) / _share(candidate)


def _sticky(ready: Sequence[Candidate], key: bytes, max_load: float) -> Candidate | None:
    """The highest draw of those with room; of those that are not pressed, if there are any."""
    fit = [one for one in ready if not one.is_pressed] or ready
    if len(fit) < 2:
        return None
    part = max_load * (sum(one.work for one in fit) + 1) / sum(map(_share, fit))
    least = min(one.work for one in fit)
    roomy = [one for one in fit if one.work < part * _share(one) or (one.share >= 1 and one.work <= least + 1)]
    return max(roomy, key=lambda one: draw(one.target.name, key), default=None)


def _share(candidate: Candidate) -> float:
    return max(candidate.share, _LEAST_SHARE)
