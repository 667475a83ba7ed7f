"""`Supervisor`: one engine's process, from start to stop, for any kind of engine."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

from proxy.engines.base import EngineError, EngineKind, EngineStatus, Probe
from proxy.errors import EngineUnavailable
from proxy.telemetry.logs import Log

_PREFIX = "tidegate-"
_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 60.0
_POLL_S = 0.05
_STOP_S = 5.0
_KEPT_LINES = 50
_MAX_REASON = 1000


class Supervisor:
    """Owns the process, the directory of its socket and its status; `start` and `stop` are called once each.

    The process gets a session of its own, so that Ctrl-C at the terminal does not reach it while answers are running,
    and a standard input whose end tells it that we are gone.

    Args:
        name: the engine's.
        kind: its command line and habits.
        log: for starts, ends and reasons.
        on_change: told of every new status.
        backoff_s: the first pause before a restart; each further one is twice as long, up to a minute, until the engine
            has been ready once more.
        stop_s: how long the process has between the request to stop and the force.
    """

    def __init__(
        self,
        name: str,
        kind: EngineKind,
        log: Log,
        *,
        on_change: Callable[[EngineStatus], None] | None = None,
        backoff_s: float = _FIRST_BACKOFF_S,
        stop_s: float = _STOP_S,
    ) -> None:
        self.name = name
        self.kind = kind
        self.status = EngineStatus("starting", "it is about to start")
        self._log = log
        self._on_change = on_change
        self._first_backoff_s = backoff_s
        self._stop_s = stop_s
        _sweep()
        # only we may enter: the mode is 0700
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self.socket_path = str(self._directory / "engine.sock")
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=_KEPT_LINES)

    def check_ready(self) -> None:
        """Pass if the engine answers.

        Raises:
            EngineUnavailable: it does not; the message says why.
        """
        status = self.status
        if status.state != "ready":
            retry_s = 1.0 if status.state == "starting" and not status.restarts else 5.0
            raise EngineUnavailable(
                f"The engine '{self.name}' is not ready ({status.state}): {status.reason}", retry_after_s=retry_s
            )

    def start(self, probe: Probe) -> None:
        """Begin; `probe` says whether the engine answers on its socket."""
        self._task = asyncio.create_task(self._run(probe), name=f"engine {self.name}")

    async def stop(self) -> None:
        """End the process, by force if it does not follow, and the supervision; never raises."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._set(EngineStatus("stopped", "the server is going down", self.status.restarts))
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _run(self, probe: Probe) -> None:
        restarts = 0
        backoff_s = self._first_backoff_s
        while True:
            was_ready = False
            try:
                self._set(EngineStatus("starting", "the model is being loaded", restarts))
                await self._launch()
                await self._until_ready(probe)
                was_ready = True
                self._set(EngineStatus("ready", "", restarts))
                reason = await self._until_exit()
            except EngineError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - one of the three broad clauses: supervision must go on
                reason = f"{type(error).__name__}: {error}"
            finally:
                await self._end()
            if was_ready:
                backoff_s = self._first_backoff_s
            restarts += 1
            self._log.error("engine down", engine=self.name, reason=reason, restart_in_s=backoff_s)
            self._set(EngineStatus("restarting", reason[:_MAX_REASON], restarts))
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)

    async def _launch(self) -> None:
        command = self.kind.command(self.socket_path)
        Path(self.socket_path).unlink(missing_ok=True)  # noqa: ASYNC240 - one name in a directory of our own
        self._tail.clear()
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read_output(self._process))
        self._log.info("engine starting", engine=self.name, pid=self._process.pid)

    async def _until_ready(self, probe: Probe) -> None:
        """Knock until there is an answer, an end, or no more patience."""
        process, reading = self._started()
        try:
            async with asyncio.timeout(self.kind.start_timeout_s):
                while not await probe():
                    if reading.done():
                        raise EngineError(self._reason(f"it ended with status {await process.wait()}"))
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise EngineError(self._reason(f"no answer in {self.kind.start_timeout_s:g} s")) from None
        self._log.info("engine ready", engine=self.name, pid=process.pid)

    async def _until_exit(self) -> str:
        process, reading = self._started()
        status = await process.wait()
        await reading
        return self._reason(f"it ended with status {status}")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._reading is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(self._stop_s):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line over the reader's limit has been thrown away
                continue
            if not line:
                return
            self._tail.append(line.decode("utf-8", "replace").rstrip())

    def _started(self) -> tuple[asyncio.subprocess.Process, asyncio.Task[None]]:
        assert self._process is not None and self._reading is not None  # noqa: S101, PT018 - `_launch` has set them
        return self._process, self._reading

    def _reason(self, what: str) -> str:
        """`what`, and what the output says about it: the lines marked as errors, or else the last one."""
        lines = [line for line in self._tail if line]
        errors = [line for line in lines if " E " in line or "rror" in line]
        told = errors[-3:] or lines[-1:]
        return "; ".join([what, *told])

    def _set(self, status: EngineStatus) -> None:
        self.status = status
        if self._on_change is not None:
            self._on_change(status)


def _sweep() -> None:
    """Remove what a Tidegate that was killed has left behind: directories of ours whose process is gone."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_ours = directory.stat().st_uid == os.getuid()
            if pid.isdigit() and is_ours and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
                shutil.rmtree(directory, ignore_errors=True)
