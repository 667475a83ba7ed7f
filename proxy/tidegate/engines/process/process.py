"""`EngineProcess`: starts an engine in a session of its own, reads its output, and ends it with its children."""

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
_LAST_OUTPUT_S = 1.0
_WARDEN_S = 5.0  # a warden that runs longer than this after its input was closed is killed with its session
_LINE_END = re.compile(rb"[\r\n]")
_WARDEN = (sys.executable, "-I", "-S", warden.__file__)


class EngineProcess:
    """Runs one command as a child of the warden script (see `warden`); owns the process and the last lines of output.

    Starting and ending run in tasks of their own, so that the cancellation of a calling task does not interrupt them.
    A process that was started must be ended by `end`.

    Args:
        on_line: called with each line of the output, standard error included.
        name: the engine's name, for its mark (see `orphans`).

    Attributes:
        lines: the lines of output that are kept.
    """

    def __init__(self, on_line: Callable[[str], None], name: str = "engine") -> None:
        self._name = name
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._output: OutputReader | None = None
        self._warden_stdin: int | None = None
        self._mark: orphans.Mark | None = None
        self._secrets: Sequence[str] = ()
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.lines = OutputTail()

    @property
    def pid(self) -> int | None:
        """The pid of the session's leader (the warden), from the start until `end` has finished; else None."""
        return None if self._process is None else self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether no process was started, or the process has ended."""
        return self._process is None or self._process.returncode is not None

    async def start(self, command: Command) -> None:
        """Start the process.

        Raises:
            OSError: the process cannot be created.
        """
        self.lines.begin()
        self._secrets = command.secrets
        # shielded: a cancellation during the spawn would kill the warden, but not the engine
        self._starting = asyncio.create_task(self._spawn(command))
        await asyncio.shield(self._starting)

    async def wait(self) -> int:
        """Wait until the process has ended; returns its exit status."""
        assert self._process is not None  # noqa: S101 - `start` has set it
        return await self._process.wait()

    async def read_rest(self) -> None:
        """Wait until the last lines are read, at most a second: a child of the engine may keep the pipe open."""
        if self._output is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._output.has_ended.wait(), _LAST_OUTPUT_S)

    async def end(self, grace_s: float) -> None:
        """End the process by SIGTERM or the stop command, after `grace_s` by SIGKILL, and kill all that it has started.

        Raises only the cancellation of the calling task; a second call then waits for the same end.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(grace_s))
        await asyncio.shield(self._ending)

    async def _spawn(self, command: Command) -> None:
        with contextlib.ExitStack() as child_ends, contextlib.ExitStack() as own_ends:
            # not asyncio's pipes: with them `wait` returns only when every process that inherited an end has ended
            self._mark = orphans.make_mark(self._name)
            output, output_end = orphans.open_pipe(self._mark)
            own_ends.callback(os.close, output)
            child_ends.callback(os.close, output_end)
            warden_stdin_end, warden_stdin = os.pipe()
            own_ends.callback(os.close, warden_stdin)
            child_ends.callback(os.close, warden_stdin_end)
            self._process = await asyncio.create_subprocess_exec(
                *_WARDEN,
                *command.argv,
                env=_environment(command, self._mark),
                stdin=warden_stdin_end,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            own_ends.pop_all()
        self._warden_stdin = warden_stdin
        self._output = OutputReader(output, self._store_line)

    async def _end(self, grace_s: float) -> None:
        try:
            if self._starting is not None:
                await asyncio.wait((self._starting,))
            await self._terminate(grace_s)
            await self._kill_rest()
        except BaseException:  # this task is cancelled, for example when the event loop closes
            if self._process is not None:
                warden.kill_session(self._process.pid)
            raise
        finally:
            process, self._process = self._process, None
            self._close_pipes()
            self._ending = None
        if process is not None:
            await process.wait()

    async def _terminate(self, grace_s: float) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._process.wait()

    async def _kill_rest(self) -> None:
        """Kill the remaining processes: in the session by the warden, if it still runs, then in any other session."""
        if self._process is not None:
            self._close_warden_stdin()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WARDEN_S):
                    await self._process.wait()
            await asyncio.to_thread(warden.kill_session, self._process.pid)
            await asyncio.to_thread(orphans.kill_remaining, self._mark)

    def _close_pipes(self) -> None:
        self._close_warden_stdin()
        if self._output is not None:
            self._output.close()

    def _close_warden_stdin(self) -> None:
        """Close the pipe to the warden, which then kills the session. The kernel closes it when Tidegate ends."""
        if self._warden_stdin is not None:
            os.close(self._warden_stdin)
            self._warden_stdin = None

    def _store_line(self, line: str) -> None:
        line = mask(line, self._secrets) if self._secrets else line
        self.lines.add(line)
        self._on_line(line)


def _environment(command: Command, mark: orphans.Mark | None) -> Mapping[str, str]:
    own = {} if mark is None else {orphans.VARIABLE: str(mark)}
    return os.environ | dict(command.environment) | own | warden.stop_variable(command.stop)


class OutputReader:
    """Reads lines from a pipe in the event loop, until `close`; owns the descriptor.

    Args:
        descriptor: the read end of the pipe.
        on_line: called with each line that is not blank; the event loop logs its exceptions, and reading continues.

    Attributes:
        has_ended: set when every process has closed the write end of the pipe.
    """

    def __init__(self, descriptor: int, on_line: Callable[[str], None]) -> None:
        self._descriptor: int | None = descriptor
        self._on_line = on_line
        self._partial_line = b""
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
        # a progress bar is redrawn after a carriage return, without a line feed
        *lines, self._partial_line = _LINE_END.split(self._partial_line + data)
        self._partial_line = self._partial_line[-_MAX_LINE:]
        if not data:
            self.close()
            self.has_ended.set()
            lines = [self._partial_line]
        for line in lines:
            if text := line[:_MAX_LINE].decode("utf-8", "replace").rstrip():
                self._on_line(text)
