"""`Supervisor`: one engine, from start to stop, for any kind of engine whose process is ours."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct, structs

from proxy.clock import Clock
from proxy.config.hooks import HooksConfig
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
from proxy.engines.doubt import REFUSED, Doubt, is_refusal, may_be_dead
from proxy.engines.endings import SENT, signal_of, tell_signal
from proxy.engines.estimate import Estimate
from proxy.engines.hooks import Hooks
from proxy.engines.life import Event, after
from proxy.engines.places import Places
from proxy.engines.process import EngineProcess
from proxy.engines.sockets import SocketFolder
from proxy.engines.watch import Watch
from proxy.errors import EngineUnavailable, ProxyError
from proxy.telemetry.logs import Log

_POLL_S = 0.05
_SCRAPE_S = 1.0
_MAX_REASON = 1000
_MAX_BACKOFF_S = 60.0
_RETRY_S = 5.0
_COUNT_S = 1.0
_LAST_WORDS_S = 1.0


class Settings(Struct, frozen=True, kw_only=True):
    """How an engine is to be treated; all but the last six come from the config.

    Attributes:
        starts_at_once: with Tidegate; else when the first request asks for it.
        queue_timeout_s: how long a request waits for it.
        drain_timeout_s: how long running answers may go on when it is to stop.
        idle_unload_s: it makes room by itself after so long without a request.
        hooks: what is run around its load.
        idle_canary_s: it is asked for one token after so long without a request, and so often from then on; 0: never.
        ending_s: how long an engine that says that it is dead may take to end by itself.
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
    hooks: HooksConfig = HooksConfig()
    idle_canary_s: float = 0.0
    ending_s: float = 3.0
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
        self._told = "it is about to start" if settings.starts_at_once else "it is not loaded"  # of the reason, callers
        self.status = EngineStatus("stopped", self._told)
        self.looked = Looked()
        self.places = Places(clock)
        self._doubt = Doubt()
        self._settings = settings
        self._room = room
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._folder = SocketFolder()
        self.socket_path = self._folder.socket_path
        self._process = EngineProcess(self._read_line, name)
        self._hooks = Hooks(name, log)
        self._goal: Goal = "run" if settings.starts_at_once else "stop"
        self._is_held = False  # stopped by the administrator: no request starts it
        self._closed_for: str | None = None  # the engine that it is to make room for: new requests wait
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()  # ready, or not on the way there
        self._crashes = 0
        self._started_s = 0.0
        self._estimate = Estimate()
        self._task: asyncio.Task[None] | None = None

    # --- what others ask ------------------------------------------------------------------------------------------

    @property
    def lines(self) -> list[str]:
        """The end of its output."""
        return list(self._process.lines.last)

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
        self.places.came()
        if self._doubt.is_open:
            await self._doubt.settled()
        if not self._is_open:
            self._ask()
            if not (can_wait and self._is_coming):
                raise self._unavailable()
            with self.places.one_waits():
                await self._wait_ready()
        self.places.take()
        return self.places.leave

    def doubt(self, error: ProxyError) -> None:
        """A request failed in the engine: it is looked at, at once, where that may mean that it is dead.

        Until that has been done `enter` waits, at most a second. An engine that refused the connection is out of
        routing when this returns.
        """
        if not self._is_ready or not may_be_dead(error):
            return
        if is_refusal(error):
            self._fail(REFUSED)
        else:
            self._doubt.open()
        self._wanted.set()

    def load(self) -> None:
        """Load it, if it is not loaded, as a request would; returns at once."""
        self._ask()

    def want(self, goal: Goal) -> None:
        """Say what the engine is to do from now on; the administrator's word, which requests do not overrule.

        Raises:
            EngineError: it cannot sleep.
        """
        if goal == "sleep" and self.kind.sleep_level is None:
            raise EngineError(f"the engine {self.name} has no sleep_level or sleep_path, so it cannot sleep; stop it")
        if goal == "sleep" and self.status.state in {"stopping", "stopped", "failed"}:
            raise EngineError(f"the engine {self.name} does not run, so it cannot sleep")
        self._is_held = goal == "stop"
        self._crashes = 0
        self._set_goal(goal)
        if goal == "stop" and self.status.state == "failed" and self._process.has_ended:  # nothing has to end first
            self._move("stop", self._why_stopped)

    def make_room(self, *, may_sleep: bool = True) -> None:
        """Sleep, or stop: another engine needs the memory, or nobody needs this one. The next request wakes it."""
        self._set_goal("sleep" if may_sleep and self.kind.sleep_level is not None else "stop")

    def close_for(self, wanted: str) -> None:
        """Let new requests wait until it has made room for the engine `wanted`, or `reopen`."""
        if self._closed_for is None:
            self._log.info("engine closes for another", engine=self.name, wanted=wanted)
        self._closed_for = wanted

    def reopen(self) -> None:
        """Take requests again: the room is not wanted any more."""
        self._closed_for = None
        if self.places.waiting or self.status.state == "ready":
            self._ask()
        self._settled.set()

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
        self._settled.set()  # requests that wait for it need not
        while self.status.state in {"ready", "draining", "stopping"}:
            self._settled.clear()
            await self._settled.wait()

    async def close(self) -> None:
        """End the supervision, then the process, by force if need be; returns when it has ended. Never raises."""
        self._is_held = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._end_process(
                EngineError("it is shut down")
            )  # the cancelled supervision may not have finished it
        self._move("stop", "it is shut down")
        self._folder.remove()

    async def _supervise(self, control: Control) -> None:
        restarts = 0
        while True:
            await self._until_wanted()
            ready_s, crash, is_hopeless = None, None, False
            try:
                await self._room.claim(self.name)
                if self._goal != "stop":  # it may have taken long
                    self._move("start", "the model is being loaded", restarts)
                    await self._hooks.before_load(self._settings.hooks)
                    await self._launch(control)
                    await self._until_ready(control)
                    ready_s = self._clock.monotonic_s()
                    if self._is_ready:
                        self._hooks.after_load(self._settings.hooks)
                    await self._live(control)
            except EngineError as error:
                # what has run can run again; what its output told earlier need not be why it ended
                crash, is_hopeless = error, isinstance(error, Hopeless) and ready_s is None
            except Exception as error:  # noqa: BLE001 - one of the three broad clauses: supervision must go on
                crash = EngineError("it failed unexpectedly", [f"{type(error).__name__}: {error}"])
            finally:
                await self._end_process(crash or "it is stopping")
            if crash is None:
                self._log.info("engine stopped", engine=self.name)
                self._move("stop", self._why_stopped, restarts)
                continue
            restarts += ready_s is not None
            await self._after_crash(crash, restarts, ready_s, is_hopeless=is_hopeless)

    async def _end_process(self, why: str | EngineError) -> None:
        """End the process and its children; release its GPU memory for others only when they have ended."""
        grace_s = self.kind.stop_s
        if self.status.state == "failed":  # it has had its time to end, and is shown as failed until it starts again
            grace_s = min(grace_s, self._settings.ending_s)
        elif not self._process.has_ended:
            self._move("end", why)
        await self._hooks.end()
        await self._process.end(grace_s)
        self._give_room()

    def _give_room(self, *, is_asleep: bool = False) -> None:
        """Release what it has claimed; it will claim again where requests wait for it."""
        self._closed_for = None
        self._room.release(self.name, is_asleep=is_asleep)
        if self.places.waiting:
            self._ask()

    async def _until_wanted(self) -> None:
        while self._goal == "stop" or (self._goal == "sleep" and self._process.has_ended):
            self._wanted.clear()
            await self._wanted.wait()

    async def _launch(self, control: Control) -> None:
        api_key = secrets.token_urlsafe(24)
        command = self.kind.command(self.socket_path, api_key)
        self._folder.clear()
        control.use_key(api_key)
        if command.port is not None:
            control.use_port(command.port)
        self._started_s = self._clock.monotonic_s()
        self._estimate.begin(self._started_s)
        try:
            await self._process.start(command)
        except OSError as error:
            raise Hopeless(f"{command.argv[0]} cannot be started: {error.strerror}") from error
        self._log.info("engine starting", engine=self.name, pid=self._process.pid)

    async def _until_ready(self, control: Control, *, is_new: bool = True) -> None:
        """Knock until there is an answer, an end, or no more patience; one that slept has its adapters still."""
        limit_s = self.kind.start_timeout_s
        until_s = self._clock.monotonic_s() + limit_s
        lines = self._process.lines
        asked_at = lines.number
        while not await control.answers():
            asked_at = lines.number
            if self._process.has_ended:
                raise await self._ended()
            if self._clock.monotonic_s() > until_s:
                raise self._error(f"no answer in {limit_s:g} s")
            if self._goal == "stop":
                return
            self._count_down()
            await asyncio.sleep(self._settings.poll_s)
        lines.saw_well(asked_at)
        if is_new:
            await control.restore()
        self.places.open()
        self._move("answers", "")
        self._estimate.end(self._clock.monotonic_s())
        took_s = self._clock.monotonic_s() - self._started_s
        self._log.info("engine ready", engine=self.name, pid=self._process.pid, took_s=round(took_s, 1))

    async def _live(self, control: Control) -> None:
        """From ready on, until it is to stop.

        Raises:
            EngineError: it ended, or stands still.
        """
        watch = Watch(control, self._clock, pause_s=self._settings.scrape_s)
        try:
            while self._goal != "stop":
                if self.status.state == "failed":
                    await self._see_it_end(control)
                elif self._goal == "sleep":
                    watch.rest()
                    await self._sleep(control)
                else:
                    await self._stay(watch)
        finally:
            watch.rest()
        if self.status.state == "ready":
            await self._drain("it is stopping")

    async def _stay(self, watch: Watch) -> None:
        """Until the next look, and that look; then see to an engine without requests."""
        if not self._doubt.is_open:
            await self._wait_change(self._settings.scrape_s)
        if self._doubt.is_open or not self._wanted.is_set():
            await self._look(watch)
        idle_s, limit_s = self.places.idle_s, self._settings.idle_unload_s
        if limit_s is not None and idle_s >= limit_s:
            self.make_room()
        every_s = self._settings.idle_canary_s
        if every_s and idle_s >= every_s and self._is_open and self._goal == "run":
            watch.try_idle(every_s)

    async def _look(self, watch: Watch) -> None:
        """See how it is doing; one that seems to stand still is out of routing until a token has come (half-open)."""
        asked_at = self._process.lines.number
        is_doubted = self._doubt.is_open
        try:
            finding = await (watch.check() if is_doubted else watch.look(self.places.taken))
            self.looked = watch.looked
            if self._is_ready and finding is not None and finding.is_dead:
                self._fail(finding.reason)
        finally:
            if is_doubted:  # a doubt that came meanwhile wants a look of its own
                self._doubt.close()
        if finding is None and watch.is_well:
            self._process.lines.saw_well(asked_at)
        if finding is None or not self._is_ready:  # a request may have found it dead meanwhile
            return
        self._log.warning("engine suspected", engine=self.name, reason=finding.reason)
        self._move("drain", finding.reason)
        self.places.move(finding.reason)
        if await watch.generates(lambda: self._goal != "stop") is False:
            # it may be ending just now, and its last words would say more
            await self._unless_it_ends(asyncio.sleep(_LAST_WORDS_S), None)
            raise EngineError(f"{finding.reason}, and it generates nothing")
        self._move("readmit", "")

    def _fail(self, reason: str) -> None:
        """It is dead, though its process may not have ended: out of routing at once."""
        self._log.warning("engine failed", engine=self.name, reason=reason)
        self._move("crash", reason)
        self.places.move(reason)

    async def _see_it_end(self, control: Control) -> None:
        """A process whose engine is dead ends by itself in a while, and its last words tell why.

        Raises:
            EngineError: it has ended, or it has not and does not answer again either.
        """
        reason = self.status.reason
        await self._wait_change(self._settings.ending_s)
        if self._goal == "stop":
            return
        if not await control.answers():
            raise self._error(f"{reason}, and its process did not end by itself")
        self._move("answers", "")

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
        self._give_room(is_asleep=True)
        self._log.info("engine asleep", engine=self.name, level=level)
        while self._goal == "sleep":
            await self._wait_change(None)
        if self._goal == "stop":
            return
        if not await self._room.claim(self.name) or self._goal == "stop":
            return
        self._started_s = self._clock.monotonic_s()
        self._estimate.begin(self._started_s, is_wake=True)
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

    async def _after_crash(
        self, crash: EngineError, restarts: int, ready_s: float | None, *, is_hopeless: bool
    ) -> None:
        was_steady = ready_s is not None and self._clock.monotonic_s() - ready_s >= self._settings.steady_s
        self._crashes = 1 if was_steady else self._crashes + 1
        gives_up = is_hopeless or self._crashes >= self._settings.max_crashes
        pause_s = min(self._settings.backoff_s * 2 ** (self._crashes - 1), _MAX_BACKOFF_S)
        self._log.error("engine down", engine=self.name, reason=str(crash), restart_in_s=None if gives_up else pause_s)
        if self.status.state == "stopped":  # it came to no start
            self._move("start", "", restarts)
        if gives_up:
            self._goal = "stop"
            self._is_held = True
            hint = f" (it is not started again by itself: tidegate engines start {self.name})"
            crash = EngineError(crash.message + hint, crash.output)
        self._move("crash", crash, restarts)
        if not gives_up:
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause_s)

    async def _ended(self) -> EngineError:
        status = await self._process.wait()
        await self._process.read_out()
        number, lines = signal_of(status), self._process.lines
        if number in SENT:
            return EngineError(tell_signal(number))
        if (error := self.kind.explain(lines.since_well, has_run=lines.was_well)) is not None:
            return error
        return self._error(f"it ended with status {status}") if number is None else EngineError(tell_signal(number))

    def _error(self, what: str) -> EngineError:
        """`what`, and what the output of a start says about it: the lines marked as errors, or else the last one."""
        lines = self._process.lines
        if lines.was_well:  # a line may hold a caller's text, and reasons stay in logs
            return EngineError(f"{what}; its last words: tidegate engines logs {self.name}")
        said = [line for line in lines.since_well if "WARNING" not in line]  # "failed with error …, goes on"
        errors = [line for line in said if " E " in line or "rror" in line]
        return EngineError(what, errors[-3:] or lines.since_well[-1:])

    # --- small things ---------------------------------------------------------------------------------------------

    @property
    def _is_ready(self) -> bool:
        return self.status.state == "ready"

    @property
    def _is_open(self) -> bool:
        """Whether it takes requests."""
        return self._is_ready and self._closed_for is None

    @property
    def _is_coming(self) -> bool:
        """Also after one crash; who crashes again is not waited for."""
        is_looping = self.status.state == "failed" and self._crashes > 1
        is_wanted = self._goal == "run" or self._closed_for is not None
        return is_wanted and not self._is_held and not is_looping

    @property
    def _why_stopped(self) -> str:
        return f"it was told to stop: tidegate engines start {self.name}" if self._is_held else "it is not loaded"

    def _ask(self) -> None:
        """A request wants the engine; where it is to make room, it does so first."""
        if self._goal != "run" and not self._is_held and self._closed_for is None:
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
        return self._is_open

    def _unavailable(self) -> EngineUnavailable:
        status = self.status
        if self._is_ready and self._closed_for is not None:
            told = f"The engine '{self.name}' makes room for another one."
            return EngineUnavailable(told, retry_after_s=_RETRY_S)
        told = f"The engine '{self.name}' is not ready ({status.state}): {self._told}"
        if status.progress is not None:
            share = "" if status.progress.done is None else f" {status.progress.done:.0%}"
            told += f", {status.progress.phase}{share}"
        at_least_s = self._estimate.phase_left_s(self._clock.monotonic_s()) or 0.0
        return EngineUnavailable(told, retry_after_s=max(1.0, status.left_s or max(at_least_s, _RETRY_S)))

    def _read_line(self, line: str) -> None:
        if self.status.state != "starting":
            return
        if (progress := self.kind.progress(line)) is not None:
            self._tell_progress(progress)

    def _tell_progress(self, progress: Progress) -> None:
        status, now_s = self.status, self._clock.monotonic_s()
        if status.progress is None or progress.phase != status.progress.phase:
            self._log.info("engine loading", engine=self.name, phase=progress.phase)
        self._estimate.tell(progress, now_s)
        self._set(structs.replace(status, progress=progress, left_s=self._estimate.left_s(now_s)))

    def _count_down(self) -> None:
        """Tell how long the start still takes, whenever that has changed by a second: not every phase writes lines."""
        told_s, left_s = self.status.left_s, self._estimate.left_s(self._clock.monotonic_s())
        if left_s is not None and (told_s is None or abs(told_s - left_s) >= _COUNT_S):
            self._set(structs.replace(self.status, left_s=left_s))

    def _move(self, event: Event, why: str | EngineError, restarts: int | None = None) -> None:
        state = after(self.status.state, event)
        count = self.status.restarts if restarts is None else restarts
        attempts = self.status.attempts + (event == "start")
        self._told = (why.message if isinstance(why, EngineError) else why)[:_MAX_REASON]
        self._set(EngineStatus(state, str(why)[:_MAX_REASON], count, attempts=attempts))

    def _set(self, status: EngineStatus) -> None:
        self.status = status
        self._settled.set()
        if status.state != "ready":
            self._doubt.close()
        if self._on_change is not None:
            try:
                self._on_change(status)
            except Exception:  # noqa: BLE001 - a failing callback must end neither the supervision nor the engine
                self._log.exception("engine status not told", engine=self.name)
