"""Which replicas of an engine are retired next, when its config has changed: one at a time, so that the others answer.

Replicas that do not answer are retired at once, since no request is lost by that. One that answers is retired only when
no other replica is starting, stopping or failed. So if a new replica fails, the old ones that are left stay in service
until it or the config is corrected. Pure.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from tidegate.engines.base import Availability
from tidegate.engines.states import State

ReplicaState = Literal["serving", "idle", "changing", "failed"]


class Replica(Struct, frozen=True):
    """One replica: it answers (serving), need not be loaded (idle), starts or stops (changing), or has failed."""

    name: str
    state: ReplicaState


def replica_state(state: State, availability: Availability) -> ReplicaState:
    """The state of a replica, for `next_to_retire`."""
    if state == "ready":
        return "serving"
    if state == "failed":
        return "failed"
    return "idle" if availability != "loading" and state in {"stopped", "sleeping"} else "changing"


def next_to_retire(old: Sequence[Replica], staying: Sequence[Replica]) -> Sequence[str]:
    """The names of those of `old` that may be retired now.

    Args:
        old: the replicas that are to be retired, in that order.
        staying: the other replicas, without those that wait for the GPUs of one of `old`.
    """
    silent = [replica.name for replica in old if replica.state != "serving"]
    if silent:
        return silent
    has_settled = all(replica.state in {"serving", "idle"} for replica in staying)
    return [replica.name for replica in old[:1]] if has_settled else []
