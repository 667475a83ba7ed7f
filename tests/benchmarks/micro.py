"""Measures the cost of pure code (no I/O, no event loop), in µs for each call.

To run only this part: `uv run python tests/benchmarks/micro.py`.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from random import Random

import msgspec
from msgspec import structs

from tidegate.app.upstreams import snapshot_reader
from tidegate.clock import SystemClock
from tidegate.config.cards import Card, Price
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.routing import HealthConfig, RoutingConfig
from tidegate.dialects import events
from tidegate.dialects.registry import DIALECTS
from tidegate.engines.base import EngineStatus, Load, ScrapedLoad
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.upstream import Upstream, Upstreams
from tidegate.protocol import chat, sse
from tidegate.protocol.chat import HostAnswerFormat
from tidegate.protocol.request import MAX_DEPTH, is_deeper_than
from tidegate.protocol.usage import Usage
from tidegate.routing.offline import Offline
from tidegate.routing.planner import Planner
from tidegate.routing.policies.registry import POLICIES
from tidegate.routing.quality import Qualities
from tidegate.routing.request import RoutingRequest
from tidegate.routing.target_registry import TargetRegistry
from tidegate.routing.targets import Target
from tidegate.streaming.chat import ChatAssembler, ChatWriter
from tidegate.streaming.choices import ChoiceStream
from tidegate.streaming.sinks import Envelope
from tidegate.transport.credential_specs import of_keys
from tidegate.transport.credentials import CredentialPool
from tidegate.transport.wire import Timeouts, Transport

_ENVELOPE = Envelope("chatcmpl-0123456789abcdef01234567", 1_700_000_000, "model")
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":'
    b'[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello! How can I help you today?","refusal":null,"tool_calls":[]},"logprobs":null,'
    b'"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":12,"total_tokens":22,'
    b'"completion_tokens":10,"prompt_tokens_details":null}}'
)
_REQUEST = (
    b'{"model":"model","messages":[{"role":"system","content":"You are helpful."},'
    b'{"role":"user","content":"Say hello."}],"temperature":0.7,"stream":true,"stream_options":{"include_usage":true}}'
)
_PRICE = Price(input_usd_per_mtok=Decimal("0.28"), output_usd_per_mtok=Decimal("0.42"))
_CALLS = 1_000
_ROUNDS = 100


def best_us(call: Callable[[], object], calls: int = _CALLS) -> float:
    """Microseconds for one `call`: the best of many short rounds, because other processes can only add time."""
    times_s = []
    for _ in range(_ROUNDS):
        begun_s = time.perf_counter()
        for _ in range(calls):
            call()
        times_s.append(time.perf_counter() - begun_s)
    return min(times_s) / calls * 1e6


_READING = HostAnswerFormat(thought_tags=("think",), leaks_markup=True)


def normalise_us() -> float:
    """Normalise a text chunk: decode, run the state machine with every filter for a host without a parser, encode."""
    writer, event = ChatWriter(_ENVELOPE, wants_usage=True), _CHUNK[6:-2]
    stream = ChoiceStream(writer, _READING)

    def normalise() -> None:
        stream.accept(events.parse(event))
        writer.payloads.clear()

    return best_us(normalise)


def chunk_us() -> float:
    """Normalise a text chunk that arrives alone in a read, including parsing and writing its server-sent event."""
    parser, writer = sse.EventParser(), ChatWriter(_ENVELOPE, wants_usage=True)
    stream = ChoiceStream(writer, _READING)

    def normalise() -> None:
        for event in parser.feed(_CHUNK):
            stream.accept(events.parse(event))
        sse.frame(writer.take())

    return best_us(normalise)


def request_us() -> float:
    """Check a small chat request, and build the request for a vLLM host."""
    dialect = DIALECTS["vllm"]
    return best_us(lambda: dialect.build_request(chat.parse_request(_REQUEST), model="mock", is_stream=True))


def depth_us() -> float:
    """Check the nesting depth of a request of 13 kB with twenty tools.

    A request with fewer brackets than the allowed number of levels is not checked at all.
    """
    schema = {"type": "object", "properties": {name: {"type": "string", "description": "x" * 80} for name in "abc"}}
    function = {"name": "look_up", "description": "x" * 200, "parameters": schema}
    body = msgspec.json.encode({"model": "model", "tools": [{"type": "function", "function": function}] * 20})
    return best_us(lambda: is_deeper_than(body, MAX_DEPTH), 200)


def answer_us() -> float:
    """Decode, normalise and encode a JSON answer."""

    def normalise() -> None:
        assembler = ChatAssembler(_ENVELOPE)
        stream = ChoiceStream(assembler)
        stream.accept(events.parse(_ANSWER))
        stream.close()
        assembler.to_json()

    return best_us(normalise)


def credential_us() -> float:
    """Choose the credential for a request, if the host has one key."""
    credentials = CredentialPool(of_keys(["key"]))

    def choose() -> None:
        credentials.choose("mock").auth_headers.ready()

    return best_us(choose)


class _Router:
    """A fake router with a model of one target, and for each policy a model of three targets."""

    def __init__(self) -> None:
        hosts = [Target(name, "mock", Card(price=_PRICE)) for name in ("far", "farther")]
        near = Target("near", "mock", is_local=True)
        self.targets = {"one": hosts[:1]} | {name: [near, *hosts] for name in POLICIES}

    async def candidates(self, model: str, *, reach: str) -> list[Target]:
        return self.targets[model]


class _Engine:
    """A fake engine whose load is known."""

    def __init__(self, at_s: float) -> None:
        self.status = EngineStatus("ready")
        self.availability = "ready"
        self.scraped_load = ScrapedLoad(load=Load(running=2, waiting=1), at_s=at_s, in_flight=1)


class _Serving:
    """A serving state with healthy targets whose signals are all known; unknown signals would be cheaper to read."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.target_registry = TargetRegistry(clock, HealthConfig())
        self.qualities = Qualities(clock)
        self.offline = Offline(clock, forced=False, names=["far", "farther"])
        upstreams = {name: _upstream(name) for name in ("far", "farther", "near")}
        upstreams["near"] = structs.replace(upstreams["near"], snapshot=snapshot_reader(_Engine(clock.monotonic_s())))
        self.upstreams = Upstreams(upstreams)

    def add_history(self, targets: Iterable[Target]) -> None:
        """Record earlier answers of the targets, so that their signals are known."""
        self.target_registry.set_configured(list(targets))
        for stats in self.target_registry.configured():
            stats.latency.began(70, 0.3)
            stats.latency.ended(100, 2.0)
            stats.pressure.sent(70)
            stats.pressure.began(70)
            self.qualities.note(stats.target.name, "chat", 0.9, "checks")


def _upstream(name: str) -> Upstream:
    wire = Transport("http://host", timeouts=Timeouts(connect_s=1.0, first_byte_s=1.0, answer_s=1.0, idle_s=1.0))
    return Upstream(name=name, dialect=DIALECTS["generic"], transport=wire)


def plan_us(model: str) -> float:
    """Make a plan: read the request, check every target, put them in order."""
    serving, router = _Serving(), _Router()
    serving.add_history(target for targets in router.targets.values() for target in targets)
    target = TargetConfig(upstream="far", model="mock")
    models = {name: ModelConfig(targets=(target,), policy=name) for name in POLICIES}
    planner = Planner(router, serving, models=models, routing=RoutingConfig(), clock=SystemClock(), rng=Random(1))
    request = structs.replace(chat.parse_request(_REQUEST), model=model)

    def plan() -> None:
        with suppress(StopIteration):
            planner.plan(RoutingRequest(request)).send(None)

    return best_us(plan, 200)


def report_us() -> float:
    """Report the beginning, the first token and the end of an attempt."""
    serving, target, usage = _Serving(), Target("far", "mock"), Usage(12, 10, 22)
    routing_request = RoutingRequest(chat.parse_request(_REQUEST))

    def report() -> None:
        in_flight = serving.target_registry.begin(target, routing_request)
        in_flight.note_first_content()
        in_flight.end(sent_s=1.0, first_s=2.0, usage=usage, is_whole=True)

    return best_us(report, 200)


def concurrency_us(config: ConcurrencyConfig) -> float:
    """Take a concurrency slot, report the first token, release the slot; no request waits.

    This includes 0.15 µs to run a coroutine without an event loop.
    """
    concurrency_limit = ConcurrencyLimit("far", config, SystemClock())

    def take_and_release() -> None:
        try:
            concurrency_limit.acquire(caller="alice", tokens=300).send(None)
        except StopIteration as done:
            done.value.record_first_token(0.5, 70)
            done.value.release()

    return best_us(take_and_release)


def lines() -> list[str]:
    """The lines of the table, in Markdown."""
    return [
        "| pure code | µs |",
        "| --- | --: |",
        f"| normalise one text chunk | {normalise_us():.2f} |",
        f"| normalise one text chunk, with its event parsed and framed | {chunk_us():.2f} |",
        f"| check a request and build the upstream request | {request_us():.1f} |",
        f"| check the nesting depth of a request with twenty tools | {depth_us():.1f} |",
        f"| normalise a JSON answer | {answer_us():.1f} |",
        f"| choose the credential, one key | {credential_us():.2f} |",
        f"| take and release a slot, no limit | {concurrency_us(ConcurrencyConfig()):.2f} |",
        f"| take and release a slot, limit of 8 | {concurrency_us(ConcurrencyConfig(limit=8)):.2f} |",
        f"| take and release a slot, adaptive limit | {concurrency_us(ConcurrencyConfig(limit='adaptive')):.2f} |",
        f"| plan with one target | {plan_us('one'):.1f} |",
        *(f"| plan with three targets, {name} | {plan_us(name):.1f} |" for name in POLICIES),
        f"| report an attempt | {report_us():.1f} |",
    ]


if __name__ == "__main__":
    print("\n".join(lines()))
