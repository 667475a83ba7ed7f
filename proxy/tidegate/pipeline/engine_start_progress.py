"""`EngineStartProgress`: shows in a stream how the start of an engine gets on (`models.NAME.progress_in`)."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tidegate.routing.planner import EngineSnapshot
from tidegate.streaming.reasoning_preface import ReasoningPreface

_STEPS = 10  # the percentage is rounded down to a multiple of 100 / _STEPS
_START, _WAKE, _BUSY = "starting the model", "waking the model", "waiting for the model"
_PHASES: Mapping[str, str] = {
    "sleeping": _WAKE,
    "draining": _BUSY,
    "stopping": _BUSY,
    "failed": "starting the model again",
}


class EngineChanges:
    """Calls its listeners whenever the status of any engine has changed. Owner of the list of listeners."""

    def __init__(self) -> None:
        self._listeners: set[Callable[[], None]] = set()

    def notify(self) -> None:
        """Call the listeners: the status of an engine has changed."""
        for listener in tuple(self._listeners):
            listener()

    @contextmanager
    def calling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` for each change while the block runs."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)


class EngineStartProgress:
    """The progress of the engines that one request waits for. Owner of the text that was shown last.

    Args:
        preface: the reasoning text in which the progress is shown.
        changes: calls its listeners when the status of an engine has changed.

    Attributes:
        changed: set when there may be something new to show.
    """

    def __init__(self, preface: ReasoningPreface, changes: EngineChanges) -> None:
        self.preface = preface
        self.changed = asyncio.Event()
        self._changes = changes
        # one for each engine that is waited for (hedged attempts may wait for two); the last one is shown
        self._snapshot_sources: list[Callable[[], EngineSnapshot]] = []
        self._is_waking = False  # whether the engine was asleep earlier in this wait
        self._shown = ""

    @contextmanager
    def waiting_for(self, read_snapshot: Callable[[], EngineSnapshot]) -> Iterator[None]:
        """Show the progress of an engine: the request waits for it while the block runs.

        Args:
            read_snapshot: returns the engine's current state.
        """
        self._snapshot_sources.append(read_snapshot)
        self._is_waking = False
        self.changed.set()
        try:
            with self._changes.calling(self.changed.set):
                yield
        finally:
            self._snapshot_sources.remove(read_snapshot)
            self._is_waking = False

    def show(self) -> None:
        """Add the engine's current state to the preface, if the request waits for one and the text has changed."""
        if not self._snapshot_sources or (snapshot := self._snapshot_sources[-1]()).is_ready:
            return
        self._is_waking = snapshot.state == "sleeping" or (self._is_waking and snapshot.state == "starting")
        text = describe(snapshot, is_waking=self._is_waking)
        if text != self._shown:
            self._shown = text
            self.preface.add(f"{text}\n")


def describe(snapshot: EngineSnapshot, *, is_waking: bool = False) -> str:
    """The phase of an engine that is not ready, with the percentage that is done, rounded down to tens.

    Args:
        snapshot: the engine's state.
        is_waking: whether the engine was asleep when this request began to wait.
    """
    phase = snapshot.phase or _PHASES.get(snapshot.state) or (_WAKE if is_waking else _START)
    percentage = (
        "" if snapshot.phase_progress is None else f": {math.floor(snapshot.phase_progress * _STEPS) * 100 // _STEPS} %"
    )
    return f"{phase[:1].upper()}{phase[1:]}{percentage}"
