"""`Supervisor`: one engine from start to stop, for any kind of engine whose process Tidegate starts."""

import asyncio
import contextlib
from collections.abc import Callable

from tidegate.clock import Clock
from tidegate.engines.base import (
    Availability,
    Control,
    EngineError,
    EngineKind,
    EngineStatus,
    Goal,
    GpuClaims,
    PermanentEngineError,
    ReleaseSlot,
    ScrapedLoad,
)
from tidegate.engines.requests import EngineRequests
from tidegate.engines.supervision.child import EngineChild
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.hooks import Hooks
from tidegate.engines.supervision.intake import EngineIntake
from tidegate.engines.supervision.running_phase import RunningPhase
from tidegate.engines.supervision.settings import CurrentSettings, Settings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.errors import ProxyError
from tidegate.telemetry.logs import Log

_MAX_BACKOFF_S = 60.0


class Supervisor:
    """Puts the parts of one engine together, and owns the task that brings the engine to its goal.

    `open` and `close` are called once each. In between the task (`_supervise`) claims GPU memory, starts the process,
    runs the engine (`RunningPhase`), ends the process and starts it again. Every other method only sets the goal
    (`goal.GoalOwner`) or changes what the task reads.

    Args:
        name: the engine's name.
        kind: the engine's command line and properties.
        settings: how the engine is run.
        allocator: allocates the GPUs.
        clock: for idleness, backoff and health.
        log: receives starts, ends and their reasons.
        on_change: called with every new status.
    """

    def __init__(
        self,
        name: str,
        kind: EngineKind,
        settings: Settings,
        *,
        allocator: GpuClaims,
        clock: Clock,
        log: Log,
        on_change: Callable[[EngineStatus], None] | None = None,
    ) -> None:
        self.name = name
        self._current = CurrentSettings(kind, settings)
        self._allocator = allocator
        self._clock = clock
        self._log = log
        reason = "it is about to start" if settings.starts_at_once else "it is not loaded"
        self._status = StatusOwner(name, reason, clock=clock, log=log, on_change=on_change)
        self._goal_owner = GoalOwner("run" if settings.starts_at_once else "stop")
        self._intake = EngineIntake(self._status, self._goal_owner, self._current, clock=clock, log=log)
        self._child = EngineChild(self._status, self._current)
        self._running = RunningPhase(
            child=self._child,
            status=self._status,
            goal_owner=self._goal_owner,
            intake=self._intake,
            current=self._current,
            allocator=allocator,
            clock=clock,
            log=log,
        )
        self._hooks = Hooks(name, log)
        self._task: asyncio.Task[None] | None = None

    # --- requests and goals -------------------------------------------------------------------------------------------

    @property
    def status(self) -> EngineStatus:
        """The current status."""
        return self._status.now

    @property
    def kind(self) -> EngineKind:
        """The engine's command line and properties."""
        return self._current.kind

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self._current.settings

    @property
    def requests(self) -> EngineRequests:
        """The requests in the engine, and those that wait for it."""
        return self._intake.requests

    @property
    def scraped_load(self) -> ScrapedLoad:
        """The engine's last metrics, and when they came."""
        return self._running.scraped_load

    @property
    def socket_path(self) -> str:
        """Where the engine listens, if not on a port."""
        return self._child.socket_path

    @property
    def lines(self) -> list[str]:
        """The last lines of the engine's output."""
        return list(self._child.lines.last)

    @property
    def availability(self) -> Availability:
        """Whether a request can be answered, now or after a wait; see `base.Engine`."""
        return self._intake.availability

    async def acquire_slot(self, *, can_wait: bool) -> ReleaseSlot:
        """Take a slot in the engine, which is started or woken if necessary; returns the function that frees the slot.

        That function is called exactly once.

        Args:
            can_wait: whether to wait for an engine that starts, at most `queue_timeout_s` seconds.

        Raises:
            EngineUnavailable: the engine is not ready; the message says why, and quotes no output.
        """
        return await self._intake.acquire_slot(can_wait=can_wait)

    def report_failure(self, error: ProxyError) -> None:
        """Make a health check due after a failed request, if `error` may mean that the engine is dead.

        `acquire_slot` waits for that check, at most a second. An engine that refused the connection is marked as failed
        when this method returns, so that it gets no requests.
        """
        self._intake.report_failure(error)

    def load(self) -> None:
        """Load the engine as a request would, if it is not loaded; returns at once."""
        self._intake.request_load()

    def set_goal(self, goal: Goal) -> None:
        """Set the goal for the administrator; after "stop" no request starts the engine.

        Raises:
            EngineError: the goal is "sleep", and the engine cannot sleep, or does not run.
        """
        if goal == "sleep" and self.kind.sleep_level is None:
            raise EngineError(f"the engine {self.name} has no sleep_level or sleep_path, so it cannot sleep; stop it")
        if goal == "sleep" and self.status.state in {"stopping", "stopped", "failed"}:
            raise EngineError(f"the engine {self.name} does not run, so it cannot sleep")
        self._goal_owner.is_held = goal == "stop"
        self._status.crashes = self._status.failed_starts = 0
        self._goal_owner.set(goal)
        if goal == "stop" and self.status.state == "failed" and self._child.has_ended:  # no process has to end first
            self._status.move("stop", self._stop_reason)

    def unload(self, *, may_sleep: bool = True) -> None:
        """Sleep, or stop: another engine needs the memory, or the engine is idle. The next request loads it again."""
        self._running.unload(may_sleep=may_sleep)

    def pause_for(self, other: str) -> None:
        """Let new requests wait until the engine was unloaded so that `other` can be loaded, or until `reopen`."""
        self._intake.pause_for(other)

    def reopen(self) -> None:
        """Accept requests again: no other engine needs this one to be unloaded any more."""
        self._intake.reopen()

    def reconfigure(self, kind: EngineKind, settings: Settings) -> None:
        """Replace kind and settings; the running engine continues, so the new kind may differ only in time limits."""
        self._current.kind = kind
        self._current.settings = settings

    # --- the task -----------------------------------------------------------------------------------------------------

    def open(self, control: Control) -> None:
        """Start the supervision; returns at once, the engine becomes ready later."""
        self._task = asyncio.create_task(self._supervise(control), name=f"engine {self.name}")

    async def drain(self) -> None:
        """Accept no more requests, for good; returns when running answers have ended, or their time is over.

        `close` ends the process afterwards, or earlier if it is called first.
        """
        self._goal_owner.hold()
        self._status.release_waiting()  # requests that wait for the engine are refused
        while self.status.state in {"ready", "draining", "stopping"}:
            await self._status.until_changed()

    async def close(self) -> None:
        """End the supervision, then the process, by SIGKILL if necessary; returns when it has ended. Never raises."""
        self._goal_owner.is_held = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._end_process("it is shut down")  # the cancelled supervision may not have finished this
        self._status.move("stop", "it is shut down")
        self._child.remove_folder()

    async def _supervise(self, control: Control) -> None:
        restarts = 0
        while True:
            await self._wait_until_needed()
            ready_s, crash, is_hopeless = None, None, False
            try:
                await self._allocator.claim(self.name)
                if self._goal_owner.goal != "stop":  # the claim may have taken long
                    self._status.attempt("the model is being loaded", restarts)
                    await self._hooks.before_load(self.settings.hooks)
                    await self._child.start(control)
                    self._log.info("engine starting", engine=self.name, pid=self._child.pid)
                    await self._running.until_ready(control)
                    ready_s = self._clock.monotonic_s()
                    if self._status.is_ready:
                        self._hooks.after_load(self.settings.hooks)
                    await self._running.run(control)
            except EngineError as error:
                # an engine that has run can run again; an earlier cause in its output need not be why it ended
                crash, is_hopeless = error, isinstance(error, PermanentEngineError) and ready_s is None
            except Exception as error:  # noqa: BLE001 - supervision must continue
                crash = EngineError("it failed unexpectedly", [f"{type(error).__name__}: {error}"])
            finally:
                await self._end_process(crash or "it is stopping")
            if crash is None:
                self._log.info("engine stopped", engine=self.name)
                self._status.move("stop", self._stop_reason, restarts)
                continue
            restarts += ready_s is not None
            await self._after_crash(crash, restarts, ready_s, is_hopeless=is_hopeless)

    async def _wait_until_needed(self) -> None:
        while self._goal_owner.goal == "stop" or (self._goal_owner.goal == "sleep" and self._child.has_ended):
            self._goal_owner.changed.clear()
            await self._goal_owner.changed.wait()

    async def _end_process(self, why: str | EngineError) -> None:
        """End the process and its children; release the GPU memory only when they have ended."""
        grace_s = self.kind.stop_s
        if self.status.state == "failed":  # it has had its time to end, and is shown as failed until it starts again
            grace_s = min(grace_s, self.settings.ending_s)
        elif not self._child.has_ended:
            self._status.move("end", why)
        await self._hooks.end()
        await self._child.end(grace_s)
        self._running.release_gpus()

    async def _after_crash(
        self, crash: EngineError, restarts: int, ready_s: float | None, *, is_hopeless: bool
    ) -> None:
        was_steady = ready_s is not None and self._clock.monotonic_s() - ready_s >= self.settings.steady_s
        self._status.crashes = crashes = 1 if was_steady else self._status.crashes + 1
        self._status.failed_starts = self._status.failed_starts + 1 if ready_s is None else 0
        gives_up = is_hopeless or crashes >= self.settings.max_crashes
        pause_s = min(self.settings.backoff_s * 2 ** (crashes - 1), _MAX_BACKOFF_S)
        restart_in_s = None if gives_up else pause_s
        self._log.error("engine down", engine=self.name, reason=str(crash), restart_in_s=restart_in_s)
        if self.status.state == "stopped":  # it failed before its start was counted
            self._status.attempt("", restarts)
        if gives_up:
            self._goal_owner.hold()
            hint = f" (it is not started again by itself: tidegate engines start {self.name})"
            crash = EngineError(crash.message + hint, crash.output)
        self._status.move("crash", crash, restarts)
        if not gives_up:
            self._goal_owner.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._goal_owner.changed.wait(), pause_s)

    @property
    def _stop_reason(self) -> str:
        is_held = self._goal_owner.is_held
        return f"it was told to stop: tidegate engines start {self.name}" if is_held else "it is not loaded"
