"""The states of an engine and what leads from one to the next: the one table that the supervisor moves by."""

from collections.abc import Mapping
from typing import Literal

State = Literal["stopped", "starting", "ready", "sleeping", "draining", "stopping", "failed"]
Event = Literal["start", "answers", "sleep", "wake", "drain", "readmit", "end", "crash", "stop"]

_LIVE: tuple[State, ...] = ("starting", "ready", "sleeping", "draining", "stopping")

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    ("stopped", "start"): "starting",
    ("failed", "start"): "starting",
    # a failed engine's process may still run: it ends, which may give another reason, or answers again
    ("failed", "crash"): "failed",
    ("failed", "answers"): "ready",
    ("starting", "answers"): "ready",
    ("ready", "drain"): "draining",
    ("draining", "readmit"): "ready",
    ("draining", "sleep"): "sleeping",
    ("sleeping", "wake"): "starting",
    # the process was asked to end, and holds its memory until it has ended
    **{(state, "end"): "stopping" for state in _LIVE},
    # however a process ends: unasked it has crashed, whatever its exit status
    **{(state, "crash"): "failed" for state in _LIVE},
    **{(state, "stop"): "stopped" for state in (*_LIVE, "failed", "stopped")},
}


class ImpossibleChange(Exception):
    """A fault of ours: no row of the table."""


def after(state: State, event: Event) -> State:
    """The state that `event` leads to.

    Raises:
        ImpossibleChange: none.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ImpossibleChange(f"{event} while {state}") from None
