"""Where a session stays: the turns of a conversation go to one target, whose prefix cache has what they share.

Weighted rendezvous hashing: every target draws a number from its name and the session's key, the luckiest has the
session. Nothing is remembered, every worker and replica finds the same, and taking a target away moves its own
sessions only. With bounded load (Mirrokni et al.): a target that already has more than its part of what is in flight,
times `max_load`, passes a session on to the next luckiest, so that one busy prompt cannot bury one engine.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import log

from tidegate.routing.candidate import Placed
from tidegate.routing.request import RoutingRequest
from tidegate.routing.targets import Target

_SPARE = 12  # bits of 64: what is left of a draw, plus a half, is still a float below `_RANGE`
_RANGE = float(1 << 64 - _SPARE)


def stay(placed: Sequence[Placed], routing_request: RoutingRequest, *, max_load: float) -> Sequence[Placed]:
    """The same order, with the session's target in front.

    Only among those on the same side of the local/online line as the one the policy put first, and never onto one that
    is pressed or in slow start. One in slow start that the policy put first keeps this request: else it would never get
    the part it is given.

    A conversation that the caller names stays anywhere; one known by the head of its prompt alone at engines of ours
    only: many unrelated requests may share it, and what hosts elsewhere cache we cannot know.

    `max_load` is how many times its part of the load a target may have; at least 1.
    """
    if (
        len(placed) < 2
        or placed[0].candidate.share < 1.0
        or not (routing_request.session or _is_by_head(placed[0], routing_request))
    ):
        return placed
    fit = _fit(placed)
    if len(fit) < 2:  # most models are at one engine: nothing to draw for
        return placed
    home = _home(fit, routing_request.affinity, max_load)
    if home is None or home is placed[0]:
        return placed
    stayed = Placed(home.candidate, home.score, "its session is here")
    return [stayed, *(one for one in placed if one is not home)]


def luck(target: Target, key: bytes) -> float:
    """What `target` draws for the session `key`, all of one length: above 0, greater by its weight."""
    return target.weight * draw(target.shared_name, key)


def draw(name: str, key: bytes) -> float:
    """The draw of `name` for the session `key`, above 0; all keys have one length."""
    drawn = int.from_bytes(blake2b(key + name.encode(), digest_size=8).digest(), "big") >> _SPARE
    return 1.0 / -log((drawn + 0.5) / _RANGE)


def _is_by_head(first: Placed, routing_request: RoutingRequest) -> bool:
    """Embeddings generate nothing, so nothing of theirs is cached."""
    return first.candidate.target.is_local and routing_request.endpoint != "embeddings"


def _fit(placed: Sequence[Placed]) -> Sequence[Placed]:
    """Those on the first one's side that may be stayed at."""
    is_local, fit = placed[0].candidate.target.is_local, []
    for one in placed:
        candidate = one.candidate
        target = candidate.target
        if target.is_local == is_local and target.weight > 0 and candidate.share >= 1.0 and not candidate.is_pressed:
            fit.append(one)
    return fit


def _home(fit: Sequence[Placed], key: bytes, max_load: float) -> Placed | None:
    """The luckiest with room; with `max_load` of at least 1 there always is one."""
    load = sum([one.candidate.in_flight for one in fit]) + 1
    part = max_load * load / sum([one.candidate.target.weight for one in fit])
    home, most = None, 0.0
    for one in fit:
        target = one.candidate.target
        if one.candidate.in_flight < part * target.weight and (drawn := luck(target, key)) > most:
            home, most = one, drawn
    return home
