"""The states of an engine, and the events that lead from one to the next; the package's docstring has a diagram."""

from collections.abc import Mapping
from typing import Literal

State = Literal["stopped", "starting", "ready", "sleeping", "draining", "stopping", "failed"]
Event = Literal["start", "answers", "sleep", "wake", "drain", "readmit", "end", "crash", "stop"]

# the states in which the engine's process runs; that of a failed engine may run or not
_LIVE: tuple[State, ...] = ("starting", "ready", "sleeping", "draining", "stopping")

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    ("stopped", "start"): "starting",
    ("failed", "start"): "starting",
    # the process of a failed engine may still run: it may end, which may give another reason, or answer again
    ("failed", "crash"): "failed",
    ("failed", "answers"): "ready",
    ("starting", "answers"): "ready",
    ("ready", "drain"): "draining",
    ("draining", "readmit"): "ready",
    ("draining", "sleep"): "sleeping",
    ("sleeping", "wake"): "starting",
    # the process was signalled to end, and holds its memory until it has ended
    **{(state, "end"): "stopping" for state in _LIVE},
    # a process that ends without having been stopped has crashed, whatever its exit status
    **{(state, "crash"): "failed" for state in _LIVE},
    **{(state, "stop"): "stopped" for state in (*_LIVE, "failed", "stopped")},
}


class InvalidTransition(Exception):
    """The table has no such row; a programming error in Tidegate."""


def next_state(state: State, event: Event) -> State:
    """Return the state that `event` leads to.

    Raises:
        InvalidTransition: the table has no row for this state and event.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransition(f"{event} while {state}") from None
