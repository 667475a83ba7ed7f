"""`Supervisor`: one engine, from start to stop, for any kind of engine whose process is ours."""

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
    Leave,
    ObservedLoad,
    PermanentEngineError,
)
from tidegate.engines.slots import Slots
from tidegate.engines.supervision.access import EngineAccess
from tidegate.engines.supervision.child import Child
from tidegate.engines.supervision.goal import GoalOwner
from tidegate.engines.supervision.hooks import Hooks
from tidegate.engines.supervision.running import Running
from tidegate.engines.supervision.settings import CurrentSettings, Settings
from tidegate.engines.supervision.status import StatusOwner
from tidegate.errors import ProxyError
from tidegate.telemetry.logs import Log

_MAX_BACKOFF_S = 60.0


class Supervisor:
    """Puts the parts of one engine together, and owns the task that brings the engine to its goal.

    `open` and `close` are called once each. In between the task (`_supervise`) claims room, starts the process, has it
    run (`running.Running`), ends it and starts it again; every other method only sets the goal (`orders.GoalOwner`).

    Args:
        name: the engine's.
        kind: its command line and habits.
        settings: see there.
        room: allocates the GPUs.
        clock: for idleness, backoff and health.
        log: for starts, ends and reasons.
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
        self._access = EngineAccess(self._status, self._goal_owner, self._current, clock=clock, log=log)
        self._child = Child(self._status, self._current)
        self._running = Running(
            child=self._child,
            status=self._status,
            orders=self._goal_owner,
            access=self._access,
            current=self._current,
            allocator=allocator,
            clock=clock,
            log=log,
        )
        self._hooks = Hooks(name, log)
        self._task: asyncio.Task[None] | None = None

    # --- requests and orders ---------------------------------------------------------------------------------------

    @property
    def status(self) -> EngineStatus:
        """What it does now."""
        return self._status.now

    @property
    def kind(self) -> EngineKind:
        """Its command line and habits."""
        return self._current.kind

    @property
    def settings(self) -> Settings:
        """How it is treated now."""
        return self._current.settings

    @property
    def slots(self) -> Slots:
        """The requests in it, and those that wait for it."""
        return self._access.slots

    @property
    def observed_load(self) -> ObservedLoad:
        """Its last metrics, and when they came."""
        return self._running.observed_load

    @property
    def socket_path(self) -> str:
        """Where it listens, if not on a port."""
        return self._child.socket_path

    @property
    def lines(self) -> list[str]:
        """The end of its output."""
        return list(self._child.lines.last)

    @property
    def availability(self) -> Availability:
        """What may be expected of it, see `base.Engine`."""
        return self._access.availability

    async def enter(self, *, can_wait: bool) -> Leave:
        """Take a place in the engine, which is woken if need be; what is returned gives it back, once.

        Args:
            can_wait: whether to wait for an engine that starts, for the time that the config allows.

        Raises:
            EngineUnavailable: it does not answer; the message says why, and quotes no output.
        """
        return await self._access.enter(can_wait=can_wait)

    def doubt(self, error: ProxyError) -> None:
        """A request failed in the engine: its health is checked at once if it may be dead.

        `enter` waits for that check, at most a second. An engine that refused the connection is out of
        routing when this returns.
        """
        self._access.doubt(error)

    def load(self) -> None:
        """Load it, if it is not loaded, as a request would; returns at once."""
        self._access.ask()

    def want(self, goal: Goal) -> None:
        """Set the goal by order of the administrator, which requests do not overrule.

        Raises:
            EngineError: it cannot sleep.
        """
        if goal == "sleep" and self.kind.sleep_level is None:
            raise EngineError(f"the engine {self.name} has no sleep_level or sleep_path, so it cannot sleep; stop it")
        if goal == "sleep" and self.status.state in {"stopping", "stopped", "failed"}:
            raise EngineError(f"the engine {self.name} does not run, so it cannot sleep")
        self._goal_owner.is_held = goal == "stop"
        self._status.crashes = self._status.failed_starts = 0
        self._goal_owner.set(goal)
        if goal == "stop" and self.status.state == "failed" and self._child.has_ended:  # nothing has to end first
            self._status.move("stop", self._why_stopped)

    def make_room(self, *, may_sleep: bool = True) -> None:
        """Sleep, or stop: another engine needs the memory, or no request needs this one. The next request wakes it."""
        self._running.make_room(may_sleep=may_sleep)

    def close_for(self, wanted: str) -> None:
        """Let new requests wait until it has made room for the engine `wanted`, or `reopen`."""
        self._access.close_for(wanted)

    def reopen(self) -> None:
        """Take requests again: the room is not wanted any more."""
        self._access.reopen()

    def treat(self, kind: EngineKind, settings: Settings) -> None:
        """Use these from now on; the new kind differs only in its time limits, as the engine goes on."""
        self._current.kind = kind
        self._current.settings = settings

    # --- its task -------------------------------------------------------------------------------------------------

    def open(self, control: Control) -> None:
        """Begin; returns at once, the engine becomes ready later."""
        self._task = asyncio.create_task(self._supervise(control), name=f"engine {self.name}")

    async def drained(self) -> None:
        """Go out of routing, for good; returns when running answers have ended, or their time is over.

        What is left of it is for `close`, which may also come first.
        """
        self._goal_owner.hold()
        self._status.release_waiting()  # requests that wait for it need not
        while self.status.state in {"ready", "draining", "stopping"}:
            await self._status.until_changed()

    async def close(self) -> None:
        """End the supervision, then the process, by force if need be; returns when it has ended. Never raises."""
        self._goal_owner.is_held = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._end_process("it is shut down")  # the cancelled supervision may not have finished it
        self._status.move("stop", "it is shut down")
        self._child.remove_folder()

    async def _supervise(self, control: Control) -> None:
        restarts = 0
        while True:
            await self._until_wanted()
            ready_s, crash, is_hopeless = None, None, False
            try:
                await self._allocator.claim(self.name)
                if self._goal_owner.goal != "stop":  # it may have taken long
                    self._status.attempt("the model is being loaded", restarts)
                    await self._hooks.before_load(self.settings.hooks)
                    await self._child.start(control)
                    self._log.info("engine starting", engine=self.name, pid=self._child.pid)
                    await self._running.until_ready(control)
                    ready_s = self._clock.monotonic_s()
                    if self._status.is_ready:
                        self._hooks.after_load(self.settings.hooks)
                    await self._running.live(control)
            except EngineError as error:
                # what has run can run again; what its output told earlier need not be why it ended
                crash, is_hopeless = error, isinstance(error, PermanentEngineError) and ready_s is None
            except Exception as error:  # noqa: BLE001 - one of the three broad clauses: supervision must go on
                crash = EngineError("it failed unexpectedly", [f"{type(error).__name__}: {error}"])
            finally:
                await self._end_process(crash or "it is stopping")
            if crash is None:
                self._log.info("engine stopped", engine=self.name)
                self._status.move("stop", self._why_stopped, restarts)
                continue
            restarts += ready_s is not None
            await self._after_crash(crash, restarts, ready_s, is_hopeless=is_hopeless)

    async def _until_wanted(self) -> None:
        while self._goal_owner.goal == "stop" or (self._goal_owner.goal == "sleep" and self._child.has_ended):
            self._goal_owner.changed.clear()
            await self._goal_owner.changed.wait()

    async def _end_process(self, why: str | EngineError) -> None:
        """End the process and its children; release its GPU memory for others only when they have ended."""
        grace_s = self.kind.stop_s
        if self.status.state == "failed":  # it has had its time to end, and is shown as failed until it starts again
            grace_s = min(grace_s, self.settings.ending_s)
        elif not self._child.has_ended:
            self._status.move("end", why)
        await self._hooks.end()
        await self._child.end(grace_s)
        self._running.give_room()

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
        if self.status.state == "stopped":  # it came to no start
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
    def _why_stopped(self) -> str:
        is_held = self._goal_owner.is_held
        return f"it was told to stop: tidegate engines start {self.name}" if is_held else "it is not loaded"
