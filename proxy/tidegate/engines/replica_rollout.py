"""Which replicas of an engine are retired next when its config has changed: one at a time, so that the others answer.

Replicas that do not answer are retired at once, as no request is lost by that. A replica that answers is retired only
if no other replica is starting, stopping or failed. So if a new replica fails, the remaining old ones stay in service
until the new one works or the config is corrected. Pure functions, no I/O.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from tidegate.engines.base import Availability
from tidegate.engines.states import State

ReplicaState = Literal["serving", "idle", "changing", "failed"]


class Replica(Struct, frozen=True):
    """One replica.

    Attributes:
        state: "serving": it answers; "idle": it is not loaded and need not be; "changing": it starts or stops;
            "failed": it has failed.
    """

    name: str
    state: ReplicaState


def replica_state(state: State, availability: Availability) -> ReplicaState:
    """Return the state of a replica for `next_to_retire`."""
    if state == "ready":
        return "serving"
    if state == "failed":
        return "failed"
    return "idle" if availability != "loading" and state in {"stopped", "sleeping"} else "changing"


def next_to_retire(old: Sequence[Replica], staying: Sequence[Replica]) -> Sequence[str]:
    """Return the names of the replicas in `old` that may be retired now.

    Args:
        old: the replicas that have to be retired, in this order.
        staying: the other replicas of the engine, without those that wait for the GPUs of a replica in `old`.
    """
    silent = [replica.name for replica in old if replica.state != "serving"]
    if silent:
        return silent
    has_settled = all(replica.state in {"serving", "idle"} for replica in staying)
    return [replica.name for replica in old[:1]] if has_settled else []
