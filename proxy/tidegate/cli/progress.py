"""Shows on the terminal how far the loading of engines is."""

import asyncio
import shutil
from collections.abc import Mapping
from typing import TextIO

from msgspec import UNSET

from tidegate.clock import Clock, SystemClock
from tidegate.engines.base import EngineStatus, Progress

_TICK_S = 0.1
_MANY_S = 120.0


def describe(progress: Progress | None, left_s: float | None) -> str:
    """The progress as text, such as `loading weights 45%, about 30 s left`; empty if nothing is known."""
    parts = []
    if progress is not None:
        parts.append(progress.phase if progress.done is None else f"{progress.phase} {progress.done:.0%}")
        if progress.line is not UNSET:
            parts.append(progress.line)
    if left_s is not None:
        parts.append(f"about {_duration(left_s)} left")
    return ", ".join(parts)


def redraw(out: TextIO, line: str) -> None:
    """Write `line` over the previous one, cut to the terminal's width.

    The cursor returns to the start of the line, so that a log line overwrites it instead of being appended to it.
    """
    width = shutil.get_terminal_size().columns - 1
    out.write(f"\x1b[K{line[:width]}\r")
    out.flush()


class _Loading:
    """An engine that is being loaded.

    Attributes:
        since_s: when loading began; monotonic seconds.
        updated_s: when the last status was received; monotonic seconds.
        status: the last status.
    """

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.updated_s = since_s
        self.status = EngineStatus("starting")


class EngineProgress:
    """Shows which engines are loading, how far they are, and whether they became ready or failed.

    If `out` is not a terminal, nothing is shown.
    """

    def __init__(self, out: TextIO, clock: Clock | None = None) -> None:
        self._out = out
        self._clock = clock or SystemClock()
        self._is_shown = out.isatty()
        self._loading: dict[str, _Loading] = {}
        self._bytes: Mapping[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, model_bytes: Mapping[str, int]) -> None:
        """Begin to show progress; `model_bytes` are the sizes of the models in bytes, by engine."""
        self._bytes = model_bytes
        if self._is_shown:
            self._task = asyncio.create_task(self._draw())

    def update(self, name: str, status: EngineStatus) -> None:
        """Take the new status of an engine."""
        now_s = self._clock.monotonic_s()
        if status.state == "starting":
            loading = self._loading.setdefault(name, _Loading(now_s))
            loading.updated_s, loading.status = now_s, status
            return
        if status.state == "stopping":  # the outcome is reported when the process has ended
            return
        ended = self._loading.pop(name, None)
        if self._is_shown and ended is not None and status.state in {"ready", "failed"}:
            outcome = "ready" if status.state == "ready" else f"failed: {status.reason}"
            self._out.write(f"\x1b[K  {name}: {outcome} after {now_s - ended.since_s:.1f} s\n")
            self._out.flush()

    def close(self) -> None:
        """Stop showing progress."""
        if self._task is not None:
            self._task.cancel()

    @property
    def line(self) -> str:
        """The text with all engines that are being loaded; empty if there are none."""
        now_s = self._clock.monotonic_s()
        shown = [f"{name}: {self._describe(name, loading, now_s)}" for name, loading in self._loading.items()]
        return f"  waiting for {'; '.join(shown)}" if shown else ""

    async def _draw(self) -> None:
        while True:
            if line := self.line:
                redraw(self._out, line)
            await asyncio.sleep(_TICK_S)

    def _describe(self, name: str, loading: _Loading, now_s: float) -> str:
        size = self._bytes.get(name, 0)
        left_s = loading.status.left_s
        if left_s is not None:  # the estimate was made when the status was received
            left_s = max(0.0, left_s - (now_s - loading.updated_s))
        parts = [
            f"{size / 1e6:.0f} MB" if size else "",
            describe(loading.status.progress, left_s),
            f"{now_s - loading.since_s:.1f} s",
        ]
        return ", ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MANY_S else f"{seconds / 60:.0f} min"
