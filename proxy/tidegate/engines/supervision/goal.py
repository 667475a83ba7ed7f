"""`GoalOwner`: what is wanted of one engine."""

import asyncio

from tidegate.engines.base import Goal


class GoalOwner:
    """Owns the goal of one engine, and whether the administrator has stopped it.

    Attributes:
        goal: what the supervisor is to make of the engine.
        is_held: stopped by the administrator, or given up; no request starts it.
        changed: set when another goal is set, or a request has failed. The supervisor's task clears it before it waits.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal: Goal = goal
        self.is_held = False
        self.changed = asyncio.Event()

    def set(self, goal: Goal) -> None:
        """Want this from now on."""
        self.goal = goal
        self.changed.set()

    def hold(self) -> None:
        """Stop the engine, and let no request start it."""
        self.is_held = True
        self.set("stop")
