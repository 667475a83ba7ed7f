"""The composition root: a `Config` in, a running `App` out. The only module that names every concrete class."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import structs

from proxy import auth
from proxy.clock import Clock, SystemClock
from proxy.config.auth import CallerConfig
from proxy.config.cards import UNKNOWN, Card, Cards, known_cards
from proxy.config.engines import ExternalConfig, VllmConfig
from proxy.config.models import TargetConfig
from proxy.config.root import Config, is_loopback, unnamed_engines
from proxy.config.secret import Secret
from proxy.config.upstreams import UpstreamConfig
from proxy.deadline import Deadlines
from proxy.dialects.base import Dialect
from proxy.dialects.registry import DIALECTS
from proxy.engines.assembly import Assembled, Engines, OnEngineChange
from proxy.engines.base import EngineStatus
from proxy.entrypoints import asgi
from proxy.entrypoints.http.door import Door
from proxy.entrypoints.http.lifeline import Running
from proxy.errors import ConfigError, UpstreamFailed
from proxy.memory import ProcessMemory
from proxy.pipeline.administration import Administration
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
from proxy.routing.catalogue import Catalogue, Fetch
from proxy.routing.router import Router
from proxy.routing.targets import Target
from proxy.telemetry.metrics import Metrics
from proxy.transport import Timeouts, Transport

_LISTING_S = 5.0


class App:
    """Everything that runs; `start` and `stop` are called once each, in the event loop that serves `asgi`."""

    def __init__(
        self,
        asgi_app: Any,  # noqa: ANN401 - an ASGI application
        *,
        running: Running,
        engines: Engines,
        transports: Mapping[str, Transport],
        catalogue: Catalogue,
    ) -> None:
        self.asgi = asgi_app
        self.running = running
        self.engines = engines
        self._transports = transports
        self._catalogue = catalogue

    def start(self) -> None:
        """Start the engines; returns at once, they become ready by and by."""
        self.engines.open()

    async def stop(self) -> None:
        """Stop the engines, close the connections."""
        await self._catalogue.close()
        await self.engines.close()
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
    metrics = Metrics([*config.models, *unnamed_engines(config)])
    keys = _key_ring(config, source, no_auth=no_auth)
    upstreams, transports = _hosts(config, source)
    engines = Engines(
        config.engines,
        keys=_external_keys(config, source),
        clock=clock,
        log=log,
        on_change=on_engine_change or _tell_nobody,
    )
    metrics.add_engines(engines.all, engines.metrics)
    _add_engines(engines, upstreams)
    external = [name for name, engine in config.engines.items() if isinstance(engine, ExternalConfig)]
    listing = {name: engines.by_name[name].transport for name in external} | transports
    catalogue = Catalogue({name: _lister(name, transport) for name, transport in listing.items()}, clock)
    cards = Cards(config.cards, known_cards())
    loaded = _loaded(engines, cards)
    router = Router(
        _models(config, cards, loaded),
        upstreams=[*config.upstreams, *external],
        engines=loaded,
        adapters=engines.adapter_names,
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
            Preferences(config.defaults, config.models, config.routing),
            router,
            Failover(upstreams, settlement, ProcessMemory(clock)),
            settlement,
        ),
        listing=Listing(admission, router, settlement),
        readiness=Readiness(keys, engines.all, list(config.upstreams), metrics),
        administration=Administration(engines.by_name, log),
        limits=config.server,
        running=running,
        clock=clock,
        deadlines=Deadlines(),
    )
    return App(asgi.build(door), running=running, engines=engines, transports=transports, catalogue=catalogue)


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
    keys = _resolve_all(config.auth.keys, f"{source}: auth.keys")
    admin = config.auth.admin_key
    admin_key = None if admin is None else _resolve(admin, f"{source}: auth.admin_key")
    callers = [
        (_resolve(caller.key, f"{source}: auth.callers.{name}.key"), _principal(name, caller))
        for name, caller in config.auth.callers.items()
    ]
    return auth.KeyRing(keys, admin_key, callers=callers, takes_any_host=no_auth)


def _principal(name: str, caller: CallerConfig) -> auth.KeyPrincipal:
    return auth.KeyPrincipal(name, caller.reasoning_format, caller.reach, caller.priority)


def _resolve_all(secrets: Sequence[Secret], path: str) -> list[str]:
    return [_resolve(secret, f"{path}[{index}]") for index, secret in enumerate(secrets)]


def _resolve(secret: Secret, path: str) -> str:
    try:
        return secret.resolve()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _external_keys(config: Config, source: str) -> dict[str, list[str]]:
    return {
        name: _resolve_all(engine.api_keys, f"{source}: engines.{name}.api_keys")
        for name, engine in config.engines.items()
        if isinstance(engine, ExternalConfig)
    }


def _tell_nobody(_name: str, _status: EngineStatus) -> None:
    """Where no terminal shows the engines."""


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


def _add_engines(engines: Engines, upstreams: dict[str, Upstream]) -> None:
    for name, assembled in engines.by_name.items():
        upstreams[name] = Upstream(
            name=name,
            dialect=_dialect(assembled),
            transport=assembled.transport,
            enter=assembled.engine.enter,
            always_streams=assembled.always_streams,
        )


def _dialect(assembled: Assembled) -> Dialect:
    dialect = DIALECTS[assembled.dialect]
    return structs.replace(dialect, may_lack_parser=False) if assembled.parses_thinking else dialect


def _host_transport(path: str, host: UpstreamConfig, dialect: Dialect) -> Transport:
    keys = _resolve_all(host.api_keys, f"{path}.api_keys")
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


def _models(config: Config, cards: Cards, loaded: Mapping[str, Card]) -> dict[str, list[Target]]:
    """Every name that is ours to give."""
    named = {name: [_target(each, cards, loaded) for each in model.targets] for name, model in config.models.items()}
    return named | {name: [_target(TargetConfig(engine=name), cards, loaded)] for name in unnamed_engines(config)}


def _target(target: TargetConfig, cards: Cards, loaded: Mapping[str, Card]) -> Target:
    place = target.upstream or target.engine or ""
    model = target.model or place
    if target.card is not None:
        card = cards.named(target.card) or UNKNOWN
    else:
        card = loaded[place] if place in loaded else cards.find(model)
    return Target(place, model, card)


def _loaded(engines: Engines, cards: Cards) -> dict[str, Card]:
    """What is known of what each vLLM has loaded: by its name or, where that says nothing, by its checkpoint."""
    return {
        name: _card_of(assembled.config, assembled.model_card, cards)
        for name, assembled in engines.by_name.items()
        if isinstance(assembled.config, VllmConfig)
    }


def _card_of(engine: VllmConfig, read: str | None, cards: Cards) -> Card:
    card = cards.find(engine.model.rstrip("/"))
    if card is UNKNOWN and read is not None:
        card = cards.named(read) or UNKNOWN
    return card if engine.max_model_len is None else structs.replace(card, context_window=engine.max_model_len)


def _lister(name: str, transport: Transport) -> Fetch:
    async def fetch() -> list[ModelCard]:
        try:
            async with asyncio.timeout(_LISTING_S):
                return models.parse_list(await transport.get("/models"), owned_by=name)
        except (TimeoutError, RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"{name} does not list its models") from error

    return fetch
