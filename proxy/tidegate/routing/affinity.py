"""Session affinity: the turns of a conversation go to one target, whose prefix cache holds what they have in common.

The target is found by weighted rendezvous hashing: each target has a score, computed from its name and the session's
key, and the target with the highest score gets the session. Nothing is stored, every worker and replica computes the
same result, and removing a target moves only its own sessions.

The load is bounded (Mirrokni et al.): a target may have at most `max_load` times the requests in flight that are due to
it by its weight. If it has more, the session goes to the target with the next highest score, so that one popular prompt
cannot overload one engine.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import log

from tidegate.routing.candidate import RankedCandidate
from tidegate.routing.request import RoutingRequest
from tidegate.routing.targets import Target

_SPARE = 12  # bits of the 64-bit hash to drop: then the number plus a half is an exact float below `_RANGE`
_RANGE = float(1 << 64 - _SPARE)


def prefer_session_target(
    ranked: Sequence[RankedCandidate], routing_request: RoutingRequest, *, max_load: float
) -> Sequence[RankedCandidate]:
    """The same order, with the session's target first.

    Only targets on the same side of the local/hosted line as the policy's first one are considered, and none that is
    overloaded or in slow start. If the policy's first target is in slow start, the order is unchanged: otherwise that
    target would never get the requests it is meant to get.

    A session that the caller names may stay at any target. One known only by the head of its prompt stays at local
    engines only: many unrelated requests may share that head, and what hosted upstreams cache is unknown.

    `max_load` is how many times the load that is due to it by its weight a target may have; at least 1.
    """
    if (
        len(ranked) < 2
        or ranked[0].candidate.share < 1.0
        or not (routing_request.session or _uses_prompt_head(ranked[0], routing_request))
    ):
        return ranked
    eligible = _eligible(ranked)
    if len(eligible) < 2:  # most models are at one engine: there is no choice
        return ranked
    chosen = _session_target(eligible, routing_request.affinity, max_load)
    if chosen is None or chosen is ranked[0]:
        return ranked
    preferred = RankedCandidate(chosen.candidate, chosen.score, "its session is here")
    return [preferred, *(each for each in ranked if each is not chosen)]


def weighted_score(target: Target, key: bytes) -> float:
    """The score of `target` for the session `key`: above 0, in proportion to its weight. All keys are equally long."""
    return target.weight * rendezvous_score(target.shared_name, key)


def rendezvous_score(name: str, key: bytes) -> float:
    """The score of `name` for the session `key`, above 0; all keys are equally long."""
    score = int.from_bytes(blake2b(key + name.encode(), digest_size=8).digest(), "big") >> _SPARE
    return 1.0 / -log((score + 0.5) / _RANGE)


def _uses_prompt_head(first: RankedCandidate, routing_request: RoutingRequest) -> bool:
    """Whether a request without a session stays by the head of its prompt.

    Embeddings do not: they generate nothing, so that no prefix of them is cached.
    """
    return first.candidate.target.is_local and routing_request.endpoint != "embeddings"


def _eligible(ranked: Sequence[RankedCandidate]) -> Sequence[RankedCandidate]:
    """The candidates on the first one's side that may get the session."""
    is_local, eligible = ranked[0].candidate.target.is_local, []
    for each in ranked:
        candidate = each.candidate
        target = candidate.target
        if target.is_local == is_local and target.weight > 0 and candidate.share >= 1.0 and not candidate.is_overloaded:
            eligible.append(each)
    return eligible


def _session_target(eligible: Sequence[RankedCandidate], key: bytes, max_load: float) -> RankedCandidate | None:
    """The candidate with the highest score that has room; with `max_load` of at least 1 there always is one."""
    load = sum([each.candidate.in_flight for each in eligible]) + 1
    load_per_weight = max_load * load / sum([each.candidate.target.weight for each in eligible])
    best, best_score = None, 0.0
    for each in eligible:
        target = each.candidate.target
        if (
            each.candidate.in_flight < load_per_weight * target.weight
            and (score := weighted_score(target, key)) > best_score
        ):
            best, best_score = each, score
    return best
