"""`Waiting`: shows the caller of a stream what the engine does that it waits for (`models.NAME.progress_in`)."""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tidegate.routing.planner import EngineSnapshot
from tidegate.streaming.preface import Preface

_STEPS = 10  # a share is shown at most as often
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

    def tell(self) -> None:
        """The status of an engine has changed."""
        for listener in tuple(self._listeners):
            listener()

    @contextmanager
    def calling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` for each change from now on, until the block is left."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)


class Waiting:
    """The waits of one request for engines. Owner of the text that was shown last.

    Args:
        preface: where the progress is shown.
        changes: calls when the status of an engine has changed.

    Attributes:
        changed: set when there may be something new to show.
    """

    def __init__(self, preface: Preface, changes: EngineChanges) -> None:
        self.preface = preface
        self.changed = asyncio.Event()
        self._changes = changes
        self._looks: list[Callable[[], EngineSnapshot]] = []
        self._is_waking = False
        self._told = ""

    @contextmanager
    def at(self, look: Callable[[], EngineSnapshot]) -> Iterator[None]:
        """The request waits for an engine until the block is left.

        Args:
            look: returns the engine's current state.
        """
        self._looks.append(look)
        self._is_waking = False
        self.changed.set()
        try:
            with self._changes.calling(self.changed.set):
                yield
        finally:
            self._looks.remove(look)
            self._is_waking = False

    def tell(self) -> None:
        """Add the engine's current state to the preface, if the request waits for one and the text has changed."""
        if not self._looks or (look := self._looks[-1]()).is_ready:
            return
        self._is_waking = look.state == "sleeping" or (self._is_waking and look.state == "starting")
        told = describe(look, is_waking=self._is_waking)
        if told != self._told:
            self._told = told
            self.preface.tell(f"{told}\n")


def describe(look: EngineSnapshot, *, is_waking: bool = False) -> str:
    """The phase of an engine that is not ready, and the percentage that is done, in tens.

    Args:
        look: the engine's state.
        is_waking: whether this request has seen it asleep.
    """
    phase = look.phase or _PHASES.get(look.state) or (_WAKE if is_waking else _START)
    share = "" if look.done is None else f": {math.floor(look.done * _STEPS) * 100 // _STEPS} %"
    return f"{phase[:1].upper()}{phase[1:]}{share}"
