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
from tidegate.engines.factory import Assembled, OnEngineChange
from tidegate.engines.faults import check_settings, notes
from tidegate.entrypoints import asgi
from tidegate.entrypoints.http.request_scope import Running
from tidegate.entrypoints.http.services import Door
from tidegate.errors import ConfigError
from tidegate.limits.concurrency import Gate
from tidegate.operations.administration import Administration, ReloadReport
from tidegate.operations.explain import Explaining, TargetList
from tidegate.operations.feedback import Answered, Feedback
from tidegate.operations.listing import Listing
from tidegate.operations.probes import Prober
from tidegate.operations.readiness import Readiness
from tidegate.pipeline.admission import Admission
from tidegate.pipeline.failover import Failover
from tidegate.pipeline.load_progress import EngineChanges
from tidegate.pipeline.preferences import Preferences
from tidegate.pipeline.request import Pipeline
from tidegate.pipeline.serving_state import Landscape
from tidegate.pipeline.settlement import Settlement
from tidegate.pipeline.upstream import Upstream, Upstreams
from tidegate.reasoning_memory import ProcessMemory
from tidegate.routing.catalogue import Catalogue
from tidegate.routing.offline import Offline
from tidegate.routing.planner import Planner
from tidegate.routing.quality import Qualities
from tidegate.routing.router import Router
from tidegate.routing.target_registry import Board
from tidegate.telemetry.metrics import Metrics
from tidegate.transport.credential_specs import Spec
from tidegate.transport.wire import Transport

Reread = Callable[[], tuple[Config, str]]


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
        reread: Reread | None = None,
        dropped_lines: Callable[[], int] = int,
    ) -> None:
        self.config = self._started_with = config
        self.running = Running()
        self._clock = clock or SystemClock()
        self._no_auth = no_auth
        self._reread = reread or (lambda: (config, source))
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
        self._memory = ProcessMemory(self._clock)
        self._is_reloading = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._reassembling: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._gates: Mapping[str, Gate] = {}
        self._gated: Mapping[str, Assembled] = {}  # the engines that `_gates` belong to
        self._furniture = self._furnish(config, self._fetch(config, source, {}), None)
        self._metrics.add_targets(self._configured_targets)
        self.asgi = asgi.Entrance(asgi.build(self._furniture.door))

    def start(self) -> None:
        """Start the engines; returns at once, they become ready by and by."""
        for line in notes(self.config.engines):
            self._log.warning("config note", note=line)
        self.engines.open()
        self._furniture.prober.open()

    async def stop(self) -> None:
        """Stop the engines, close the connections."""
        self._is_stopping = True
        tasks = self._leaving | self._reassembling
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._furniture.prober.close()
        await self._furniture.catalogue.close()
        await self.engines.close()
        await asyncio.gather(*(wire.close() for wire in self._furniture.wires.values()))

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
        config, source = self._reread()
        keys.check_exposure(config, source=source, no_auth=self._no_auth)
        old = self._furniture
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
        self._switch_to(self._furnish(config, fetched, old))
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
            old = self._furniture
            self._switch_to(self._furnish(self.config, old.fetched, old))

    def _switch_to(self, new: "Furniture") -> None:
        """Use this one for new requests from now on; running requests keep the one that they began with."""
        old, self._furniture = self._furniture, new
        self.asgi.application = asgi.build(new.door)
        new.prober.open()
        _keep_until_done(self._leaving, asyncio.create_task(self._see_off(old), name="old config leaves"))

    async def _see_off(self, old: "Furniture") -> None:
        """Close what only the requests of before need, when they have ended."""
        kept = set(map(id, self._furniture.wires.values()))
        try:
            await old.prober.close()
            await self.running.until_these_have_left()
            await old.catalogue.settled()
        finally:
            await old.catalogue.close()
            await asyncio.gather(*(wire.close() for wire in old.wires.values() if id(wire) not in kept))

    def _fetch(self, config: Config, source: str, old: Mapping[str, Transport]) -> "Fetched":
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
        return Fetched(key_ring, evals, wires, credentials)

    def _close_gates(self) -> None:
        """Close the gates of engines that were removed or replaced, so that requests which wait there move on."""
        before, self._gated = self._gated, self.engines.by_name
        for name, was in before.items():
            now = self._gated.get(name)
            if now is None or now.engine is not was.engine:
                self._gates[name].close()
                self._gates = {each: gate for each, gate in self._gates.items() if each != name}

    def _furnish(self, config: Config, fetched: "Fetched", old: "Furniture | None") -> "Furniture":
        """What a config decides, put together anew; nothing is connected yet."""
        clock = self._clock
        self.qualities.load(fetched.evals)
        land = self._survey(config, fetched.wires, None if old is None else old.land)
        router, catalogue = self._router(config, fetched.wires, land.offline)
        land.board.keep(router.configured)
        dice = Random()  # noqa: S311 - it draws targets and pauses, not secrets
        planner = Planner(router, land, models=config.models, routing=config.routing, clock=clock, dice=dice)
        preferences = Preferences(config.defaults, config.models, config.routing)
        admission = Admission(fetched.key_ring)
        failover = Failover(
            land, self._settlement, models=config.models, retry=config.routing.retry, clock=clock, dice=dice
        )
        door = Door(
            pipeline=Pipeline(admission, preferences, planner, failover, self._settlement, self._engine_changes),
            listing=Listing(admission, router, self._settlement, config.routing.reach),
            feedback=Feedback(admission, self._answered, self._settlement),
            readiness=Readiness(
                fetched.key_ring, self.engines.all, list(config.upstreams), self._metrics, land.offline
            ),
            administration=Administration(self.engines.by_name, self._log),
            explaining=Explaining(planner, preferences, land),
            reload=self.reload,
            limits=config.server,
            running=self.running,
            clock=clock,
            deadlines=Deadlines(),
        )
        prober = Prober(land, config=config.routing.health, clock=clock, log=self._log)
        return Furniture(config, land, door, prober, catalogue, fetched)

    def _survey(self, config: Config, wires: Mapping[str, Transport], old: Landscape | None) -> Landscape:
        """What there is; what is known of it stays known, unless it is to be found out in another way."""
        upstreams: dict[str, Upstream] = {
            name: hosts.host_upstream(name, host, wires[name]) for name, host in config.upstreams.items()
        }
        upstreams |= {name: hosts.engine_upstream(name, each) for name, each in self.engines.by_name.items()}
        self._close_gates()
        self._gates = hosts.open_gates(config, self.engines.by_name, self._clock, self._gates)
        for wire in (*wires.values(), *(each.transport for each in self.engines.by_name.values())):
            wire.credentials.use_health(config.routing.health)
        board = Board(self._clock, config.routing.health)
        if old is not None and self.config.routing.health == config.routing.health:
            board = old.board
        offline = Offline(self._clock, forced=config.routing.offline, names=list(config.upstreams))
        is_as_it_was = self.config.routing.offline == config.routing.offline
        if old is not None and is_as_it_was and list(self.config.upstreams) == list(config.upstreams):
            offline = old.offline
        return Landscape(
            upstreams=Upstreams(upstreams),
            gates={name: gate for name, gate in self._gates.items() if gate.limit is not None},
            board=board,
            offline=offline,
            qualities=self.qualities,
            memory=self._memory,
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
        return self._furniture.door.explaining.configured()

    def _engine_changed(self, name: str, status: EngineStatus) -> None:
        if status.state == "ready":
            self._furniture.land.board.readmit(name)
        self._engine_changes.tell()
        if self._on_engine_change is not None:
            self._on_engine_change(name, status)


class Fetched(Struct, frozen=True):
    """What one config wanted from outside.

    Attributes:
        wires: to hosts elsewhere; those that are as before are the ones of before.
        credentials: of the latter, what they are to show from now on.
    """

    key_ring: KeyRing
    evals: EvalFile | None
    wires: Mapping[str, Transport]
    credentials: Mapping[str, Sequence[Spec]]


class Furniture(Struct, frozen=True):
    """What was put together for one config; `fetched` is what that was made of."""

    config: Config
    land: Landscape
    door: Door
    prober: Prober
    catalogue: Catalogue
    fetched: Fetched

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
