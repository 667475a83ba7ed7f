"""Builds, from the config, the connections to upstreams and engines, their concurrency limits and pipeline views."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import structs

from tidegate.clock import Clock
from tidegate.config.root import Config
from tidegate.config.upstreams import UpstreamConfig
from tidegate.dialects.base import Dialect
from tidegate.dialects.registry import DIALECTS
from tidegate.engines.base import Engine, Progress, ScrapedLoad
from tidegate.engines.factory import EngineEntry
from tidegate.errors import UpstreamFailed
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.upstream import Upstream
from tidegate.protocol import models
from tidegate.protocol.models import ModelCard
from tidegate.routing.catalogue import Fetch
from tidegate.routing.planner import EngineSnapshot
from tidegate.routing.pressure import LoadReport
from tidegate.transport import credential_specs as specs
from tidegate.transport.credential_specs import CredentialSpec
from tidegate.transport.credentials import CredentialPool
from tidegate.transport.wire import Timeouts, Transport

_LISTING_TIMEOUT_S = 5.0
_NO_PROGRESS = Progress("")


def read_credentials(name: str, host: UpstreamConfig, source: str) -> Sequence[CredentialSpec]:
    """The credentials for a hosted upstream.

    Raises:
        ConfigError: a secret cannot be read.
    """
    return specs.read(host.api_keys, host.credentials, f"{source}: upstreams.{name}")


def is_same_wire(old: UpstreamConfig, new: UpstreamConfig) -> bool:
    """Whether the connections can be kept: only credentials and the concurrency limit may differ."""
    ignored = {"api_keys": (), "credentials": (), "concurrency": new.concurrency, "admission": new.admission}
    return structs.replace(old, **ignored) == structs.replace(new, **ignored)


def open_wire(name: str, host: UpstreamConfig, source: str, clock: Clock) -> Transport:
    """Make the transport to a hosted upstream; nothing is connected yet.

    Raises:
        ConfigError: a secret cannot be read.
    """
    dialect = DIALECTS[host.dialect]
    found = read_credentials(name, host, source)
    return Transport(
        host.base_url,
        credentials=CredentialPool(found, key_header=dialect.key_header, clock=clock),
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
    """A hosted upstream in the form that the pipeline uses."""
    return Upstream(name=name, dialect=DIALECTS[host.dialect], transport=wire, api_version=host.api_version)


def engine_upstream(name: str, entry: EngineEntry) -> Upstream:
    """An engine in the form that the pipeline uses."""
    return Upstream(
        name=name,
        dialect=_dialect(entry),
        transport=entry.transport,
        acquire_slot=entry.engine.acquire_slot,
        always_streams=entry.always_streams,
        snapshot=snapshot_reader(entry.engine, entry.parses_tool_calls),
        report_failure=entry.engine.report_failure,
        interruptible_waits=entry.engine.requests.interruptible_waits,
        in_flight=lambda: entry.engine.requests.taken,
        load=entry.engine.load,
    )


def open_concurrency_limits(
    config: Config, engines: Mapping[str, EngineEntry], clock: Clock, old: Mapping[str, ConcurrencyLimit]
) -> dict[str, ConcurrencyLimit]:
    """The concurrency limits of all upstreams, engines and replicas, by name.

    A limit in `old` is kept, with its running and queued requests, and gets its new size.
    """
    configs = {name: host.concurrency for name, host in config.upstreams.items()}
    configs |= {name: entry.config.concurrency for name, entry in engines.items()}
    limits = {name: old.get(name) or ConcurrencyLimit(name, config, clock) for name, config in configs.items()}
    for name, limit in limits.items():
        limit.resize(configs[name])
    return limits


def snapshot_reader(
    engine: Engine, parses_tool_calls: Callable[[], bool] = lambda: True
) -> Callable[[], EngineSnapshot]:
    """A function that returns the engine's state for routing; the `EngineSnapshot` is remade only after a change.

    `parses_tool_calls` is called again after each change of the status: the engine may have been started with other
    flags.
    """
    load, status = engine.scraped_load, engine.status
    last = _snapshot(engine, None, parses_tool_calls=parses_tool_calls())

    def read() -> EngineSnapshot:
        nonlocal load, status, last
        # the availability of an engine that is not ready can change before its status does
        has_changed = engine.status is not status or (not last.is_ready and engine.availability != last.availability)
        if engine.scraped_load is not load or has_changed:
            report = last.load_report if engine.scraped_load is load else _load_report(engine.scraped_load)
            load, status = engine.scraped_load, engine.status
            last = _snapshot(engine, report, parses_tool_calls=parses_tool_calls())
        return last

    return read


def _snapshot(engine: Engine, report: LoadReport | None, *, parses_tool_calls: bool) -> EngineSnapshot:
    status = engine.status
    progress = status.progress or _NO_PROGRESS
    return EngineSnapshot(
        status.state == "ready",
        status.state,
        report,
        phase=progress.phase,
        phase_progress=progress.done,
        parses_tool_calls=parses_tool_calls,
        availability=engine.availability,
    )


def model_list_fetchers(wires: Mapping[str, Transport]) -> dict[str, Fetch]:
    """A function for each upstream that fetches its list of models."""
    return {name: _model_list_fetcher(name, wire) for name, wire in wires.items()}


def _load_report(scraped_load: ScrapedLoad) -> LoadReport:
    load = scraped_load.load
    return LoadReport(
        running=load.running,
        waiting=load.waiting,
        kv_used=load.kv_used,
        ttft_s=load.ttft_s or 0.0,
        at_s=scraped_load.at_s,
        tidegate_in_flight=scraped_load.in_flight,
    )


def _dialect(entry: EngineEntry) -> Dialect:
    dialect = DIALECTS[entry.dialect].for_engine()
    if entry.parses_thinking:
        dialect = structs.replace(dialect, may_lack_parser=False)
    return dialect if entry.supports_tools else structs.replace(dialect, supports_tools=False)


def _model_list_fetcher(name: str, wire: Transport) -> Fetch:
    async def fetch() -> list[ModelCard]:
        try:
            async with asyncio.timeout(_LISTING_TIMEOUT_S):
                return models.parse_list(await wire.get("/models"), owned_by=name)
        except (TimeoutError, RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"{name} does not list its models") from error

    return fetch
