"""`App`: everything that runs, and how a config becomes a front door."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import structlog
from msgspec import Struct

from tidegate.app import keys
from tidegate.app import models as names
from tidegate.app import upstreams as hosts
from tidegate.app.advice import advise
from tidegate.auth import KeyRing
from tidegate.clock import Clock, SystemClock
from tidegate.config.cards import Cards, known_cards
from tidegate.config.diff import reloaded
from tidegate.config.engines import ExternalConfig
from tidegate.config.evals import EvalFile, read_evals
from tidegate.config.replicas import expand, groups
from tidegate.config.root import Config, unnamed_engines
from tidegate.deadline import Deadlines
from tidegate.engines.assembly import Engines
from tidegate.engines.base import EngineStatus
from tidegate.engines.factory import ConnectedEngine, OnEngineChange
from tidegate.engines.faults import check_settings, notes
from tidegate.entrypoints import asgi
from tidegate.entrypoints.http.request_scope import RunningRequests
from tidegate.entrypoints.http.services import Services
from tidegate.errors import ConfigError
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.operations.administration import Administration, ReloadReport
from tidegate.operations.explain import Explaining, TargetList
from tidegate.operations.feedback import Answered, Feedback
from tidegate.operations.listing import Listing
from tidegate.operations.probes import Prober
from tidegate.operations.readiness import Readiness
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.failover_context import FailoverContext
from tidegate.pipeline.load_progress import EngineChanges
from tidegate.pipeline.preferences import Preferences
from tidegate.pipeline.request import Pipeline
from tidegate.pipeline.settlement import Settlement
from tidegate.pipeline.upstream import ServingState, Upstream, Upstreams
from tidegate.reasoning_memory import ProcessReasoningMemory
from tidegate.routing.catalogue import Catalogue
from tidegate.routing.offline import Offline
from tidegate.routing.planner import Planner
from tidegate.routing.quality import Qualities
from tidegate.routing.router import Router
from tidegate.routing.target_registry import TargetRegistry
from tidegate.telemetry.metrics import Metrics
from tidegate.transport.credential_specs import CredentialSpec
from tidegate.transport.wire import Transport

ReadConfig = Callable[[], tuple[Config, str]]


class App:
    """Everything that runs; `start` and `stop` are called once each, in the event loop that serves `asgi`.

    Args:
        config: checked, see `tidegate.config.load`.
        source: where it came from, for refusals.
        no_auth: without keys, everybody is welcome under any name.
        clock: the machine's where omitted.
        on_engine_change: told the name and the new status of an engine.
        reread: the config anew, and where it came from, for `reload`; the same one where omitted. It may raise
            `ConfigError`.
        dropped_lines: returns the number of dropped log lines.

    Attributes:
        asgi: the front door.
        config: what holds now.

    Raises:
        ConfigError: a secret cannot be read, or `args` or `environment` of an engine hold what may not be set there.
    """

    def __init__(
        self,
        config: Config,
        *,
        source: str = "config",
        no_auth: bool = False,
        clock: Clock | None = None,
        on_engine_change: OnEngineChange | None = None,
        read_config: ReadConfig | None = None,
        dropped_lines: Callable[[], int] = int,
    ) -> None:
        self.config = self._started_with = config
        self.running = RunningRequests()
        self._clock = clock or SystemClock()
        self._no_auth = no_auth
        self._read_config = read_config or (lambda: (config, source))
        self._log = structlog.get_logger("tidegate")
        self._on_engine_change = on_engine_change
        self._engine_changes = EngineChanges()
        check_settings(config.engines, source)
        self.engines = Engines(
            expand(config.engines),
            keys=keys.external_keys(config, source),
            clock=self._clock,
            log=self._log,
            on_change=self._engine_changed,
            swap=config.swap,
            on_replaced=self._replicas_replaced,
        )
        self._metrics = Metrics(_names(config))
        self._metrics.add_log(dropped_lines)
        self._metrics.add_engines(lambda: self.engines.all, self.engines.metrics)
        self.qualities = Qualities(self._clock)
        self._answered = Answered(self.qualities, self._clock)
        self._settlement = Settlement(self._metrics, self._log, self._answered.note)
        self._reasoning_memory = ProcessReasoningMemory(self._clock)
        self._is_reloading = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._reassembling: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._concurrency: Mapping[str, ConcurrencyLimit] = {}
        self._limited_engines: Mapping[str, ConnectedEngine] = {}  # the engines that `_concurrency` belong to
        self._runtime = self._make_runtime(config, self._fetch(config, source, {}), None)
        self._metrics.add_targets(self._configured_targets)
        self.asgi = asgi.AppReference(asgi.build(self._runtime.services))

    def start(self) -> None:
        """Start the engines; returns at once, they become ready by and by."""
        for line in notes(self.config.engines):
            self._log.warning("config note", note=line)
        self.engines.open()
        self._runtime.prober.open()

    async def stop(self) -> None:
        """Stop the engines, close the connections."""
        self._is_stopping = True
        tasks = self._leaving | self._reassembling
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runtime.prober.close()
        await self._runtime.catalogue.close()
        await self.engines.close()
        await asyncio.gather(*(wire.close() for wire in self._runtime.wires.values()))

    async def reload(self) -> ReloadReport:
        """Read the config again and have it hold from now on, all of it or nothing; requests in flight keep theirs.

        Raises:
            ConfigError: it cannot hold; the one before goes on.
        """
        async with self._is_reloading:
            try:
                return await self._reload()
            except ConfigError as error:
                self._log.error("reload refused", reason=str(error))
                raise
            except Exception:
                self._log.exception("reload failed")
                raise

    async def _reload(self) -> ReloadReport:
        config, source = self._read_config()
        keys.check_exposure(config, source=source, no_auth=self._no_auth)
        old = self._runtime
        # whatever may fail comes first, and changes nothing
        fetched = self._fetch(config, source, old.wires)
        if not (config.upstreams or config.engines):  # a file that is being written may be empty for a moment
            raise ConfigError(f"{source}: no upstreams and no engines, so there is nothing to serve; add one of them")
        wanted, external_keys = expand(config.engines), keys.external_keys(config, source)
        prepare = partial(self.engines.prepare, wanted, external_keys, swap=config.swap, source=source)
        prepared = await asyncio.to_thread(prepare)
        while not self.engines.is_current(prepared):  # a replica was replaced meanwhile
            prepared = await asyncio.to_thread(prepare)
        lines, fixed = reloaded(self._started_with, self.config, config)
        noted = [*advise(config), *notes(config.engines)]
        self.engines.apply(prepared)
        for name, found in fetched.credentials.items():
            fetched.wires[name].credentials.replace(found)
        self._switch_to(self._make_runtime(config, fetched, old))
        self.config = config
        self._metrics.use_models(_names(config))
        self._log.info("reloaded", source=source, changed=lines, needs_restart=fixed, notes=noted)
        return ReloadReport(lines, fixed, noted)

    def _replicas_replaced(self) -> None:
        """Other engines have taken the names of replicas: send new requests to those."""
        if not self._is_stopping:
            _keep_until_done(self._reassembling, asyncio.create_task(self._reassemble(), name="replicas replaced"))

    async def _reassemble(self) -> None:
        async with self._is_reloading:
            old = self._runtime
            self._switch_to(self._make_runtime(self.config, old.fetched, old))

    def _switch_to(self, new: "Runtime") -> None:
        """Use this one for new requests from now on; running requests keep the one that they began with."""
        old, self._runtime = self._runtime, new
        self.asgi.application = asgi.build(new.services)
        new.prober.open()
        _keep_until_done(self._leaving, asyncio.create_task(self._close_unused(old), name="old config leaves"))

    async def _close_unused(self, old: "Runtime") -> None:
        """Close what only the requests of before need, when they have ended."""
        kept = set(map(id, self._runtime.wires.values()))
        try:
            await old.prober.close()
            await self.running.until_these_have_left()
            await old.catalogue.settled()
        finally:
            await old.catalogue.close()
            await asyncio.gather(*(wire.close() for wire in old.wires.values() if id(wire) not in kept))

    def _fetch(self, config: Config, source: str, old: Mapping[str, Transport]) -> "RuntimeInputs":
        """What a config wants from outside: secrets, files; nothing is changed by it.

        Raises:
            ConfigError: something is not there.
        """
        key_ring = keys.key_ring(config, source, no_auth=self._no_auth)
        path = config.routing.evals
        evals = None if path is None else read_evals(Path(path), f"{source}: routing.evals")
        wires, credentials = {}, {}
        for name, host in config.upstreams.items():
            before = self.config.upstreams.get(name) if name in old else None
            if before is not None and hosts.is_same_wire(before, host):
                wires[name] = old[name]
                credentials[name] = hosts.read_credentials(name, host, source)
            else:
                wires[name] = hosts.open_wire(name, host, source, self._clock)
        return RuntimeInputs(key_ring, evals, wires, credentials)

    def _close_removed_limits(self) -> None:
        """Close the gates of engines that were removed or replaced, so that requests which wait there move on."""
        before, self._limited_engines = self._limited_engines, self.engines.by_name
        for name, was in before.items():
            now = self._limited_engines.get(name)
            if now is None or now.engine is not was.engine:
                self._concurrency[name].close()
                self._concurrency = {
                    each: concurrency_limit for each, concurrency_limit in self._concurrency.items() if each != name
                }

    def _make_runtime(self, config: Config, fetched: "RuntimeInputs", old: "Runtime | None") -> "Runtime":
        """What a config decides, put together anew; nothing is connected yet."""
        clock = self._clock
        self.qualities.load(fetched.evals)
        serving = self._make_serving_state(config, fetched.wires, None if old is None else old.serving)
        router, catalogue = self._router(config, fetched.wires, serving.offline)
        serving.target_registry.keep(router.configured)
        rng = Random()  # noqa: S311 - it draws targets and pauses, not secrets
        planner = Planner(router, serving, models=config.models, routing=config.routing, clock=clock, rng=rng)
        preferences = Preferences(config.defaults, config.models, config.routing)
        admission = Admission(fetched.key_ring)
        failover_context = FailoverContext(
            serving, self._settlement, models=config.models, retry=config.routing.retry, clock=clock, rng=rng
        )
        services = Services(
            pipeline=Pipeline(
                admission, preferences, planner, failover_context, self._settlement, self._engine_changes
            ),
            listing=Listing(admission, router, self._settlement, config.routing.reach),
            feedback=Feedback(admission, self._answered, self._settlement),
            readiness=Readiness(
                fetched.key_ring, self.engines.all, list(config.upstreams), self._metrics, serving.offline
            ),
            administration=Administration(self.engines.by_name, self._log),
            explaining=Explaining(planner, preferences, serving),
            reload=self.reload,
            limits=config.server,
            running=self.running,
            clock=clock,
            deadlines=Deadlines(),
        )
        prober = Prober(serving, config=config.routing.health, clock=clock, log=self._log)
        return Runtime(config, serving, services, prober, catalogue, fetched)

    def _make_serving_state(
        self, config: Config, wires: Mapping[str, Transport], old: ServingState | None
    ) -> ServingState:
        """What there is; what is known of it stays known, unless it is to be found out in another way."""
        upstreams: dict[str, Upstream] = {
            name: hosts.host_upstream(name, host, wires[name]) for name, host in config.upstreams.items()
        }
        upstreams |= {name: hosts.engine_upstream(name, each) for name, each in self.engines.by_name.items()}
        self._close_removed_limits()
        self._concurrency = hosts.open_concurrency_limits(config, self.engines.by_name, self._clock, self._concurrency)
        for wire in (*wires.values(), *(each.transport for each in self.engines.by_name.values())):
            wire.credentials.use_health(config.routing.health)
        target_registry = TargetRegistry(self._clock, config.routing.health)
        if old is not None and self.config.routing.health == config.routing.health:
            target_registry = old.target_registry
        offline = Offline(self._clock, forced=config.routing.offline, names=list(config.upstreams))
        is_as_it_was = self.config.routing.offline == config.routing.offline
        if old is not None and is_as_it_was and list(self.config.upstreams) == list(config.upstreams):
            offline = old.offline
        return ServingState(
            upstreams=Upstreams(upstreams),
            concurrency={
                name: concurrency_limit
                for name, concurrency_limit in self._concurrency.items()
                if concurrency_limit.limit is not None
            },
            target_registry=target_registry,
            offline=offline,
            qualities=self.qualities,
            reasoning_memory=self._reasoning_memory,
        )

    def _router(self, config: Config, wires: Mapping[str, Transport], offline: Offline) -> tuple[Router, Catalogue]:
        engines = self.engines.by_name
        external = [name for name, engine in config.engines.items() if isinstance(engine, ExternalConfig)]
        listing = {name: engines[name].transport for name in external} | dict(wires)
        catalogue = Catalogue(
            hosts.listers(listing), self._clock, may_ask=lambda name: name in external or not offline.is_offline
        )
        cards = Cards(config.cards, known_cards())
        loaded, replicas = names.loaded_cards(engines, cards), groups(engines)
        router = Router(
            names.targets_of(config, cards, loaded, replicas),
            upstreams=[*config.upstreams, *external],
            engines=names.own_targets(config, cards, loaded, replicas),
            local=names.statuses(engines),
            adapters=self.engines.adapter_names,
            catalogue=catalogue,
            cards=cards,
            created=int(self._clock.now_s()),
        )
        return router, catalogue

    def _configured_targets(self) -> TargetList:
        return self._runtime.services.explaining.configured()

    def _engine_changed(self, name: str, status: EngineStatus) -> None:
        if status.state == "ready":
            self._runtime.serving.target_registry.readmit(name)
        self._engine_changes.tell()
        if self._on_engine_change is not None:
            self._on_engine_change(name, status)


class RuntimeInputs(Struct, frozen=True):
    """What one config wanted from outside.

    Attributes:
        wires: to hosts elsewhere; those that are as before are the ones of before.
        credentials: of the latter, what they are to show from now on.
    """

    key_ring: KeyRing
    evals: EvalFile | None
    wires: Mapping[str, Transport]
    credentials: Mapping[str, Sequence[CredentialSpec]]


class Runtime(Struct, frozen=True):
    """What was put together for one config; `fetched` is what that was made of."""

    config: Config
    serving: ServingState
    services: Services
    prober: Prober
    catalogue: Catalogue
    fetched: RuntimeInputs

    @property
    def wires(self) -> Mapping[str, Transport]:
        """The connections to upstreams."""
        return self.fetched.wires


def _keep_until_done(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Keep the task in `tasks` until it is done: the event loop has only weak references to tasks."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _names(config: Config) -> Sequence[str]:
    """The models that have a name of ours."""
    return [*config.models, *unnamed_engines(config)]
