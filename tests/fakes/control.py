"""`FakeControl`: an engine's own routes with scripted answers."""

import asyncio
from collections.abc import Callable

from tidegate.engines.base import Load
from tidegate.engines.supervision.health_recheck import REFUSED
from tidegate.errors import UpstreamTimeout


class FakeControl:
    """A `tidegate.engines.base.Control`; each call of `load` advances the clock by `advance_s` seconds.

    `tell` returns the load, or an error to raise. `token` returns None, an error to raise, or `NEVER`: no answer comes.

    Attributes:
        is_up: whether the health route answers.
        canaries: the number of requested tokens.
    """

    NEVER = object()

    def __init__(self, clock, tell: Callable, *, token: Callable = lambda: FakeControl.NEVER, advance_s: float = 1.0):
        self.clock = clock
        self.tell = tell
        self.token = token
        self.advance_s = advance_s
        self.is_up = True
        self.canaries = 0

    def use_key(self, api_key):
        """Ignore the key."""

    async def answers(self):
        return self.is_up

    async def fault(self):
        return None if self.is_up else REFUSED

    async def load(self):
        self.clock.advance(self.advance_s)
        outcome = self.tell()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def generate(self):
        self.canaries += 1
        outcome = self.token()
        if outcome is self.NEVER:
            await asyncio.Event().wait()
        if outcome is not None:
            raise outcome

    async def restore(self):
        """Do nothing: there are no adapters."""

    async def sleep(self, level):
        """Do nothing."""

    async def wake(self, level):
        """Do nothing."""


def working(steps: float) -> Load:
    """The load of an engine that answers one request and has made `steps` steps."""
    return Load(running=1, steps=steps)


def too_slow() -> UpstreamTimeout:
    """The error for metrics that do not come in time."""
    return UpstreamTimeout("GET /metrics took more than 5 s.")
