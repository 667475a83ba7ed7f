"""One child process of an engine: started in a session of its own, read, ended with all that it has started."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from tidegate.engines.base import Command
from tidegate.engines.process import orphans, warden
from tidegate.engines.process.lines import OutputTail
from tidegate.telemetry.redaction import mask

_MAX_LINE = 4096
_READ_BYTES = 65536
_LAST_WORDS_S = 1.0
_WARDEN_S = 5.0  # after that the session is killed from here
_LINE_END = re.compile(rb"[\r\n]")
_WARDEN = (sys.executable, "-I", "-S", warden.__file__)


class EngineProcess:
    """Runs one command behind the warden (see `warden`); owner of the process and of what is kept of its output.

    Starting and ending are tasks of their own, so that the cancellation of a caller does not interrupt them. A process
    that was started is ended by `end`.

    Args:
        on_line: told of each line of the output, standard error included.
        name: the engine's, for its mark (see `orphans`).
    """

    def __init__(self, on_line: Callable[[str], None], name: str = "engine") -> None:
        self._name = name
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._output: OutputReader | None = None
        self._request_scope: int | None = None
        self._mark: orphans.Mark | None = None
        self._secrets: Sequence[str] = ()
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.lines = OutputTail()

    @property
    def pid(self) -> int | None:
        """The session's id, while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether there is none, or no more."""
        return self._process is None or self._process.returncode is not None

    async def start(self, command: Command) -> None:
        """Start it.

        Raises:
            OSError: there is no such program.
        """
        self.lines.begin()
        self._secrets = command.secrets
        # shielded: a cancellation during the spawn would kill the warden, not the engine
        self._starting = asyncio.create_task(self._spawn(command))
        await asyncio.shield(self._starting)

    async def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None  # noqa: S101 - `start` has set it
        return await self._process.wait()

    async def read_out(self) -> None:
        """Wait until its last lines are read, not long: what it has started may hold its output open."""
        if self._output is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._output.has_ended.wait(), _LAST_WORDS_S)

    async def end(self, grace_s: float) -> None:
        """SIGTERM or the stop command, then SIGKILL after `grace_s`; then all processes that it has started are killed.

        Raises only the caller's own cancellation; a second call then waits for the same end.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(grace_s))
        await asyncio.shield(self._ending)

    async def _spawn(self, command: Command) -> None:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            # pipes of our own: with asyncio's, `wait` returns only when every process that inherited an end has ended
            self._mark = orphans.make_mark(self._name)
            output, output_end = orphans.open_pipe(self._mark)
            ours.callback(os.close, output)
            theirs.callback(os.close, output_end)
            lifeline_end, request_scope = os.pipe()
            ours.callback(os.close, request_scope)
            theirs.callback(os.close, lifeline_end)
            self._process = await asyncio.create_subprocess_exec(
                *_WARDEN,
                *command.argv,
                env=_environment(command, self._mark),
                stdin=lifeline_end,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            ours.pop_all()
        self._request_scope = request_scope
        self._output = OutputReader(output, self._keep)

    async def _end(self, grace_s: float) -> None:
        try:
            if self._starting is not None:
                await asyncio.wait((self._starting,))
            await self._ask_to_end(grace_s)
            await self._kill_rest()
        except BaseException:  # this task is cancelled, as when the event loop closes
            if self._process is not None:
                warden.kill_session(self._process.pid)
            raise
        finally:
            process, self._process = self._process, None
            self._close_pipes()
            self._ending = None
        if process is not None:
            await process.wait()

    async def _ask_to_end(self, grace_s: float) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._process.wait()

    async def _kill_rest(self) -> None:
        """Kill what is left of it: in its session by the warden, if that still runs, then in any other session."""
        if self._process is not None:
            self._cut_lifeline()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WARDEN_S):
                    await self._process.wait()
            await asyncio.to_thread(warden.kill_session, self._process.pid)
            await asyncio.to_thread(orphans.end_start, self._mark)

    def _close_pipes(self) -> None:
        self._cut_lifeline()
        if self._output is not None:
            self._output.close()

    def _cut_lifeline(self) -> None:
        """What the warden holds the other end of; it is cut as well when we are gone, however that came."""
        if self._request_scope is not None:
            os.close(self._request_scope)
            self._request_scope = None

    def _keep(self, line: str) -> None:
        line = mask(line, self._secrets) if self._secrets else line
        self.lines.add(line)
        self._on_line(line)


def _environment(command: Command, mark: orphans.Mark | None) -> Mapping[str, str]:
    own = {} if mark is None else {orphans.VARIABLE: str(mark)}
    return os.environ | dict(command.environment) | own | warden.stop_variable(command.stop)


class OutputReader:
    """Reads lines from a pipe in the event loop, until `close`; owner of the descriptor.

    Args:
        descriptor: the read end of the pipe.
        on_line: called with each line that is not blank; the event loop logs its exceptions, and reading goes on.

    Attributes:
        has_ended: set when every process has closed the write end.
    """

    def __init__(self, descriptor: int, on_line: Callable[[str], None]) -> None:
        self._descriptor: int | None = descriptor
        self._on_line = on_line
        self._held = b""
        self._loop = asyncio.get_running_loop()
        self.has_ended = asyncio.Event()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read, descriptor)

    def close(self) -> None:
        """Stop reading; idempotent."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        # progress bars are redrawn behind a carriage return, and end no line
        *lines, self._held = _LINE_END.split(self._held + data)
        self._held = self._held[-_MAX_LINE:]
        if not data:
            self.close()
            self.has_ended.set()
            lines = [self._held]
        for line in lines:
            if text := line[:_MAX_LINE].decode("utf-8", "replace").rstrip():
                self._on_line(text)
