"""The shared types of engines: a kind of engine, its command, control, load and status, and `Engine` itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from tidegate.engines.requests import EngineRequests
from tidegate.engines.states import State
from tidegate.errors import ProxyError

ReleaseSlot = Callable[[], None]
Goal = Literal["run", "sleep", "stop"]
Availability = Literal["ready", "loading", "unloaded", "unavailable"]


class EngineError(Exception):
    """An engine cannot start, or cannot continue to run.

    `str()` gives the message followed by the output. It is for the log and the engine's status, which only the
    administrator sees.

    Args:
        message: the reason and how to correct it, written by Tidegate; it may be shown to callers.
        output: what the engine, a hook or a library has printed about it. It may contain paths and other internals, so
            it is never shown to callers.
    """

    def __init__(self, message: str, output: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.output = tuple(output)

    def __str__(self) -> str:
        return f"{self.message}: {'; '.join(self.output)}" if self.output else self.message


class PermanentEngineError(EngineError):
    """An engine cannot start, and another try would fail too: for example a wrong flag, or weights that are missing."""


class Command(Struct, frozen=True):
    """How an engine is started. No part of it may be logged, because it contains the API key.

    Attributes:
        argv: the program and its arguments.
        environment: variables that are added to the environment of Tidegate.
        stop: the command that stops the engine, in place of SIGTERM; empty: SIGTERM. `${PID}` in it is replaced by the
            pid of the process of `argv`.
        port: the port of the loopback address on which the engine listens; None: it listens on its Unix socket.
        secrets: texts that are masked in the engine's output.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = {}
    stop: Sequence[str] = ()
    port: int | None = None
    secrets: Sequence[str] = ()


class Progress(Struct, frozen=True):
    """How far the start of an engine is.

    Attributes:
        phase: what the engine is doing, in a few words written by Tidegate.
        done: the share of the phase that is done, 0 to 1; None if it is unknown.
        line: the engine's last line of output, set only if nothing else is known; only the administrator may see it.
    """

    phase: str
    done: float | None = None
    line: str | UnsetType = UNSET


class Load(Struct, frozen=True, kw_only=True):
    """The load that an engine reports in its metrics; None: the metrics do not contain the value.

    Attributes:
        running: number of requests that the engine is answering.
        waiting: number of requests in the engine's own queue.
        kv_used: share of the key-value cache that is used, 0 to 1.
        prefix_hit_rate: share of prompt tokens found in the cache since the engine started, 0 to 1.
        ttft_s: mean time to first token since the engine started, in seconds.
        steps: a counter that grows with every step of the engine; if it does not grow, the engine may hang.
    """

    running: float = 0
    waiting: float = 0
    kv_used: float | None = None
    prefix_hit_rate: float | None = None
    ttft_s: float | None = None
    steps: float | None = None


class ScrapedLoad(Struct, frozen=True):
    """The load of an engine as it was last read.

    Attributes:
        load: the load itself.
        at_s: when it was read, in seconds of the monotonic clock; 0: never.
        in_flight: how many requests of Tidegate were in the engine at that time.
    """

    load: Load = Load()
    at_s: float = 0.0
    in_flight: int = 0


class EngineKind(Protocol):
    """A kind of model server: its command line, and how the server behaves.

    It owns no process. Its only I/O is reading the files of the model.

    Attributes:
        dialect: the name of the dialect that the server speaks.
        health_path: the path of the health route, beside `/v1`; status 200 means that the server answers.
        metrics_path: the path of the metrics in Prometheus' text format, beside `/v1`; None: the server has no metrics.
        parses_tool_calls: False: the server refuses requests that need tools. This depends on its flags: those of its
            last start or, before the first start, those of the next one.
        always_streams: True: the server does not notice when the client of a non-streaming request disconnects, so
            Tidegate always requests a stream.
        sleep_level: the level at which the server sleeps, to free GPU memory without being stopped; None: it cannot
            sleep.
        start_timeout_s: a start that takes longer has failed.
        stop_s: how many seconds the server may take to end after SIGTERM, when no request runs in it any more.
    """

    dialect: str
    health_path: str
    metrics_path: str | None
    parses_tool_calls: bool
    always_streams: bool
    sleep_level: int | None
    start_timeout_s: float
    stop_s: float

    def command(self, socket_path: str, api_key: str) -> Command:
        """Return the command that serves on `socket_path`, or on `Command.port`, in the foreground until SIGTERM.

        Raises:
            EngineError: something that the engine needs is missing.
        """

    def model_bytes(self) -> int:
        """Return the size of the files that have to be loaded, to show it during a start; 0 if it is unknown."""

    def progress(self, line: str) -> Progress | None:
        """Return the progress of the start that a line of output shows; None if it shows none."""

    def explain(self, lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
        """Return why the engine has ended, with the cure, read from its output; None if the output does not show it.

        Args:
            lines: the lines of output since the start; for an engine that has been ready, those since its last good
                health check.
            has_run: whether the engine has been ready. Its lines may then quote requests, so the error quotes no line.
        """


class Control(Protocol):
    """Controls a running engine over its own HTTP routes, which no caller can reach (see `control.HttpControl`).

    Every method raises `ProxyError` if the engine does not answer or answers with an error, unless it says otherwise.
    """

    def use_key(self, api_key: str) -> None:
        """Use this API key from now on; each start of an engine has a new one."""

    def use_port(self, port: int) -> None:
        """Use this port from now on; an engine without a socket gets a new port at each start."""

    async def answers(self) -> bool:
        """Return whether the health route answers with status 200; never raises."""

    async def fault(self) -> str | None:
        """Return why the engine cannot work, or None.

        The reason is that it refuses connections, that its health route breaks the connection off at each of several
        tries, or that the route answers with another status than 200. An engine that does not answer in time gives None
        too. Never raises.
        """

    async def load(self) -> Load:
        """Return the load that the metrics show; if the engine has no metrics, check its health and return `Load()`."""

    async def restore(self) -> None:
        """Load again what was loaded into the engine before its last end, such as adapters; never raises."""

    async def sleep(self, level: int) -> None:
        """Free the GPU's memory; returns when that is done."""

    async def wake(self, level: int) -> None:
        """Take the GPU's memory again after a sleep of that level; returns when that is done."""

    async def generate(self) -> None:
        """Generate one token, to check that the engine works."""


class GpuClaims(Protocol):
    """Allocates the memory of the GPUs to engines (see `allocator.GpuAllocator`)."""

    async def claim(self, name: str) -> bool:
        """Wait until there is GPU memory for the engine; other engines may have to be unloaded first.

        Returns:
            True: the engine has its memory. False: the engine was asleep and has to stop first, as another engine is
            loaded before it; it may claim again after that.

        Raises:
            EngineError: there will never be enough memory.
        """

    def release(self, name: str, *, is_asleep: bool = False) -> None:
        """Record that the engine holds no GPU memory any more or, if asleep, only what a sleeping engine keeps."""


class EngineStatus(Struct, frozen=True):
    """What an engine does now.

    Attributes:
        state: see `states`.
        reason: why the engine is not ready; only for the administrator, as it may quote output (see `EngineError`).
        restarts: how often the engine has crashed after having been ready, since Tidegate started; failed starts do not
            count.
        progress: how far the current start is; None if the engine is not starting, or it is unknown.
        left_s: about how long the whole start will still take, in seconds; None if it is unknown.
        attempts: number of starts since Tidegate started, failed ones included.
    """

    state: State
    reason: str = ""
    restarts: int = 0
    progress: Progress | None = None
    left_s: float | None = None
    attempts: int = 0


class Engine(Protocol):
    """One engine: a managed one (`supervisor.Supervisor`) or an external one (`external.ExternalEngine`)."""

    name: str

    @property
    def status(self) -> EngineStatus:
        """What the engine does now."""

    @property
    def scraped_load(self) -> ScrapedLoad:
        """The load that was last read from the engine's metrics, and when."""

    @property
    def requests(self) -> EngineRequests:
        """The counts of requests in the engine and of requests that wait for it."""

    @property
    def lines(self) -> list[str]:
        """The last lines of the engine's output."""

    @property
    def availability(self) -> Availability:
        """Whether a request can use the engine.

        "ready": at once; "loading": soon; "unloaded": a request loads it; "unavailable": none of these.
        """

    async def acquire_slot(self, *, can_wait: bool) -> ReleaseSlot:
        """Take a slot in the engine and return the function that gives it back.

        Args:
            can_wait: whether the request may wait until the engine is ready.

        Raises:
            EngineUnavailable: the engine takes no requests.
        """

    def load(self) -> None:
        """Load the engine if it is unloaded, as a request would do; returns at once."""

    def set_goal(self, goal: Goal) -> None:
        """Set what the engine is to do; raises `EngineError` if this engine cannot do that."""

    def open(self, control: Control) -> None:
        """Begin to supervise or watch the engine, over `control`; called once."""

    def report_failure(self, error: ProxyError) -> None:
        """Note that a request failed with `error`; if the engine may be dead, its health is checked at once."""

    async def drain(self) -> None:
        """Let no request in any more; returns when running answers have ended or have reached their time limit."""

    async def close(self) -> None:
        """End the engine, or stop watching it; called once, never raises."""
