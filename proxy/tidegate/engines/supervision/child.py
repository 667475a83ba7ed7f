"""`Child`: the process of one engine through all its starts, and the reason of its end."""

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any

from tidegate.engines.base import Control, EngineError, PermanentEngineError
from tidegate.engines.endings import SENT, signal_of, tell_signal
from tidegate.engines.process.lines import OutputTail
from tidegate.engines.process.process import EngineProcess
from tidegate.engines.process.sockets import SocketFolder
from tidegate.engines.supervision.settings import CurrentSettings
from tidegate.engines.supervision.status import StatusOwner

_TOLD_LINES = 3


class Child:
    """Owns the process of one engine and the folder of its socket.

    Args:
        status: of the engine, where the progress of a start is shown.
        treatment: its kind, which has the command and reads the output.
    """

    def __init__(self, status: StatusOwner, current: CurrentSettings) -> None:
        self._current = current
        self._status = status
        self._folder = SocketFolder()
        self.socket_path = self._folder.socket_path
        self._process = EngineProcess(self.read_line, status.name)

    @property
    def pid(self) -> int | None:
        """The session's id, while it runs."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether no process runs."""
        return self._process.has_ended

    @property
    def lines(self) -> OutputTail:
        """What is kept of its output."""
        return self._process.lines

    async def start(self, control: Control) -> None:
        """Start it with a new key, which `control` gets too.

        Raises:
            EngineError: something that its kind needs is missing.
            Hopeless: there is no such program.
        """
        api_key = secrets.token_urlsafe(24)
        command = self._current.kind.command(self.socket_path, api_key)
        self._folder.clear()
        control.use_key(api_key)
        if command.port is not None:
            control.use_port(command.port)
        self._status.begin_start()
        try:
            await self._process.start(command)
        except OSError as error:
            raise PermanentEngineError(f"{command.argv[0]} cannot be started: {error.strerror}") from error

    async def end(self, grace_s: float) -> None:
        """End it and its children, by force after `grace_s`; returns when they have ended."""
        await self._process.end(grace_s)

    def remove_folder(self) -> None:
        """Remove the folder of its socket; the last call."""
        self._folder.remove()

    def read_line(self, line: str) -> None:
        """Show the progress that a line of its output tells."""
        if self._status.now.state != "starting":
            return
        if (progress := self._current.kind.progress(line)) is not None:
            self._status.show(progress)

    async def unless_it_ends(self, coming: Coroutine[Any, Any, object], timeout_s: float | None) -> None:
        """Wait for `coming`, or until the time is over.

        Raises:
            EngineError: the process ended first.
        """
        tasks = asyncio.create_task(coming), asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if tasks[1].done():
                raise await self.ended()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ended(self) -> EngineError:
        """The reason of an end that was not ordered."""
        status = await self._process.wait()
        await self._process.read_out()
        number = signal_of(status)
        if number in SENT:
            return EngineError(tell_signal(number))
        if (error := self._current.kind.explain(self.lines.since_healthy, has_run=self.lines.was_healthy)) is not None:
            return error
        return self.error(f"it ended with status {status}") if number is None else EngineError(tell_signal(number))

    def error(self, what: str) -> EngineError:
        """`what`, and what the output of a start says about it: the lines marked as errors, or else the last one."""
        if self.lines.was_healthy:  # a line may hold a caller's text, and reasons stay in logs
            return EngineError(f"{what}; see tidegate engines logs {self._status.name}")
        lines = self.lines.since_healthy
        said = [line for line in lines if "WARNING" not in line]  # "failed with error …, goes on"
        errors = [line for line in said if " E " in line or "rror" in line]
        return EngineError(what, errors[-_TOLD_LINES:] or lines[-1:])
