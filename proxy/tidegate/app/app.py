"""`App`: builds everything that runs from a config, owns it, and replaces it when the config is reloaded."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import structlog
from msgspec import Struct

from tidegate.app import keys, models, upstreams
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
from tidegate.engines.factory import EngineEntry, OnEngineChange
from tidegate.engines.faults import check_settings, notes
from tidegate.entrypoints import asgi
from tidegate.entrypoints.http.request_scope import RunningRequests
from tidegate.entrypoints.http.services import Services
from tidegate.errors import ConfigError
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.operations.administration import EngineAdministration, ReloadReport
from tidegate.operations.explain import Explainer, TargetList
from tidegate.operations.feedback import Feedback, ScorableAnswers
from tidegate.operations.listing import ModelListing
from tidegate.operations.probes import TargetProber
from tidegate.operations.readiness import Readiness
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.engine_start_progress import EngineChanges
from tidegate.pipeline.failover_context import FailoverContext
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
    """The running server without its sockets: engines, metrics, and the `Runtime` that was built from the config.

    `start` and `stop` are called once each, in the event loop that serves `asgi`.

    Args:
        config: has been checked by `tidegate.config.load`.
        source: where the config was read from; shown in error messages.
        no_auth: if no keys are configured, requests are accepted under any host name.
        clock: the system clock if omitted.
        on_engine_change: is called with the name and the new status of an engine.
        read_config: reads the config again for `reload`; returns it and its source, or raises `ConfigError`. If
            omitted, a reload uses `config` again.
        dropped_lines: returns the number of dropped log lines.

    Attributes:
        asgi: the ASGI application for the HTTP server.
        config: the config in force.
        running: the requests being served.
        engines: all configured engines; they outlive a reload.
        qualities: the quality scores of targets; they outlive a reload.

    Raises:
        ConfigError: a secret cannot be read, or `args` or `environment` of an engine contain a setting that is not
            allowed there.
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
        self.config = self._start_config = config  # the latter is never replaced: some keys take effect at a start only
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
            on_replaced=self._on_replicas_replaced,
        )
        self._metrics = Metrics(_model_names(config))
        self._metrics.add_log(dropped_lines)
        self._metrics.add_engines(lambda: self.engines.all, self.engines.metrics)
        self.qualities = Qualities(self._clock)
        self._answered = ScorableAnswers(self.qualities, self._clock)
        self._settlement = Settlement(self._metrics, self._log, self._answered.record)
        self._reasoning_memory = ProcessReasoningMemory(self._clock)
        self._reload_lock = asyncio.Lock()
        self._closing_tasks: set[asyncio.Task[None]] = set()
        self._rebuild_tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._concurrency: Mapping[str, ConcurrencyLimit] = {}
        self._limited_engines: Mapping[str, EngineEntry] = {}  # the engines that `_concurrency` was made for
        self._runtime = self._build_runtime(config, self._read_inputs(config, source, {}), None)
        self._metrics.add_targets(self._configured_targets)
        self.asgi = asgi.AppReference(asgi.build(self._runtime.services))

    def start(self) -> None:
        """Start the engines and the health probes; returns before the engines are ready."""
        for line in notes(self.config.engines):
            self._log.warning("config note", note=line)
        self.engines.open()
        self._runtime.prober.open()

    async def stop(self) -> None:
        """Stop the background tasks and the engines, then close the connections to the upstreams."""
        self._is_stopping = True
        tasks = self._closing_tasks | self._rebuild_tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runtime.prober.close()
        await self._runtime.catalogue.close()
        await self.engines.close()
        await asyncio.gather(*(wire.close() for wire in self._runtime.wires.values()))

    async def reload(self) -> ReloadReport:
        """Read the config again and use it for new requests; running requests keep the config they began with.

        Either the whole config is applied or nothing changes.

        Raises:
            ConfigError: the config is invalid or cannot be applied; the old one stays in force.
        """
        async with self._reload_lock:
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
        # everything that may fail comes first and changes nothing
        inputs = self._read_inputs(config, source, old.wires)
        if not (config.upstreams or config.engines):  # the file may be empty for a moment while it is being written
            raise ConfigError(f"{source}: no upstreams and no engines, so there is nothing to serve; add one of them")
        engine_configs, external_keys = expand(config.engines), keys.external_keys(config, source)
        prepare = partial(self.engines.prepare, engine_configs, external_keys, swap=config.swap, source=source)
        prepared = await asyncio.to_thread(prepare)
        while not self.engines.is_current(prepared):  # a replica was replaced meanwhile
            prepared = await asyncio.to_thread(prepare)
        changed, needs_restart = reloaded(self._start_config, self.config, config)
        config_notes = [*advise(config), *notes(config.engines)]
        self.engines.apply(prepared)
        for name, found in inputs.credentials.items():
            inputs.wires[name].credentials.replace(found)
        self._activate(self._build_runtime(config, inputs, old))
        self.config = config
        self._metrics.use_models(_model_names(config))
        self._log.info("reloaded", source=source, changed=changed, needs_restart=needs_restart, notes=config_notes)
        return ReloadReport(changed, needs_restart, config_notes)

    def _on_replicas_replaced(self) -> None:
        """Other engines have taken over the names of replicas: rebuild the runtime, so new requests go to them."""
        if not self._is_stopping:
            _keep_until_done(self._rebuild_tasks, asyncio.create_task(self._rebuild(), name="replicas replaced"))

    async def _rebuild(self) -> None:
        async with self._reload_lock:
            old = self._runtime
            self._activate(self._build_runtime(self.config, old.inputs, old))

    def _activate(self, new: "Runtime") -> None:
        """Serve new requests with the runtime `new`; running requests keep the one that they began with."""
        old, self._runtime = self._runtime, new
        self.asgi.application = asgi.build(new.services)
        new.prober.open()
        _keep_until_done(self._closing_tasks, asyncio.create_task(self._close_old(old), name="close old runtime"))

    async def _close_old(self, old: "Runtime") -> None:
        """Close the parts of `old` that the current runtime does not share, when the requests that use them end."""
        kept = set(map(id, self._runtime.wires.values()))
        try:
            await old.prober.close()
            await self.running.wait_for_current()
            await old.catalogue.wait_for_fetches()
        finally:
            await old.catalogue.close()
            await asyncio.gather(*(wire.close() for wire in old.wires.values() if id(wire) not in kept))

    def _read_inputs(self, config: Config, source: str, old: Mapping[str, Transport]) -> "RuntimeInputs":
        """Read the secrets and files that a config refers to, and create its connections; changes no other state.

        Args:
            config: the new config.
            source: where the config was read from; shown in error messages.
            old: the connections of the current runtime, by upstream; the unchanged ones are used again.

        Raises:
            ConfigError: a secret or a file cannot be read.
        """
        # `self.config` is still the config of the current runtime
        key_ring = keys.key_ring(config, source, no_auth=self._no_auth)
        path = config.routing.evals
        evals = None if path is None else read_evals(Path(path), f"{source}: routing.evals")
        wires, credentials = {}, {}
        for name, host in config.upstreams.items():
            old_host = self.config.upstreams.get(name) if name in old else None
            if old_host is not None and upstreams.is_same_wire(old_host, host):
                wires[name] = old[name]
                credentials[name] = upstreams.read_credentials(name, host, source)
            else:
                wires[name] = upstreams.open_wire(name, host, source, self._clock)
        return RuntimeInputs(key_ring, evals, wires, credentials)

    def _close_removed_limits(self) -> None:
        """Close the concurrency limits of removed or replaced engines: requests in their queues try other targets."""
        old_engines, self._limited_engines = self._limited_engines, self.engines.by_name
        for name, old in old_engines.items():
            new = self._limited_engines.get(name)
            if new is None or new.engine is not old.engine:
                self._concurrency[name].close()
                self._concurrency = {
                    each: concurrency_limit for each, concurrency_limit in self._concurrency.items() if each != name
                }

    def _build_runtime(self, config: Config, inputs: "RuntimeInputs", old: "Runtime | None") -> "Runtime":
        """Build everything that depends on the config; nothing is connected or started yet.

        `inputs` has been read for `config`. `old` is the runtime to be replaced, or None at the start.
        """
        clock = self._clock
        self.qualities.load(inputs.evals)
        serving = self._build_serving_state(config, inputs.wires, None if old is None else old.serving)
        router, catalogue = self._build_router(config, inputs.wires, serving.offline)
        serving.target_registry.set_configured(router.configured)
        rng = Random()  # noqa: S311 - it draws targets and pauses, not secrets
        planner = Planner(router, serving, models=config.models, routing=config.routing, clock=clock, rng=rng)
        preferences = Preferences(config.defaults, config.models, config.routing)
        admission = Admission(inputs.key_ring)
        failover_context = FailoverContext(
            serving, self._settlement, models=config.models, retry=config.routing.retry, clock=clock, rng=rng
        )
        services = Services(
            pipeline=Pipeline(
                admission, preferences, planner, failover_context, self._settlement, self._engine_changes
            ),
            listing=ModelListing(admission, router, self._settlement, config.routing.reach),
            feedback=Feedback(admission, self._answered, self._settlement),
            readiness=Readiness(
                inputs.key_ring, self.engines.all, list(config.upstreams), self._metrics, serving.offline
            ),
            administration=EngineAdministration(self.engines.by_name, self._log),
            explainer=Explainer(planner, preferences, serving),
            reload=self.reload,
            limits=config.server,
            running=self.running,
            clock=clock,
            deadlines=Deadlines(),
        )
        prober = TargetProber(serving, config=config.routing.health, clock=clock, log=self._log)
        return Runtime(config, serving, services, prober, catalogue, inputs)

    def _build_serving_state(
        self, config: Config, wires: Mapping[str, Transport], old: ServingState | None
    ) -> ServingState:
        """Build the state that the requests of one config share: upstreams, concurrency limits, health, offline state.

        `self.config` is still the config of `old`. Health is taken over from `old` if `routing.health` is unchanged;
        the offline state, if `routing.offline` and the names of the upstreams are unchanged.
        """
        by_name: dict[str, Upstream] = {
            name: upstreams.host_upstream(name, host, wires[name]) for name, host in config.upstreams.items()
        }
        by_name |= {name: upstreams.engine_upstream(name, each) for name, each in self.engines.by_name.items()}
        self._close_removed_limits()
        self._concurrency = upstreams.open_concurrency_limits(
            config, self.engines.by_name, self._clock, self._concurrency
        )
        for wire in (*wires.values(), *(each.transport for each in self.engines.by_name.values())):
            wire.credentials.use_health(config.routing.health)
        target_registry = TargetRegistry(self._clock, config.routing.health)
        if old is not None and self.config.routing.health == config.routing.health:
            target_registry = old.target_registry
        offline = Offline(self._clock, forced=config.routing.offline, names=list(config.upstreams))
        is_setting_unchanged = self.config.routing.offline == config.routing.offline
        if old is not None and is_setting_unchanged and list(self.config.upstreams) == list(config.upstreams):
            offline = old.offline
        return ServingState(
            upstreams=Upstreams(by_name),
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

    def _build_router(
        self, config: Config, wires: Mapping[str, Transport], offline: Offline
    ) -> tuple[Router, Catalogue]:
        engines = self.engines.by_name
        external = [name for name, engine in config.engines.items() if isinstance(engine, ExternalConfig)]
        listing = {name: engines[name].transport for name in external} | dict(wires)
        catalogue = Catalogue(
            upstreams.model_list_fetchers(listing),
            self._clock,
            may_fetch=lambda name: name in external or not offline.is_offline,
        )
        cards = Cards(config.cards, known_cards())
        loaded, replicas = models.loaded_cards(engines, cards), groups(engines)
        router = Router(
            models.targets_of(config, cards, loaded, replicas),
            upstreams=[*config.upstreams, *external],
            engines=models.engine_targets(config, cards, loaded, replicas),
            local=models.statuses(engines),
            adapters=self.engines.adapter_names,
            catalogue=catalogue,
            cards=cards,
            created=int(self._clock.now_s()),
        )
        return router, catalogue

    def _configured_targets(self) -> TargetList:
        return self._runtime.services.explainer.configured()

    def _engine_changed(self, name: str, status: EngineStatus) -> None:
        if status.state == "ready":
            self._runtime.serving.target_registry.readmit(name)
        self._engine_changes.notify()
        if self._on_engine_change is not None:
            self._on_engine_change(name, status)


class RuntimeInputs(Struct, frozen=True):
    """What was read or opened for one config, before its `Runtime` was built.

    Attributes:
        key_ring: the keys that callers may use.
        evals: the eval file, if one is configured.
        wires: the connections to all upstreams, by name. For an unchanged upstream it is the one of the old runtime.
        credentials: the new credentials of the connections taken over from the old runtime.
    """

    key_ring: KeyRing
    evals: EvalFile | None
    wires: Mapping[str, Transport]
    credentials: Mapping[str, Sequence[CredentialSpec]]


class Runtime(Struct, frozen=True):
    """Everything built from one config. A reload replaces it as a whole; `App` owns it and closes it.

    Attributes:
        config: the config that it was built from.
        serving: the state that routing and attempts share.
        services: what the HTTP endpoints use.
        prober: checks the health of targets in the background.
        catalogue: the models that the upstreams list.
        inputs: the secrets, files and connections that it was built from.
    """

    config: Config
    serving: ServingState
    services: Services
    prober: TargetProber
    catalogue: Catalogue
    inputs: RuntimeInputs

    @property
    def wires(self) -> Mapping[str, Transport]:
        """The connections to upstreams, by name."""
        return self.inputs.wires


def _keep_until_done(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Keep the task in `tasks` until it is done: the event loop has only weak references to tasks."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _model_names(config: Config) -> Sequence[str]:
    """The configured models, and the engines that serve as models under their own names."""
    return [*config.models, *unnamed_engines(config)]
