"""What a kind of engine has to say for the supervisor to run it, and what is known of a running one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from tidegate.engines.slots import Slots
from tidegate.engines.states import State
from tidegate.errors import ProxyError

Leave = Callable[[], None]
Goal = Literal["run", "sleep", "stop"]
Availability = Literal["ready", "loading", "unloaded", "unavailable"]


class EngineError(Exception):
    """An engine cannot start or go on.

    Its text is the message with the output behind it: for the administrator, as the log and the engine's status are.

    Args:
        message: why, and how to mend it, in our words; callers are told it.
        output: what the engine, a hook or a library said of it; may hold paths and other internals, so callers are not
            told it.
    """

    def __init__(self, message: str, output: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.output = tuple(output)

    def __str__(self) -> str:
        return f"{self.message}: {'; '.join(self.output)}" if self.output else self.message


class PermanentEngineError(EngineError):
    """And trying again would not help: a flag that is wrong, weights that are missing."""


class Command(Struct, frozen=True):
    """How an engine is started. Nothing of it may be logged: the key is in there.

    Attributes:
        environment: comes on top of ours.
        stop: the command that stops the engine in place of SIGTERM; `${PID}` in it is the process of `argv`.
        port: the port of the loopback address where it listens; None: it listens on its socket.
        secrets: texts that are masked in its output.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = {}
    stop: Sequence[str] = ()
    port: int | None = None
    secrets: Sequence[str] = ()


class Progress(Struct, frozen=True):
    """How far a start is.

    Attributes:
        phase: what is being done, in a few words of ours.
        done: the share of the phase that is done, 0 to 1; None where unknown.
        line: the last line of output, where nothing else is known; only the administrator may see it.
    """

    phase: str
    done: float | None = None
    line: str | UnsetType = UNSET


class Load(Struct, frozen=True, kw_only=True):
    """What an engine says of itself, in its metrics; None is what it does not tell.

    Attributes:
        running: requests being answered.
        waiting: requests in its queue.
        kv_used: share of its key-value cache, 0 to 1.
        prefix_hit_rate: share of prompt tokens found in the cache since it started, 0 to 1.
        ttft_s: mean time to first token since it started, seconds.
        steps: a count that moves with every step it makes, so that standing still can be seen.
    """

    running: float = 0
    waiting: float = 0
    kv_used: float | None = None
    prefix_hit_rate: float | None = None
    ttft_s: float | None = None
    steps: float | None = None


class ObservedLoad(Struct, frozen=True):
    """What was seen at the last look: the load, when (monotonic seconds, 0: never), and how many of ours were in it."""

    load: Load = Load()
    at_s: float = 0.0
    in_flight: int = 0


class EngineKind(Protocol):
    """A model server's command line and habits; no process, no I/O but looking for the model.

    Attributes:
        dialect: its accent, by name.
        health_path: beside `/v1`; 200 means that it answers.
        metrics_path: beside `/v1`, in Prometheus' text format; None where it has none.
        calls_tools: False: with the flags of its last start, or of the next one, it refuses requests that need tools.
        always_streams: it does not notice a caller who leaves a unary request, so it is asked for a stream.
        sleep_level: how it can make room without being stopped; None: it cannot.
        start_timeout_s: a start that takes longer is a failed one.
        stop_s: how long it may take to end after SIGTERM, when nothing runs in it any more.
    """

    dialect: str
    health_path: str
    metrics_path: str | None
    calls_tools: bool
    always_streams: bool
    sleep_level: int | None
    start_timeout_s: float
    stop_s: float

    def command(self, socket_path: str, api_key: str) -> Command:
        """The command that serves on `socket_path`, or on the port that it names, in the foreground, until SIGTERM.

        Raises:
            EngineError: what it needs is not there.
        """

    def model_bytes(self) -> int:
        """The size of what has to be loaded, for people who wait; 0 where unknown."""

    def progress(self, line: str) -> Progress | None:
        """What a line of its output says of the start; None: nothing."""

    def explain(self, lines: Sequence[str], *, has_run: bool = False) -> EngineError | None:
        """Why it has ended, read from its output, with the cure; None where that is not plain.

        Args:
            lines: those of the start; of an engine that has been ready, those since its last good health check.
            has_run: whether it has been ready; its lines may then quote callers, so they are not passed on.
        """


class Control(Protocol):
    """What is asked of a running engine over its own HTTP routes, which no caller reaches (see `control.HttpControl`).

    Every method raises `ProxyError` where there is no good answer.
    """

    def use_key(self, api_key: str) -> None:
        """The key of this start."""

    def use_port(self, port: int) -> None:
        """The port where the engine listens in this start."""

    async def answers(self) -> bool:
        """Whether its health route says so; never raises."""

    async def fault(self) -> str | None:
        """Why it cannot work: it refuses connections, or its health route answers another status than 200.

        None: no such reason, also where no answer comes in time. Never raises.
        """

    async def load(self) -> Load:
        """What its metrics say; where it has none, its health route is asked and the result is empty."""

    async def restore(self) -> None:
        """Load again what was loaded before its last end; never raises."""

    async def sleep(self, level: int) -> None:
        """Free the GPU's memory; returns when that is done."""

    async def wake(self, level: int) -> None:
        """Take the memory back, after a sleep of that level; returns when that is done."""

    async def generate(self) -> None:
        """One token, to see whether it works."""


class GpuClaims(Protocol):
    """Who shares out the memory of the GPUs (see `allocator.GpuAllocator`)."""

    async def claim(self, name: str) -> bool:
        """Wait until there is room for the engine; others may have to go first.

        Returns:
            False: it was asleep and has to stop first, as another engine is loaded before it; it may claim again then.

        Raises:
            EngineError: there will be none.
        """

    def release(self, name: str, *, is_asleep: bool = False) -> None:
        """The engine holds nothing any more, or only what it holds asleep."""


class EngineStatus(Struct, frozen=True):
    """What an engine does now.

    Attributes:
        reason: why it is not ready; for the administrator, as it may quote output (see `EngineError`).
        restarts: how often it has ended unasked after having been ready, since Tidegate started; failed starts do not
            count.
        progress: of a start.
        left_s: about how long the whole start will still take, in seconds; None where unknown.
        attempts: starts since Tidegate started, failed ones included.
    """

    state: State
    reason: str = ""
    restarts: int = 0
    progress: Progress | None = None
    left_s: float | None = None
    attempts: int = 0


class Engine(Protocol):
    """One engine, whoever runs it (see `supervisor.Supervisor` and `external.ExternalEngine`)."""

    name: str

    @property
    def status(self) -> EngineStatus:
        """What it does now."""

    @property
    def observed_load(self) -> ObservedLoad:
        """What it last said of itself, and when."""

    @property
    def slots(self) -> Slots:
        """Who is in it."""

    @property
    def lines(self) -> list[str]:
        """The end of its output."""

    @property
    def availability(self) -> Availability:
        """Ready; loading: it will be ready soon; unloaded: a request loads it; unavailable: none of these."""

    async def enter(self, *, can_wait: bool) -> Leave:
        """Take a place; raises `EngineUnavailable`."""

    def load(self) -> None:
        """Load it, if it is unloaded, as a request would do; returns at once."""

    def want(self, goal: Goal) -> None:
        """Say what it is to do; raises `EngineError` where it cannot be told."""

    def open(self, control: Control) -> None:
        """Begin; called once."""

    def doubt(self, error: ProxyError) -> None:
        """A request to it failed with `error`: check its health at once if that may mean that it is dead."""

    async def drained(self) -> None:
        """Let nobody in any more; returns when running answers have ended, or their time is over."""

    async def close(self) -> None:
        """End; called once, never raises."""
