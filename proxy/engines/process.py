"""One child process of an engine: started in a session of its own, read, ended with all that it has started."""

import asyncio
import contextlib
import os
import re
import sys
from collections import deque
from collections.abc import Callable

from proxy.engines import warden
from proxy.engines.base import Command

_KEPT_LINES = 400
_MAX_LINE = 4096
_READ_BYTES = 65536
_LAST_WORDS_S = 1.0
_LINE_END = re.compile(rb"[\r\n]")
_WARDEN = (sys.executable, "-I", "-S", warden.__file__)


class EngineProcess:
    """Runs one command behind the warden (see `warden`); owner of the process and of the end of its output.

    Args:
        on_line: told of each line of the output, standard error included.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lifeline: int | None = None
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)

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
        self.lines.clear()
        # pipes of our own: with asyncio's we would wait for all who hold their other ends, not for the process alone
        output, output_end = os.pipe()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_WARDEN,
                *command.argv,
                env=os.environ | dict(command.environment),
                stdin=lifeline,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            os.close(output)
            self._cut_lifeline()
            raise
        finally:
            os.close(lifeline)
            os.close(output_end)
        self._reading = asyncio.create_task(self._read(output))

    async def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None  # noqa: S101 - `start` has set it
        return await self._process.wait()

    async def read_out(self) -> None:
        """Wait until its last lines are read, not long: what it has started may hold its output open."""
        if self._reading is not None:
            await asyncio.wait((self._reading,), timeout=_LAST_WORDS_S)

    async def end(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; then every process of its session. Never raises."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        warden.kill_session(process.pid)
        await process.wait()
        self._cut_lifeline()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _cut_lifeline(self) -> None:
        """What the warden holds the other end of; it is cut as well when we are gone, however that came."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def _read(self, reading_end: int) -> None:
        output, held = asyncio.StreamReader(), b""
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading_end, "rb", buffering=0)
        )
        try:
            while data := await output.read(_READ_BYTES):
                # progress bars are redrawn behind a carriage return, and end no line
                *lines, held = _LINE_END.split(held + data)
                held = held[-_MAX_LINE:]
                for line in lines:
                    self._keep(line)
            self._keep(held)
        finally:
            transport.close()

    def _keep(self, piece: bytes) -> None:
        line = piece[:_MAX_LINE].decode("utf-8", "replace").rstrip()
        if line:
            self.lines.append(line)
            self._on_line(line)
