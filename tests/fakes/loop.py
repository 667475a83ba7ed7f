"""`VirtualLoop`: an asyncio loop with virtual time, which jumps to the next timer when all tasks wait."""

import asyncio
import selectors
from collections.abc import Coroutine


class _Selector(selectors.DefaultSelector):
    """A selector that never blocks; it adds up the time that it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "all tasks wait, and there is no timer"
            self.waited_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop for code that waits only for timers, not for threads or sockets."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._waits.waited_s


def run(main: Coroutine) -> None:
    """Run `main` in a `VirtualLoop`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)
