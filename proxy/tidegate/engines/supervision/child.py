"""`EngineChild`: the process of one engine through all its starts, and the reason for its end."""

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any

from tidegate.engines.base import Control, EngineError, PermanentEngineError
from tidegate.engines.exit_reasons import EXTERNAL_SIGNALS, describe_signal, signal_of
from tidegate.engines.process.lines import OutputTail
from tidegate.engines.process.process import EngineProcess
from tidegate.engines.process.sockets import SocketFolder
from tidegate.engines.supervision.settings import CurrentSettings
from tidegate.engines.supervision.status import StatusOwner

_QUOTED_LINES = 3


class EngineChild:
    """Owns the process of one engine and the folder of its socket.

    Args:
        status: the engine's status, which shows the progress of a start.
        current: its kind has the command line and interprets the output.

    Attributes:
        socket_path: where the engine listens, if not on a port.
    """

    def __init__(self, status: StatusOwner, current: CurrentSettings) -> None:
        self._current = current
        self._status = status
        self._folder = SocketFolder()
        self.socket_path = self._folder.socket_path
        self._process = EngineProcess(self.read_line, status.name)

    @property
    def pid(self) -> int | None:
        """The pid of the session's leader (the warden) while the process runs, else None."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether no process runs."""
        return self._process.has_ended

    @property
    def lines(self) -> OutputTail:
        """The lines of its output that are kept."""
        return self._process.lines

    async def start(self, control: Control) -> None:
        """Start the process with a new API key, and give key and port to `control`.

        Raises:
            EngineError: something that the kind needs is missing.
            PermanentEngineError: the program does not exist, or cannot be executed.
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
        """End the process and its children, by SIGKILL after `grace_s` seconds; returns when they have ended."""
        await self._process.end(grace_s)

    def remove_folder(self) -> None:
        """Remove the folder of the socket; called last."""
        self._folder.remove()

    def read_line(self, line: str) -> None:
        """Show the progress that a line of output contains, if any."""
        if self._status.now.state != "starting":
            return
        if (progress := self._current.kind.progress(line)) is not None:
            self._status.show(progress)

    async def wait_while_running(self, awaited: Coroutine[Any, Any, object], timeout_s: float | None) -> None:
        """Wait for `awaited` while the process runs, at most `timeout_s` seconds (None: no limit).

        `awaited` is cancelled if it has not finished by then.

        Raises:
            EngineError: the process ended first.
        """
        tasks = asyncio.create_task(awaited), asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if tasks[1].done():
                raise await self.end_reason()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end_reason(self) -> EngineError:
        """The reason for an end that Tidegate did not cause; waits for the end and the rest of the output."""
        status = await self._process.wait()
        await self._process.read_rest()
        number = signal_of(status)
        if number in EXTERNAL_SIGNALS:
            return EngineError(describe_signal(number))
        if (error := self._current.kind.explain(self.lines.since_healthy, has_run=self.lines.was_healthy)) is not None:
            return error
        return self.error(f"it ended with status {status}") if number is None else EngineError(describe_signal(number))

    def error(self, what: str) -> EngineError:
        """An error with the message `what`, and with the start's error lines or else its last line as the output."""
        if self.lines.was_healthy:  # a line may hold a caller's text, and the reason of a status is written to logs
            return EngineError(f"{what}; see tidegate engines logs {self._status.name}")
        lines = self.lines.since_healthy
        not_warnings = [line for line in lines if "WARNING" not in line]  # such as "failed with error …, goes on"
        # " E " is the level of an error in llama.cpp's lines
        errors = [line for line in not_warnings if " E " in line or "rror" in line]
        return EngineError(what, errors[-_QUOTED_LINES:] or lines[-1:])
