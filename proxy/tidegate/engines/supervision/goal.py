"""`GoalOwner`: whether one engine is to run, to sleep or to be stopped."""

import asyncio

from tidegate.engines.base import Goal


class GoalOwner:
    """Owns the goal of one engine, and whether requests may start the engine.

    Attributes:
        goal: the state to which the supervisor brings the engine.
        is_held: True: no request starts the engine, as the administrator has stopped it, or it has crashed too often.
        changed: set when a goal is set, or a request has failed. The supervisor's task clears it before it waits.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal: Goal = goal
        self.is_held = False
        self.changed = asyncio.Event()

    def set(self, goal: Goal) -> None:
        """Set the goal."""
        self.goal = goal
        self.changed.set()

    def hold(self) -> None:
        """Set the goal "stop", and let no request start the engine."""
        self.is_held = True
        self.set("stop")
