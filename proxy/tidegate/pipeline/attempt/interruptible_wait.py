"""`InterruptibleWait`: ends the wait of an attempt whose engine hangs, so that the request goes to its next target."""

import asyncio

from tidegate.errors import EngineStalled


class InterruptibleWait:
    """The wait of the current task. Another task ends it by calling the object with the reason."""

    __slots__ = ("_reason", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._reason: str | None = None

    def __call__(self, reason: str) -> None:
        """End the wait by cancelling the task, which must catch the cancellation and call `error`."""
        if self._task is not None and self._reason is None:
            self._reason = reason
            self._task.cancel()

    def error(self) -> EngineStalled | None:
        """The error to raise instead of the cancellation just caught; None if it has another cause. Called once."""
        if self._reason is None or self._task is None or self._task.uncancel():
            return None
        return EngineStalled("The engine does not answer for now, and had not begun this answer.")
