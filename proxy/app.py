"""The composition root: a `Config` in, a running `App` out. The only module that names every concrete class."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from proxy import auth
from proxy.clock import Clock, SystemClock
from proxy.config.cards import UNKNOWN, Cards, known_cards
from proxy.config.engines import EngineConfig
from proxy.config.models import TargetConfig
from proxy.config.root import Config, is_loopback
from proxy.config.secret import Secret
from proxy.config.upstreams import UpstreamConfig
from proxy.deadline import Deadlines
from proxy.dialects.base import Dialect
from proxy.dialects.registry import DIALECTS
from proxy.engines.base import EngineKind, EngineStatus, Probe
from proxy.engines.llamacpp import LlamaCpp
from proxy.engines.supervisor import Supervisor
from proxy.entrypoints import asgi
from proxy.entrypoints.http.door import Door
from proxy.entrypoints.http.lifeline import Running
from proxy.errors import ConfigError, ProxyError, UpstreamFailed
from proxy.memory import ProcessMemory
from proxy.pipeline.admission import Admission
from proxy.pipeline.chat import Pipeline
from proxy.pipeline.failover import Failover
from proxy.pipeline.listing import Listing
from proxy.pipeline.preferences import Preferences
from proxy.pipeline.readiness import Readiness
from proxy.pipeline.settlement import Settlement
from proxy.pipeline.upstream import Upstream
from proxy.protocol import models
from proxy.protocol.models import ModelCard
from proxy.routing import Catalogue, Fetch, Router, Target
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from proxy.transport import Timeouts, Transport

ENGINE_URL = "http://engine/v1"
_LISTING_S = 5.0
_ENGINE_KINDS: Mapping[str, Callable[[str, EngineConfig], EngineKind]] = {"llamacpp": LlamaCpp}

OnEngineChange = Callable[[str, EngineStatus], None]


class App:
    """Everything that runs; `start` and `stop` are called once each, in the event loop that serves `asgi`."""

    def __init__(
        self,
        asgi_app: Any,  # noqa: ANN401 - an ASGI application
        *,
        running: Running,
        supervisors: Sequence[Supervisor],
        transports: Mapping[str, Transport],
        catalogue: Catalogue,
    ) -> None:
        self.asgi = asgi_app
        self.running = running
        self.supervisors = supervisors
        self._transports = transports
        self._catalogue = catalogue

    def start(self) -> None:
        """Start the engines; returns at once, they become ready by and by."""
        for supervisor in self.supervisors:
            supervisor.start(_prober(self._transports[supervisor.name], supervisor.kind.health_path))

    async def stop(self) -> None:
        """Stop the engines, close the connections."""
        await self._catalogue.close()
        await asyncio.gather(*(supervisor.stop() for supervisor in self.supervisors))
        await asyncio.gather(*(transport.close() for transport in self._transports.values()))


def build(
    config: Config,
    *,
    source: str = "config",
    no_auth: bool = False,
    clock: Clock | None = None,
    on_engine_change: OnEngineChange | None = None,
) -> App:
    """Put the house together; nothing runs yet, nothing is connected.

    Args:
        config: checked, see `proxy.config.load`.
        source: where it came from, for refusals.
        no_auth: without keys, everybody is welcome under any name.
        clock: the machine's where omitted.
        on_engine_change: told the name and the new status of an engine.

    Raises:
        ConfigError: a secret cannot be read.
    """
    clock = clock or SystemClock()
    log = structlog.get_logger("tidegate")
    metrics = Metrics(config.models)
    keys = _key_ring(config, source, no_auth=no_auth)
    upstreams, transports = _hosts(config, source)
    supervisors = _supervisors(config.engines, metrics, log, on_engine_change)
    _add_engines(config, supervisors, upstreams, transports)
    catalogue = Catalogue({name: _lister(name, transports[name]) for name in config.upstreams}, clock)
    cards = Cards(config.cards, known_cards())
    router = Router(
        {name: [_target(target, cards) for target in model.targets] for name, model in config.models.items()},
        upstreams=list(config.upstreams),
        catalogue=catalogue,
        cards=cards,
        created=int(clock.now_s()),
    )
    settlement = Settlement(metrics, log)
    admission = Admission(keys)
    running = Running()
    door = Door(
        pipeline=Pipeline(
            admission,
            Preferences(config.defaults, config.models),
            router,
            Failover(upstreams, settlement, ProcessMemory(clock)),
            settlement,
        ),
        listing=Listing(admission, router, settlement),
        readiness=Readiness(keys, supervisors, list(config.upstreams), metrics),
        limits=config.server,
        running=running,
        clock=clock,
        deadlines=Deadlines(),
    )
    return App(asgi.build(door), running=running, supervisors=supervisors, transports=transports, catalogue=catalogue)


def check_exposure(config: Config, *, source: str, no_auth: bool) -> None:
    """Refuse to be open to others by mistake.

    Raises:
        ConfigError: another address than loopback, without keys, and `--no-auth` was not said.
    """
    if not (is_loopback(config.server.host) or config.auth.keys or config.auth.callers or no_auth):
        raise ConfigError(
            f"{source}: server.host: {config.server.host} can be reached from other machines, and auth.keys is empty; "
            "set TIDEGATE_API_KEY (or auth.keys), or say --no-auth if everybody may use your keys and engines"
        )


def _key_ring(config: Config, source: str, *, no_auth: bool) -> auth.KeyRing:
    keys = [_resolve(secret, f"{source}: auth.keys[{index}]") for index, secret in enumerate(config.auth.keys)]
    admin = config.auth.admin_key
    admin_key = None if admin is None else _resolve(admin, f"{source}: auth.admin_key")
    callers = [
        (_resolve(caller.key, f"{source}: auth.callers.{name}.key"), auth.KeyPrincipal(name, caller.reasoning_format))
        for name, caller in config.auth.callers.items()
    ]
    return auth.KeyRing(keys, admin_key, callers=callers, takes_any_host=no_auth)


def _resolve(secret: Secret, path: str) -> str:
    try:
        return secret.resolve()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _supervisors(
    engines: Mapping[str, EngineConfig],
    metrics: Metrics,
    log: Log,
    on_change: OnEngineChange | None,
) -> list[Supervisor]:
    def told(name: str) -> Callable[[EngineStatus], None]:
        gauge = metrics.engines_ready.labels(name)

        def tell(status: EngineStatus) -> None:
            gauge.set(status.state == "ready")
            if on_change is not None:
                on_change(name, status)

        return tell

    return [
        Supervisor(name, _ENGINE_KINDS[config.kind](name, config), log, on_change=told(name))
        for name, config in engines.items()
    ]


def _hosts(config: Config, source: str) -> tuple[dict[str, Upstream], dict[str, Transport]]:
    upstreams: dict[str, Upstream] = {}
    transports: dict[str, Transport] = {}
    for name, host in config.upstreams.items():
        dialect = DIALECTS[host.dialect]
        transports[name] = transport = _host_transport(f"{source}: upstreams.{name}", host, dialect)
        upstreams[name] = Upstream(
            name=name,
            dialect=dialect,
            transport=transport,
            secrets=transport.api_keys,
            api_version=host.api_version,
        )
    return upstreams, transports


def _add_engines(
    config: Config,
    supervisors: Sequence[Supervisor],
    upstreams: dict[str, Upstream],
    transports: dict[str, Transport],
) -> None:
    for supervisor in supervisors:
        engine = config.engines[supervisor.name]
        dialect = DIALECTS[supervisor.kind.dialect]
        transports[supervisor.name] = transport = _engine_transport(engine, dialect, supervisor.socket_path)
        upstreams[supervisor.name] = Upstream(
            name=supervisor.name,
            dialect=dialect,
            transport=transport,
            check_ready=supervisor.check_ready,
            always_streams=supervisor.kind.always_streams,
        )


def _host_transport(path: str, host: UpstreamConfig, dialect: Dialect) -> Transport:
    keys = [_resolve(secret, f"{path}.api_keys[{index}]") for index, secret in enumerate(host.api_keys)]
    return Transport(
        host.base_url,
        api_keys=keys,
        timeouts=Timeouts(
            connect_s=host.connect_timeout_s,
            first_byte_s=host.first_byte_timeout_s or dialect.first_byte_timeout_s,
            answer_s=host.answer_timeout_s,
            idle_s=host.idle_timeout_s,
        ),
        key_header=dialect.key_header,
        max_connections=host.max_connections,
        keepalive_s=host.keepalive_s or dialect.keepalive_s,
    )


def _engine_transport(engine: EngineConfig, dialect: Dialect, socket_path: str) -> Transport:
    return Transport(
        ENGINE_URL,
        timeouts=Timeouts(
            connect_s=UpstreamConfig(base_url=ENGINE_URL).connect_timeout_s,
            first_byte_s=engine.first_byte_timeout_s,
            answer_s=engine.first_byte_timeout_s,
            idle_s=engine.idle_timeout_s,
        ),
        socket_path=socket_path,
        keepalive_s=dialect.keepalive_s,
    )


def _target(target: TargetConfig, cards: Cards) -> Target:
    place = target.upstream or target.engine or ""
    model = target.model or place
    card = cards.find(model) if target.card is None else cards.named(target.card)
    return Target(place, model, card or UNKNOWN)


def _lister(name: str, transport: Transport) -> Fetch:
    async def fetch() -> list[ModelCard]:
        try:
            async with asyncio.timeout(_LISTING_S):
                return models.parse_list(await transport.get("/models"), owned_by=name)
        except (TimeoutError, RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"{name} does not list its models") from error

    return fetch


def _prober(transport: Transport, path: str) -> Probe:
    async def probe() -> bool:
        try:
            await transport.get(path)
        except ProxyError:
            return False
        return True

    return probe
