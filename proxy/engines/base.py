"""What a kind of engine has to say for the supervisor to run it."""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

import msgspec

Probe = Callable[[], Awaitable[bool]]
State = Literal["starting", "ready", "restarting", "stopped"]


class EngineError(Exception):
    """An engine cannot start; the message says why and how to mend it."""


class EngineKind(Protocol):
    """A model server's command line and habits; no process, no I/O but looking for the model.

    Attributes:
        dialect: its accent, by name.
        health_path: below the base URL; 200 means that it answers.
        start_timeout_s: a start that takes longer is a failed one.
        always_streams: it does not notice a caller who leaves a unary request, so it is asked for a stream.
    """

    dialect: str
    health_path: str
    start_timeout_s: float
    always_streams: bool

    def command(self, socket_path: str) -> list[str]:
        """The command that serves on `socket_path`, in the foreground, until SIGTERM or the end of its standard input.

        Raises:
            EngineError: what it needs is not there.
        """

    def model_bytes(self) -> int:
        """The size of what has to be loaded, for people who wait; 0 where unknown."""


class EngineStatus(msgspec.Struct, frozen=True):
    """What an engine does now. `reason` says why it is not ready; `restarts` counts the starts after the first."""

    state: State
    reason: str = ""
    restarts: int = 0
