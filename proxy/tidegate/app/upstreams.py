"""Upstreams: what leads to a host or an engine, and who is let in there."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import structs

from tidegate.clock import Clock
from tidegate.config.root import Config
from tidegate.config.upstreams import UpstreamConfig
from tidegate.dialects.base import Dialect
from tidegate.dialects.registry import DIALECTS
from tidegate.engines.base import Engine, Looked, Progress
from tidegate.engines.factory import Assembled
from tidegate.errors import UpstreamFailed
from tidegate.limits.concurrency import Gate
from tidegate.pipeline.upstream import Upstream
from tidegate.protocol import models
from tidegate.protocol.models import ModelCard
from tidegate.routing.catalogue import Fetch
from tidegate.routing.planner import Look
from tidegate.routing.pressure import Told
from tidegate.transport import credential_specs as specs
from tidegate.transport.credential_specs import Spec
from tidegate.transport.credentials import Credentials
from tidegate.transport.wire import Timeouts, Transport

_LISTING_S = 5.0
_NO_PROGRESS = Progress("")


def read_credentials(name: str, host: UpstreamConfig, source: str) -> Sequence[Spec]:
    """What a host is shown; raises `ConfigError` where a secret cannot be read."""
    return specs.read(host.api_keys, host.credentials, f"{source}: upstreams.{name}")


def is_same_wire(old: UpstreamConfig, new: UpstreamConfig) -> bool:
    """Whether the connections to a host can stay: all but what it is shown, and who is let in, is as it was."""
    rest = {"api_keys": (), "credentials": (), "admission": new.admission}
    return structs.replace(old, **rest) == structs.replace(new, **rest)


def open_wire(name: str, host: UpstreamConfig, source: str, clock: Clock) -> Transport:
    """The wire to a host elsewhere; nothing is connected yet.

    Raises:
        ConfigError: a secret cannot be read.
    """
    dialect = DIALECTS[host.dialect]
    found = read_credentials(name, host, source)
    return Transport(
        host.base_url,
        credentials=Credentials(found, key_header=dialect.key_header, clock=clock),
        timeouts=Timeouts(
            connect_s=host.connect_timeout_s,
            first_byte_s=host.first_byte_timeout_s or dialect.first_byte_timeout_s,
            answer_s=host.answer_timeout_s,
            idle_s=host.idle_timeout_s,
        ),
        max_connections=host.max_connections,
        keepalive_s=host.keepalive_s or dialect.keepalive_s,
    )


def host_upstream(name: str, host: UpstreamConfig, wire: Transport) -> Upstream:
    """A host elsewhere, as the pipeline sees it."""
    return Upstream(name=name, dialect=DIALECTS[host.dialect], transport=wire, api_version=host.api_version)


def engine_upstream(name: str, assembled: Assembled) -> Upstream:
    """An engine, as the pipeline sees it."""
    return Upstream(
        name=name,
        dialect=_dialect(assembled),
        transport=assembled.transport,
        enter=assembled.engine.enter,
        always_streams=assembled.always_streams,
        look=looker(assembled.engine, assembled.calls_tools),
        doubt=assembled.engine.doubt,
        movable=assembled.engine.places.movable,
        in_flight=lambda: assembled.engine.places.taken,
        load=assembled.engine.load,
    )


def open_gates(
    config: Config, engines: Mapping[str, Assembled], clock: Clock, old: Mapping[str, Gate]
) -> dict[str, Gate]:
    """The gates of all upstreams, engines and replicas. A gate of `old` is kept, with the requests at it."""
    doors = {name: host.admission for name, host in config.upstreams.items()}
    doors |= {name: assembled.config.admission for name, assembled in engines.items()}
    gates = {name: old.get(name) or Gate(name, door, clock) for name, door in doors.items()}
    for name, gate in gates.items():
        gate.resize(doors[name])
    return gates


def looker(engine: Engine, calls_tools: Callable[[], bool] = lambda: True) -> Callable[[], Look]:
    """A function that returns the engine's state for routing; it makes a new `Look` only when something has changed.

    `calls_tools` is asked again when the status has changed, as each start of an engine may have other flags.
    """
    seen, status = engine.looked, engine.status
    known = _look(engine, None, calls_tools=calls_tools())

    def look() -> Look:
        nonlocal seen, status, known
        # the availability of an engine that is not ready can change before its status does
        has_changed = engine.status is not status or (not known.is_ready and engine.availability != known.availability)
        if engine.looked is not seen or has_changed:
            told = known.told if engine.looked is seen else _told(engine.looked)
            seen, status = engine.looked, engine.status
            known = _look(engine, told, calls_tools=calls_tools())
        return known

    return look


def _look(engine: Engine, told: Told | None, *, calls_tools: bool) -> Look:
    status = engine.status
    progress = status.progress or _NO_PROGRESS
    return Look(
        status.state == "ready",
        status.state,
        told,
        phase=progress.phase,
        done=progress.done,
        calls_tools=calls_tools,
        availability=engine.availability,
    )


def listers(wires: Mapping[str, Transport]) -> dict[str, Fetch]:
    """How each is asked for its models."""
    return {name: _lister(name, wire) for name, wire in wires.items()}


def _told(looked: Looked) -> Told:
    load = looked.load
    return Told(
        running=load.running,
        waiting=load.waiting,
        kv_used=load.kv_used,
        ttft_s=load.ttft_s or 0.0,
        at_s=looked.at_s,
        our_in_flight=looked.in_flight,
    )


def _dialect(assembled: Assembled) -> Dialect:
    dialect = DIALECTS[assembled.dialect].for_engine()
    if assembled.parses_thinking:
        dialect = structs.replace(dialect, may_lack_parser=False)
    return dialect if assembled.knows_tools else structs.replace(dialect, knows_tools=False)


def _lister(name: str, wire: Transport) -> Fetch:
    async def fetch() -> list[ModelCard]:
        try:
            async with asyncio.timeout(_LISTING_S):
                return models.parse_list(await wire.get("/models"), owned_by=name)
        except (TimeoutError, RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"{name} does not list its models") from error

    return fetch
