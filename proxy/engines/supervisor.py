"""`Supervisor`: one engine, from start to stop, for any kind of engine whose process is ours."""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct

from proxy.clock import Clock
from proxy.engines.base import (
    Control,
    EngineError,
    EngineKind,
    EngineStatus,
    Goal,
    Hopeless,
    Leave,
    Looked,
    Outlook,
    Progress,
    Room,
)
from proxy.engines.life import Event, after
from proxy.engines.places import Places
from proxy.engines.process import EngineProcess
from proxy.engines.sockets import SocketFolder
from proxy.engines.watch import Watch
from proxy.errors import EngineUnavailable
from proxy.telemetry.logs import Log

_POLL_S = 0.05
_SCRAPE_S = 1.0
_MAX_REASON = 1000
_MAX_BACKOFF_S = 60.0
_RETRY_S = 5.0
_LAST_WORDS_S = 1.0
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


class Settings(Struct, frozen=True, kw_only=True):
    """How an engine is to be treated; all but the last five come from the config.

    Attributes:
        starts_at_once: with Tidegate; else when the first request asks for it.
        queue_timeout_s: how long a request waits for it.
        drain_timeout_s: how long running answers may go on when it is to stop.
        idle_unload_s: it makes room by itself after so long without a request.
        backoff_s: the first pause before a restart; each further one is twice as long, up to a minute, until the engine
            has been ready for `steady_s`.
        steady_s: see there.
        max_crashes: so many crashes without having been steady in between, and it is not started again by itself.
        poll_s: between two looks at an engine that starts.
        scrape_s: between two looks at one that runs.
    """

    starts_at_once: bool = True
    queue_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    idle_unload_s: float | None = None
    backoff_s: float = 1.0
    steady_s: float = 60.0
    max_crashes: int = 5
    poll_s: float = _POLL_S
    scrape_s: float = _SCRAPE_S


class Supervisor:
    """Owns the process, the directory of its socket, its status and the count of requests in it.

    `open` and `close` are called once each. In between one task (`_supervise`) makes of the engine what is wanted of it
    (`_goal`); everything else only says what is wanted.

    Args:
        name: the engine's.
        kind: its command line and habits.
        settings: see there.
        room: who shares out the GPUs.
        clock: for idleness, backoff and health.
        log: for starts, ends and reasons.
        on_change: told of every new status.
    """

    def __init__(
        self,
        name: str,
        kind: EngineKind,
        settings: Settings,
        *,
        room: Room,
        clock: Clock,
        log: Log,
        on_change: Callable[[EngineStatus], None] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.status = EngineStatus("stopped", "it is about to start" if settings.starts_at_once else "it is not loaded")
        self.looked = Looked()
        self.places = Places(clock)
        self._settings = settings
        self._room = room
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._folder = SocketFolder()
        self.socket_path = self._folder.socket_path
        self._process = EngineProcess(self._read_line)
        self._goal: Goal = "run" if settings.starts_at_once else "stop"
        self._is_held = False  # stopped by the administrator: no request starts it
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()  # ready, or not on the way there
        self._crashes = 0
        self._started_s = self._phase_s = self._told_s = 0.0
        self._task: asyncio.Task[None] | None = None

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def lines(self) -> list[str]:
        """The end of its output."""
        return list(self._process.lines)

    @property
    def outlook(self) -> Outlook:
        """What may be expected of it, see `base.Engine`."""
        if self._is_ready:
            return "ready"
        if self._is_coming:
            return "loading"
        return "unloaded" if self.status.state in {"stopped", "sleeping"} and not self._is_held else "unavailable"

    async def enter(self, *, can_wait: bool) -> Leave:
        """Take a place in the engine, which is woken if need be; what is returned gives it back, once.

        Args:
            can_wait: whether to wait for an engine that starts, for the time that the config allows.

        Raises:
            EngineUnavailable: it does not answer; the message says why.
        """
        if not self._is_ready:
            self._ask()
            if not (can_wait and self._is_coming):
                raise self._unavailable()
            await self._wait_ready()
        self.places.take()
        return self.places.leave

    def load(self) -> None:
        """Load it, if it is not loaded, as a request would; returns at once."""
        self._ask()

    def want(self, goal: Goal) -> None:
        """Say what the engine is to do from now on; the administrator's word, which requests do not overrule.

        Raises:
            EngineError: it cannot sleep.
        """
        if goal == "sleep" and self.kind.sleep_level is None:
            raise EngineError(f"the engine {self.name} has no sleep_level, so it cannot sleep; stop it")
        if goal == "sleep" and self.status.state in {"stopping", "stopped", "failed"}:
            raise EngineError(f"the engine {self.name} does not run, so it cannot sleep")
        self._is_held = goal == "stop"
        self._crashes = 0
        self._set_goal(goal)
        if goal == "stop" and self.status.state == "failed":  # nothing runs that would have to end first
            self._move("stop", self._why_stopped)

    def make_room(self, *, may_sleep: bool = True) -> None:
        """Sleep, or stop: another engine needs the memory, or nobody needs this one. The next request wakes it."""
        self._set_goal("sleep" if may_sleep and self.kind.sleep_level is not None else "stop")

    def treat(self, kind: EngineKind, settings: Settings) -> None:
        """From now on so; `kind` differs from the one before in its patience alone, as the engine goes on."""
        self.kind = kind
        self._settings = settings

    # --- its life -------------------------------------------------------------------------------------------------

    def open(self, control: Control) -> None:
        """Begin; returns at once, the engine becomes ready by and by."""
        self._task = asyncio.create_task(self._supervise(control), name=f"engine {self.name}")

    async def drained(self) -> None:
        """Go out of routing, for good; returns when running answers have ended, or their time is over.

        What is left of it is for `close`, which may also come first.
        """
        self._is_held = True
        self._set_goal("stop")
        while self.status.state in {"ready", "draining", "stopping"}:
            self._settled.clear()
            await self._settled.wait()

    async def close(self) -> None:
        """End the supervision, then the process, by force if need be; returns when it has ended. Never raises."""
        self._is_held = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._end_process("it is shut down")  # the cancelled supervision may not have finished it
        self._move("stop", "it is shut down")
        self._folder.remove()

    async def _supervise(self, control: Control) -> None:
        restarts = 0
        while True:
            await self._until_wanted()
            ready_s, reason, is_hopeless = None, "", False
            try:
                await self._room.claim(self.name)
                if self._goal != "stop":  # it may have taken long
                    self._move("start", "the model is being loaded", restarts)
                    await self._launch(control)
                    await self._until_ready(control)
                    ready_s = self._clock.monotonic_s()
                    await self._live(control)
            except EngineError as error:
                # what has run can run again; what its output told earlier need not be why it ended
                reason, is_hopeless = str(error), isinstance(error, Hopeless) and ready_s is None
            except Exception as error:  # noqa: BLE001 - one of the three broad clauses: supervision must go on
                reason = f"{type(error).__name__}: {error}"
            finally:
                await self._end_process(reason or "it is stopping")
            if not reason:
                self._log.info("engine stopped", engine=self.name)
                self._move("stop", self._why_stopped, restarts)
                continue
            restarts += 1
            await self._after_crash(reason, restarts, ready_s, is_hopeless=is_hopeless)

    async def _end_process(self, reason: str) -> None:
        """End the process and its children; release its GPU memory for others only when they have ended."""
        if not self._process.has_ended:
            self._move("end", reason[:_MAX_REASON])
        await self._process.end(self.kind.stop_s)
        self._room.release(self.name)

    async def _until_wanted(self) -> None:
        while self._goal == "stop" or (self._goal == "sleep" and self._process.has_ended):
            self._wanted.clear()
            await self._wanted.wait()

    async def _launch(self, control: Control) -> None:
        api_key = secrets.token_urlsafe(24)
        command = self.kind.command(self.socket_path, api_key)
        self._folder.clear()
        control.use_key(api_key)
        self._started_s = self._clock.monotonic_s()
        try:
            await self._process.start(command)
        except OSError as error:
            raise Hopeless(f"{command.argv[0]} cannot be started: {error.strerror}") from error
        self._log.info("engine starting", engine=self.name, pid=self._process.pid)

    async def _until_ready(self, control: Control, *, is_new: bool = True) -> None:
        """Knock until there is an answer, an end, or no more patience; one that slept has its adapters still."""
        limit_s = self.kind.start_timeout_s
        until_s = self._clock.monotonic_s() + limit_s
        while not await control.answers():
            if self._process.has_ended:
                raise await self._ended()
            if self._clock.monotonic_s() > until_s:
                raise EngineError(self._told(f"no answer in {limit_s:g} s"))
            if self._goal == "stop":
                return
            await asyncio.sleep(self._settings.poll_s)
        if is_new:
            await control.restore()
        self.places.open()
        self._move("answers", "")
        took_s = self._clock.monotonic_s() - self._started_s
        self._log.info("engine ready", engine=self.name, pid=self._process.pid, took_s=round(took_s, 1))

    async def _live(self, control: Control) -> None:
        """From ready on, until it is to stop.

        Raises:
            EngineError: it ended, or stands still.
        """
        watch = Watch(control, self._clock, pause_s=self._settings.scrape_s)
        while self._goal != "stop":
            if self._goal == "sleep":
                await self._sleep(control)
                continue
            await self._wait_change(self._settings.scrape_s)
            if self.kind.metrics_path is not None and not self._wanted.is_set():
                await self._look(watch)
            limit_s = self._settings.idle_unload_s
            if limit_s is not None and self.places.idle_s >= limit_s:
                self.make_room()
        if self.status.state == "ready":
            await self._drain("it is stopping")

    async def _look(self, watch: Watch) -> None:
        """See how it is doing; one that seems to stand still is out of routing until a token has come (half-open)."""
        complaint = await watch.look(self.places.taken)
        self.looked = watch.looked
        if complaint is None:
            return
        self._log.warning("engine suspected", engine=self.name, reason=complaint)
        self._move("drain", complaint)
        if not await watch.generates():
            # it may be ending just now, and its last words would say more
            await self._unless_it_ends(asyncio.sleep(_LAST_WORDS_S), None)
            raise EngineError(f"{complaint}, and it generates nothing")
        self._move("readmit", "")

    async def _sleep(self, control: Control) -> None:
        """Let it sleep until it is wanted; stays awake where requests came in between."""
        level = self.kind.sleep_level
        if self.status.state != "ready" or level is None:
            self._set_goal("stop")
            return
        await self._drain("it is going to sleep")
        if self._goal == "stop":  # meanwhile; and whoever is still there has had the time that there is
            return
        if self.places.taken or self._goal == "run":  # somebody is still there, or has come meanwhile
            self._goal = "run"
            self._move("readmit", "")
            return
        await control.sleep(level)
        self._move("sleep", "it sleeps until it is needed")
        self._room.release(self.name, is_asleep=True)
        self._log.info("engine asleep", engine=self.name, level=level)
        while self._goal == "sleep":
            await self._wait_change(None)
        if self._goal == "stop":
            return
        await self._room.claim(self.name)
        self._started_s = self._clock.monotonic_s()
        self._move("wake", "it is being woken")
        await control.wake(level)
        await self._until_ready(control, is_new=False)

    async def _drain(self, reason: str) -> None:
        """Out of routing at once; then running answers have their time.

        Raises:
            EngineError: it ended.
        """
        self._move("drain", reason)
        await self._unless_it_ends(self.places.until_empty(), self._settings.drain_timeout_s)

    async def _wait_change(self, timeout_s: float | None) -> None:
        """Until something else is wanted, or the time is over.

        Raises:
            EngineError: the process ended meanwhile.
        """
        self._wanted.clear()
        await self._unless_it_ends(self._wanted.wait(), timeout_s)

    async def _unless_it_ends(self, coming: Coroutine[Any, Any, object], timeout_s: float | None) -> None:
        """Wait for `coming`, or until the time is over.

        Raises:
            EngineError: the process ended first.
        """
        tasks = asyncio.create_task(coming), asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if tasks[1].done():
                raise await self._ended()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _after_crash(self, reason: str, restarts: int, ready_s: float | None, *, is_hopeless: bool) -> None:
        was_steady = ready_s is not None and self._clock.monotonic_s() - ready_s >= self._settings.steady_s
        self._crashes = 1 if was_steady else self._crashes + 1
        gives_up = is_hopeless or self._crashes >= self._settings.max_crashes
        pause_s = min(self._settings.backoff_s * 2 ** (self._crashes - 1), _MAX_BACKOFF_S)
        self._log.error("engine down", engine=self.name, reason=reason, restart_in_s=None if gives_up else pause_s)
        if self.status.state in {"stopped", "failed"}:  # it came to no start
            self._move("start", "", restarts)
        if gives_up:
            self._goal = "stop"
            self._is_held = True
            reason = f"{reason} (it is not started again by itself: tidegate engines start {self.name})"
        self._move("crash", reason[:_MAX_REASON], restarts)
        if not gives_up:
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause_s)

    async def _ended(self) -> EngineError:
        status = await self._process.wait()
        await self._process.read_out()
        if status in _KILLED:  # its last words are about something else
            return EngineError("it was killed: by somebody, or by the system when the memory was full, see dmesg")
        return self.kind.explain(self.lines) or EngineError(self._told(f"it ended with status {status}"))

    def _told(self, what: str) -> str:
        """`what`, and what the output says about it: the lines marked as errors, or else the last one."""
        said = [line for line in self._process.lines if "WARNING" not in line]  # "failed with error …, goes on"
        errors = [line for line in said if " E " in line or "rror" in line]
        return "; ".join([what, *(errors[-3:] or self.lines[-1:])])

    # --- small things ---------------------------------------------------------------------------------------------

    @property
    def _is_ready(self) -> bool:
        return self.status.state == "ready"

    @property
    def _is_coming(self) -> bool:
        """Also after one crash; who crashes again is not waited for."""
        is_looping = self.status.state == "failed" and self._crashes > 1
        return self._goal == "run" and not self._is_held and not is_looping

    @property
    def _why_stopped(self) -> str:
        return f"it was told to stop: tidegate engines start {self.name}" if self._is_held else "it is not loaded"

    def _ask(self) -> None:
        """A request wants the engine."""
        if self._goal != "run" and not self._is_held:
            self._set_goal("run")

    def _set_goal(self, goal: Goal) -> None:
        self._goal = goal
        self._wanted.set()

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(self._settings.queue_timeout_s):
                while not await self._becomes_ready():
                    if not self._is_coming:
                        raise self._unavailable()
        except TimeoutError:
            raise self._unavailable() from None

    async def _becomes_ready(self) -> bool:
        """Wait for the next change."""
        self._settled.clear()
        await self._settled.wait()
        return self._is_ready

    def _unavailable(self) -> EngineUnavailable:
        status = self.status
        told = f"The engine '{self.name}' is not ready ({status.state}): {status.reason}"
        if status.progress is not None:
            share = "" if status.progress.done is None else f" {status.progress.done:.0%}"
            told += f", {status.progress.phase}{share}"
        return EngineUnavailable(told, retry_after_s=max(1.0, status.left_s or _RETRY_S))

    def _read_line(self, line: str) -> None:
        if self.status.state != "starting":
            return
        if (progress := self.kind.progress(line)) is not None:
            self._tell_progress(progress)

    def _tell_progress(self, progress: Progress) -> None:
        status, now_s = self.status, self._clock.monotonic_s()
        if status.progress is None or progress.phase != status.progress.phase:
            # a phase begins where the one before was last heard of
            self._phase_s = self._started_s if status.progress is None else self._told_s
            self._log.info("engine loading", engine=self.name, phase=progress.phase)
        self._told_s = now_s
        left_s = _left_s(progress, now_s - self._phase_s)
        self._set(EngineStatus(status.state, status.reason, status.restarts, progress, left_s))

    def _move(self, event: Event, reason: str, restarts: int | None = None) -> None:
        state = after(self.status.state, event)
        count = self.status.restarts if restarts is None else restarts
        self._set(EngineStatus(state, reason, count))

    def _set(self, status: EngineStatus) -> None:
        self.status = status
        self._settled.set()
        if self._on_change is not None:
            try:
                self._on_change(status)
            except Exception:  # noqa: BLE001 - a failing callback must end neither the supervision nor the engine
                self._log.exception("engine status not told", engine=self.name)


def _left_s(progress: Progress, taken_s: float) -> float | None:
    """From the rate so far, where a share is told."""
    return taken_s / progress.done - taken_s if progress.done else None
