"""A pipeline from admission to settlement in front of scripted hosts, without a socket."""

import asyncio
import json
from collections.abc import Sequence
from random import Random

from tests.fakes.candidates import candidate, ranked
from tests.fakes.clock import FakeClock
from tests.fakes.wire import chunk, event
from tidegate.auth import ANONYMOUS, Credentials
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.config.models import DefaultsConfig, ModelConfig, TargetConfig
from tidegate.config.routing import HealthConfig, RetryConfig
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import EngineUnavailable
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.context import RequestContext
from tidegate.pipeline.engine_start_progress import EngineChanges
from tidegate.pipeline.failover_context import FailoverContext
from tidegate.pipeline.preferences import Preferences
from tidegate.pipeline.request import Pipeline
from tidegate.pipeline.settlement import Settlement
from tidegate.pipeline.upstream import ServingState, Upstream, Upstreams, acquire_nothing
from tidegate.protocol import chat
from tidegate.reasoning_memory import ProcessReasoningMemory
from tidegate.routing.offline import Offline
from tidegate.routing.planner import EngineSnapshot, Plan
from tidegate.routing.quality import Qualities
from tidegate.routing.target_registry import TargetRegistry
from tidegate.telemetry.metrics import Metrics

# One step of a host's script: wait so many turns of the event loop, or for the event; send the bytes; raise the error.
ScriptStep = int | asyncio.Event | bytes | Exception
SSE, JSON = "text/event-stream", "application/json"
CALLER = Credentials(None, "127.0.0.1", "localhost")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Host:
    """A `pipeline.upstream.UpstreamTransport`; each request plays the next script, and the last one is repeated.

    The response begins with the first bytes: `post` waits for the steps before them.

    Attributes:
        open: the responses that are not closed yet.
        slots_taken: the number of requests in the engine, if the host is an engine.
        is_starting: if true, `enter` raises `EngineUnavailable`.
        snapshot: the state of the engine, set by `Stage.change_engine`; `enter` waits while it is not ready, unless it
            has failed.
        loading: if not 0, the engine is not ready, and becomes ready so many turns of the event loop after a request
            has begun to wait for it.
    """

    has_cooldowns = False

    def __init__(self, name: str, *secrets: str) -> None:
        self.name = name
        self.secrets = secrets
        self.scripts: list[Sequence[ScriptStep]] = []
        self.bodies: list[bytes] = []
        self.has_request = asyncio.Event()
        self.open: set[HostResponse] = set()
        self.slots_taken = 0
        self.is_starting = False
        self.snapshot = EngineSnapshot(state="ready")
        self.changed = asyncio.Event()
        self.loading = 0

    def play(self, *scripts: Sequence[ScriptStep]) -> None:
        self.scripts = list(scripts)

    def limited_for_s(self) -> float:
        return 0.0

    def refused_for_s(self, model: str) -> float:
        return 0.0

    async def post(self, path, body, *, is_stream, model):
        self.bodies.append(body)
        self.has_request.set()
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        response = HostResponse(self, list(script), SSE if is_stream else JSON)
        await response.until_bytes()
        self.open.add(response)
        return response

    def look(self):
        return EngineSnapshot(is_ready=False, state="starting") if self.loading else self.snapshot

    async def enter(self, *, can_wait):
        """Acquire a slot in the engine; the function returned must be called exactly once."""
        await asyncio.sleep(0)
        if self.is_starting or (not can_wait and not self.look().is_ready):
            raise EngineUnavailable(f"{self.name} is starting.")
        await turns(self.loading)
        self.loading = 0
        while not self.snapshot.is_ready:
            if self.snapshot.state == "failed":
                raise EngineUnavailable(f"{self.name} has failed.")
            self.changed.clear()
            await self.changed.wait()
        self.slots_taken += 1
        is_released = False

        def leave() -> None:
            nonlocal is_released
            assert not is_released, f"a slot in {self.name} was released twice"
            is_released = True
            self.slots_taken -= 1

        return leave


class HostResponse:
    """A `pipeline.upstream.UpstreamResponse`, and its credential."""

    status = 200

    def __init__(self, host: Host, steps: list[ScriptStep], content_type: str) -> None:
        self.headers = {"content-type": content_type, "x-request-id": f"{host.name}-{len(host.bodies)}"}
        self.credential = self
        self._host = host
        self._steps = steps

    async def until_bytes(self) -> None:
        while self._steps and not isinstance(self._steps[0], bytes):
            step = self._steps.pop(0)
            if isinstance(step, Exception):
                raise step
            await (turns(step) if isinstance(step, int) else step.wait())

    async def read_some(self) -> bytes:
        await self.until_bytes()
        return self._steps.pop(0) if self._steps else b""

    async def read_all(self) -> bytes:
        pieces = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    read_error_body = read_all

    def got_event(self, *, has_content: bool) -> None:
        """Does nothing, as there are no time limits."""

    def expect_end(self) -> None:
        self._steps.clear()

    def close(self) -> None:
        self._host.open.discard(self)

    # --- as a credential -------------------------------------------------------------------------------------------

    def worked(self, model: str) -> None: ...

    def refused(self, status: int, model: str) -> None: ...

    def limited(self, seconds: float) -> None: ...

    def has_other(self, model: str) -> bool:
        return False


class Log:
    """Stores log lines as (event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict]] = []

    def info(self, event, **fields):
        self.lines.append((event, fields))

    warning = error = exception = info

    def of(self, event: str) -> list[dict]:
        return [fields for name, fields in self.lines if name == event]


class Stage:
    """One model, `m`, whose targets are the hosts, tried in the order given.

    Args:
        settings: the settings of the model.
        concurrency: the concurrency limit of each host; None for no limit.
        engines: the names of the hosts that are engines; each name is one letter.
    """

    def __init__(
        self, *hosts: Host, concurrency: int | None = None, engines: str = "", dialect: str = "generic", **settings
    ) -> None:
        self.hosts = hosts
        self.clock = FakeClock()
        self.changes = EngineChanges()
        self.log = Log()
        self.metrics = Metrics(["m"])
        self.target_registry = TargetRegistry(self.clock, HealthConfig(failures=1000))
        self.concurrency = {} if concurrency is None else {host.name: self._limit(host, concurrency) for host in hosts}
        self.candidates = [candidate(host.name, is_local=host.name in engines) for host in hosts]
        self.reasoning_memory = ProcessReasoningMemory(self.clock)
        serving = ServingState(
            upstreams=Upstreams({host.name: self._upstream(host, engines, dialect) for host in hosts}),
            concurrency=self.concurrency,
            target_registry=self.target_registry,
            offline=Offline(self.clock, forced=False, names=[host.name for host in hosts]),
            qualities=Qualities(self.clock),
            reasoning_memory=self.reasoning_memory,
        )
        model = ModelConfig(targets=(TargetConfig(upstream=hosts[0].name, model="m"),), **settings)
        retry = RetryConfig(repeats=0, budget_share=1.0, budget_per_s=1000.0)
        settlement = Settlement(self.metrics, self.log)
        self._failover_context = FailoverContext(
            serving, settlement, models={"m": model}, retry=retry, clock=self.clock, rng=Random(1)
        )
        self._plan = Plan(model, ranked(*self.candidates))
        preferences = Preferences(DefaultsConfig(), {"m": model})
        self.pipeline = Pipeline(Admission(self), preferences, self, self._failover_context, settlement, self.changes)

    def _limit(self, host: Host, concurrency: int) -> ConcurrencyLimit:
        return ConcurrencyLimit(host.name, ConcurrencyConfig(limit=concurrency, queue=2), self.clock)

    @staticmethod
    def _upstream(host: Host, engines: str, dialect: str) -> Upstream:
        enter, look = (host.enter, host.look) if host.name in engines else (acquire_nothing, None)
        return Upstream(name=host.name, dialect=DIALECTS[dialect], transport=host, acquire_slot=enter, snapshot=look)

    def authenticate(self, credentials):
        return ANONYMOUS

    async def plan(self, routing_request):
        return self._plan

    def enable_hedging(self) -> None:
        """Make hedging possible: record fast answers of the first host, and a budget for hedges."""
        latency = self.target_registry.stats_of(self.candidates[0].target).latency
        for _ in range(20):
            latency.waited(0.0, is_stream=True)
            latency.waited(0.0, is_stream=False)
            self._failover_context.budgets_by_model["m"].hedges.deposit()

    def change_engine(self, host: Host, look: EngineSnapshot) -> None:
        """Change the state of the engine, and wake the requests that wait for it."""
        host.snapshot = look
        host.changed.set()
        self.changes.notify()

    async def ask(self, *, stream: bool = True, **fields) -> "Exchange":
        """Send a request, read the whole answer, and settle."""
        exchange = Exchange(self, stream=stream, **fields)
        await exchange.run()
        return exchange

    def resources_in_use(self) -> dict[str, list[int]]:
        """The resources in use now, by host."""
        all_stats = [self.target_registry.stats_of(each.target) for each in self.candidates]
        return {
            "in flight": [stats.in_flight for stats in all_stats],
            "without a first token": [stats.pressure.waiting for stats in all_stats],
            "concurrency slots": [concurrency_limit.in_flight for concurrency_limit in self.concurrency.values()],
            "queued": [concurrency_limit.waiting for concurrency_limit in self.concurrency.values()],
            "engine slots": [host.slots_taken for host in self.hosts],
            "responses": [len(host.open) for host in self.hosts],
            "requests": [self.metrics.in_flight],
        }


class Exchange:
    """One request and its outcome.

    Attributes:
        payloads: the payloads that the caller received.
        error: the error that the caller received, if any, before or after them.
    """

    def __init__(self, stage: Stage, *, stream: bool = True, **fields) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream} | fields
        self._request = chat.parse_request(json.dumps(body).encode())
        self._stage = stage
        self.context = RequestContext("req_1", "chat", stage.clock)
        self.payloads: list[dict] = []
        self.error: Exception | None = None

    async def run(self) -> None:
        try:
            async with self._stage.pipeline.open(CALLER, self._read, self.context) as answer:
                while payloads := await answer.read():
                    self.payloads += map(json.loads, payloads)
        except Exception as error:  # noqa: BLE001 - whatever error the caller would receive
            self.error = error

    async def _read(self):
        return self._request

    @property
    def text(self) -> str:
        return self._joined("content")

    @property
    def reasoning(self) -> str:
        return self._joined("reasoning_content")

    def _joined(self, name: str) -> str:
        choices = [choice for payload in self.payloads for choice in payload["choices"]]
        return "".join(choice.get("delta", choice.get("message", {})).get(name) or "" for choice in choices)


def content_event(text: str, **fields) -> bytes:
    """One event with this content."""
    return event(chunk({"content": text}, **fields))


def end_events(**fields) -> bytes:
    """The finish reason, the usage and `[DONE]`, in one read."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5} | fields
    return event(chunk(finish="stop")) + event(chunk(choices=[], usage=usage)) + b"data: [DONE]\n\n"
