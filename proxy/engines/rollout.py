"""Which replicas of an engine are replaced next, when its config has changed: one at a time, so that the others answer.

Replicas that do not answer are replaced at once, since no request loses by it. Of those that answer the next one is
replaced only when every other replica that stays has settled: it answers, or it is not loaded and nothing asks for it.
A new replica that does not come up therefore keeps the rest of the old ones in service, until it, or the config, is
mended. Pure.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from proxy.engines.base import Outlook
from proxy.engines.life import State

Standing = Literal["serving", "idle", "changing", "failed"]


class Replica(Struct, frozen=True):
    """One replica: it answers; is not loaded, and nothing asks for it; is on its way up or down; or has failed."""

    name: str
    standing: Standing


def standing_of(state: State, outlook: Outlook) -> Standing:
    """How an engine stands."""
    if state == "ready":
        return "serving"
    if state == "failed":
        return "failed"
    return "idle" if outlook != "loading" and state in {"stopped", "sleeping"} else "changing"


def next_to_retire(old: Sequence[Replica], staying: Sequence[Replica]) -> Sequence[str]:
    """Those of `old` that may be retired now, by name; empty where others have to settle first.

    Args:
        old: those that are to be retired, in the order in which they are to.
        staying: the others, without those that wait for the GPUs of one of `old`.
    """
    silent = [replica.name for replica in old if replica.standing != "serving"]
    if silent:
        return silent
    has_settled = all(replica.standing in {"serving", "idle"} for replica in staying)
    return [replica.name for replica in old[:1]] if has_settled else []
