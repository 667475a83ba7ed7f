"""An engine's own routes, as far as a test says what they answer."""

import asyncio
from collections.abc import Callable

from tidegate.engines.base import Load
from tidegate.engines.supervision.due_check import REFUSED
from tidegate.errors import UpstreamTimeout


class FakeControl:
    """A `tidegate.engines.base.Control` over a clock that moves with every look.

    `tell` gives the load or an error, `token` None or an error; where it returns `NEVER`, nothing comes.
    """

    NEVER = object()

    def __init__(self, clock, tell: Callable, *, token: Callable = lambda: FakeControl.NEVER, look_s: float = 1.0):
        self.clock = clock
        self.tell = tell
        self.token = token
        self.look_s = look_s
        self.is_up = True
        self.canaries = 0

    def use_key(self, api_key):
        """Nobody asks for it."""

    async def answers(self):
        return self.is_up

    async def fault(self):
        return None if self.is_up else REFUSED

    async def load(self):
        self.clock.advance(self.look_s)
        told = self.tell()
        if isinstance(told, Exception):
            raise told
        return told

    async def generate(self):
        self.canaries += 1
        told = self.token()
        if told is self.NEVER:
            await asyncio.Event().wait()
        if told is not None:
            raise told

    async def restore(self):
        """Nothing was loaded."""

    async def sleep(self, level):
        """Never asked here."""

    async def wake(self, level):
        """The same."""


def working(steps: float) -> Load:
    """One request runs."""
    return Load(running=1, steps=steps)


def too_slow() -> UpstreamTimeout:
    """No answer in time."""
    return UpstreamTimeout("GET /metrics took more than 5 s.")
