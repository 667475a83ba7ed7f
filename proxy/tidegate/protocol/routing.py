"""The values of reach, priority and task, by which callers and operators control where a request may go and when."""

from typing import Literal, get_args

Reach = Literal["local_only", "local_first", "any", "online_first"]
Priority = Literal["interactive", "default", "batch"]
Task = Literal["chat", "json", "tools", "completion", "embedding"]
TASKS: tuple[Task, ...] = get_args(Task)

REACH_HEADER = "x-tidegate-reach"
REACHES: tuple[Reach, ...] = ("local_only", "local_first", "any", "online_first")  # each is wider than the one before
PRIORITIES: tuple[Priority, ...] = ("batch", "default", "interactive")  # each is more urgent than the one before
