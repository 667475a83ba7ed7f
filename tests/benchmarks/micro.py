"""What the pure code costs by itself, in µs a call; no I/O, no event loop.

By itself: `uv run python tests/benchmarks/micro.py`.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from random import Random

import msgspec
from msgspec import structs
from tidegate.app.upstreams import looker
from tidegate.clock import SystemClock
from tidegate.config.cards import Card, Price
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.routing import HealthConfig, RoutingConfig
from tidegate.dialects import events
from tidegate.dialects.registry import DIALECTS
from tidegate.engines.base import EngineStatus, Load, ObservedLoad
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.upstream import Upstream, Upstreams
from tidegate.protocol import chat, sse
from tidegate.protocol.chat import Reading
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
from tidegate.transport.credentials import Credentials
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
    """Microseconds for one `call`: the best of many short rounds, as whatever else runs only adds."""
    taken = []
    for _ in range(_ROUNDS):
        begun_s = time.perf_counter()
        for _ in range(calls):
            call()
        taken.append(time.perf_counter() - begun_s)
    return min(taken) / calls * 1e6


_READING = Reading(thought_tags=("think",), repairs_markup=True)


def normalise_us() -> float:
    """A plain text chunk: decode, state machine with every filter that a host without a parser needs, encode."""
    writer, event = ChatWriter(_ENVELOPE, wants_usage=True), _CHUNK[6:-2]
    stream = ChoiceStream(writer, _READING)

    def normalise() -> None:
        stream.accept(events.parse(event))
        writer.payloads.clear()

    return best_us(normalise)


def chunk_us() -> float:
    """The same, alone in its read, with the server-sent event around it parsed and made."""
    parser, writer = sse.EventParser(), ChatWriter(_ENVELOPE, wants_usage=True)
    stream = ChoiceStream(writer, _READING)

    def normalise() -> None:
        for event in parser.feed(_CHUNK):
            stream.accept(events.parse(event))
        sse.frame(writer.take())

    return best_us(normalise)


def request_us() -> float:
    """A small chat request: check it, build the one for a vLLM host."""
    dialect = DIALECTS["vllm"]
    return best_us(lambda: dialect.build_request(chat.parse_request(_REQUEST), model="mock", is_stream=True))


def depth_us() -> float:
    """How deep a request with twenty tools nests, 13 kB; with fewer brackets than levels allowed nobody looks."""
    schema = {"type": "object", "properties": {name: {"type": "string", "description": "x" * 80} for name in "abc"}}
    function = {"name": "look_up", "description": "x" * 200, "parameters": schema}
    body = msgspec.json.encode({"model": "model", "tools": [{"type": "function", "function": function}] * 20})
    return best_us(lambda: is_deeper_than(body, MAX_DEPTH), 200)


def answer_us() -> float:
    """A unary answer: decode, normalise, encode."""

    def normalise() -> None:
        assembler = ChatAssembler(_ENVELOPE)
        stream = ChoiceStream(assembler)
        stream.accept(events.parse(_ANSWER))
        stream.close()
        assembler.to_json()

    return best_us(normalise)


def credential_us() -> float:
    """What each request shows the host, where there is one key."""
    credentials = Credentials(of_keys(["key"]))

    def show() -> None:
        credentials.choose("mock").auth_headers.ready()

    return best_us(show)


class _Names:
    """A model of one target, and models of three under each policy."""

    def __init__(self) -> None:
        hosts = [Target(name, "mock", Card(price=_PRICE)) for name in ("far", "farther")]
        near = Target("near", "mock", is_local=True)
        self.targets = {"one": hosts[:1]} | {name: [near, *hosts] for name in POLICIES}

    async def candidates(self, model: str, *, reach: str) -> list[Target]:
        return self.targets[model]


class _Engine:
    """It has been asked how it does."""

    def __init__(self, at_s: float) -> None:
        self.status = EngineStatus("ready")
        self.observed_load = ObservedLoad(load=Load(running=2, waiting=1), at_s=at_s, in_flight=1)


class _Land:
    """Nothing is out of order, and every signal of every target is known: what nobody has asked is quicker to see."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.target_registry = TargetRegistry(clock, HealthConfig())
        self.qualities = Qualities(clock)
        self.offline = Offline(clock, forced=False, names=["far", "farther"])
        wires = {name: _upstream(name) for name in ("far", "farther", "near")}
        wires["near"] = structs.replace(wires["near"], look=looker(_Engine(clock.monotonic_s())))
        self.upstreams = Upstreams(wires)

    def learn(self, targets: Iterable[Target]) -> None:
        """The targets have answered before."""
        self.target_registry.keep(list(targets))
        for stats in self.target_registry.kept():
            stats.latency.began(70, 0.3)
            stats.latency.ended(100, 2.0)
            stats.pressure.sent(70)
            stats.pressure.began(70)
            self.qualities.note(stats.target.name, "chat", 0.9, "checks")


def _upstream(name: str) -> Upstream:
    wire = Transport("http://host", timeouts=Timeouts(connect_s=1.0, first_byte_s=1.0, answer_s=1.0, idle_s=1.0))
    return Upstream(name=name, dialect=DIALECTS["generic"], transport=wire)


def plan_us(model: str) -> float:
    """A plan: read the request, look at every target, put them in order."""
    serving, names = _Land(), _Names()
    serving.learn(target for targets in names.targets.values() for target in targets)
    target = TargetConfig(upstream="far", model="mock")
    models = {name: ModelConfig(targets=(target,), policy=name) for name in POLICIES}
    planner = Planner(names, serving, models=models, routing=RoutingConfig(), clock=SystemClock(), rng=Random(1))
    request = structs.replace(chat.parse_request(_REQUEST), model=model)

    def plan() -> None:
        with suppress(StopIteration):
            planner.plan(RoutingRequest(request)).send(None)

    return best_us(plan, 200)


def report_us() -> float:
    """What an attempt reports: its beginning, its first token, its end."""
    serving, target, usage = _Land(), Target("far", "mock"), Usage(12, 10, 22)
    routing_request = RoutingRequest(chat.parse_request(_REQUEST))

    def fly() -> None:
        in_flight = serving.target_registry.begin(target, routing_request)
        in_flight.began()
        in_flight.end(sent_s=1.0, first_s=2.0, usage=usage, is_whole=True)

    return best_us(fly, 200)


def gate_us(config: ConcurrencyConfig) -> float:
    """A place, its first token, and leaving; nobody waits. With what it costs to run a coroutine by hand, 0.15 µs."""
    concurrency_limit = ConcurrencyLimit("far", config, SystemClock())

    def pass_through() -> None:
        try:
            concurrency_limit.enter(caller="alice", tokens=300).send(None)
        except StopIteration as done:
            done.value.began(0.5, 70)
            done.value.leave()

    return best_us(pass_through)


def lines() -> list[str]:
    """The table, in Markdown."""
    return [
        "| pure code | µs |",
        "| --- | --: |",
        f"| normalise one text chunk | {normalise_us():.2f} |",
        f"| the same with its event parsed and framed | {chunk_us():.2f} |",
        f"| check a request and build the upstream's | {request_us():.1f} |",
        f"| look how deep a request with twenty tools nests | {depth_us():.1f} |",
        f"| normalise a unary answer | {answer_us():.1f} |",
        f"| choose one of one key | {credential_us():.2f} |",
        f"| a place at a gate without a limit | {gate_us(ConcurrencyConfig()):.2f} |",
        f"| a place of eight | {gate_us(ConcurrencyConfig(limit=8)):.2f} |",
        f"| a place at an adaptive gate | {gate_us(ConcurrencyConfig(limit='adaptive')):.2f} |",
        f"| plan for the only target | {plan_us('one'):.1f} |",
        *(f"| plan for three by {name} | {plan_us(name):.1f} |" for name in POLICIES),
        f"| report what became of an attempt | {report_us():.1f} |",
    ]


if __name__ == "__main__":
    print("\n".join(lines()))
