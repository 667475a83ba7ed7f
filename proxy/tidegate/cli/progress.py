"""How loading goes, for the person who waits."""

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
    """`loading weights 45%, about 30 s left`; empty where nothing is known."""
    told = []
    if progress is not None:
        told.append(progress.phase if progress.done is None else f"{progress.phase} {progress.done:.0%}")
        if progress.line is not UNSET:
            told.append(progress.line)
    if left_s is not None:
        told.append(f"about {_duration(left_s)} left")
    return ", ".join(told)


def redraw(out: TextIO, line: str) -> None:
    """Write `line` over the one before, cut to the terminal's width.

    The cursor goes back to the margin, so that a log line does not hang on behind.
    """
    width = shutil.get_terminal_size().columns - 1
    out.write(f"\x1b[K{line[:width]}\r")
    out.flush()


class _Loading:
    """One engine that is being loaded: since when, and what it last said."""

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.told_s = since_s
        self.status = EngineStatus("starting")


class EngineProgress:
    """Shows on a terminal which engines are loading, how far they are, and how they came out; silent elsewhere."""

    def __init__(self, out: TextIO, clock: Clock | None = None) -> None:
        self._out = out
        self._clock = clock or SystemClock()
        self._is_shown = out.isatty()
        self._loading: dict[str, _Loading] = {}
        self._bytes: Mapping[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, model_bytes: Mapping[str, int]) -> None:
        """Begin; sizes in bytes by engine."""
        self._bytes = model_bytes
        if self._is_shown:
            self._task = asyncio.create_task(self._draw())

    def tell(self, name: str, status: EngineStatus) -> None:
        """An engine has changed."""
        now_s = self._clock.monotonic_s()
        if status.state == "starting":
            loading = self._loading.setdefault(name, _Loading(now_s))
            loading.told_s, loading.status = now_s, status
            return
        if status.state == "stopping":  # the outcome is reported when the process has ended
            return
        ended = self._loading.pop(name, None)
        if self._is_shown and ended is not None and status.state in {"ready", "failed"}:
            outcome = "ready" if status.state == "ready" else f"failed: {status.reason}"
            self._out.write(f"\x1b[K  {name}: {outcome} after {now_s - ended.since_s:.1f} s\n")
            self._out.flush()

    def close(self) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()

    @property
    def line(self) -> str:
        """Every engine that is being loaded; empty where none is."""
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
        if left_s is not None:  # it was so when it was told
            left_s = max(0.0, left_s - (now_s - loading.told_s))
        told = [
            f"{size / 1e6:.0f} MB" if size else "",
            describe(loading.status.progress, left_s),
            f"{now_s - loading.since_s:.1f} s",
        ]
        return ", ".join(part for part in told if part)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MANY_S else f"{seconds / 60:.0f} min"
