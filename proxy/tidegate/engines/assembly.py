"""`Engines`: makes the engines of the config with their transports, and at run time changes them to a new config's.

Each replica is an engine of its own here (`config.replicas`). The replicas of one engine are replaced one at a time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, structs

from tidegate.clock import Clock
from tidegate.config.engines import EngineConfig, VllmConfig
from tidegate.config.replicas import engine_of, members
from tidegate.config.swap import SwapConfig
from tidegate.engines.base import Engine, EngineStatus
from tidegate.engines.changes import Changes, changes
from tidegate.engines.drainer import EngineDrainer
from tidegate.engines.factory import (
    EngineEntry,
    EngineFactory,
    EngineParts,
    OnEngineChange,
    apply_settings,
    check,
    with_new_settings,
)
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.process import orphans
from tidegate.engines.replica_rollout import Replica, next_to_retire, replica_state
from tidegate.engines.scrape import relabelled
from tidegate.engines.states import State
from tidegate.errors import ConfigError
from tidegate.telemetry.logs import Log

_SWAP = SwapConfig()
_STATES_WITH_METRICS: frozenset[State] = frozenset({"ready", "draining"})


class Prepared(Struct, frozen=True, kw_only=True):
    """The engines of a new config, made and checked; none of them runs, so the object can be thrown away.

    Attributes:
        changes: what `Engines.apply` will do.
        old_parts: the engines that the new config was compared with, by name.
        names: all engines of the new config, in its order.
        new_parts: the engines that are added, changed or adjusted, by name.
        swap: the new settings for engines that make room for each other; None: they do not change.
    """

    changes: Changes
    old_parts: Mapping[str, EngineParts]
    names: Sequence[str]
    new_parts: Mapping[str, EngineParts]
    swap: SwapConfig | None = None


class Engines:
    """Owner of the engines and of their transports; `open` and `close` are called once each.

    Args:
        configs: the config of each engine by name; each replica has its own entry.
        keys: the API keys of external engines, by engine name.
        clock: for health checks, idle times and cooldowns.
        log: for starts, ends and changes of engines.
        on_change: called with the name and the new status of an engine. It is not called for an engine that has been
            replaced by another one of the same name.
        on_replaced: called when a replica was replaced or removed after `apply` had returned, so `by_name` has changed.
        gpus: the GPUs of the machine; None: they are searched for.
        swap: the settings for engines that make room for each other.

    Attributes:
        by_name: the engines by name; a new mapping after each `apply`, and before each call of `on_replaced`.
    """

    def __init__(
        self,
        configs: Mapping[str, EngineConfig],
        *,
        keys: Mapping[str, Sequence[str]],
        clock: Clock,
        log: Log,
        on_change: OnEngineChange,
        on_replaced: Callable[[], None] = lambda: None,
        gpus: Sequence[Gpu] | None = None,
        swap: SwapConfig = _SWAP,
    ) -> None:
        self._log = log
        self._on_change = on_change
        self._on_replaced = on_replaced
        self._allocator = GpuAllocator(swap)
        self._drainer = EngineDrainer(self._allocator, self._replace_next)
        self._factory = EngineFactory(self._allocator, clock=clock, log=log, on_change=self._report_change, gpus=gpus)
        self._waiting: list[str] = list(configs)  # the names of engines that are not open yet
        self._old: list[str] = []  # the names of replicas that wait to be retired
        self._successors: dict[str, EngineParts] = {}  # what replaces the replicas in `_old`, by name
        self._halted: set[str] = set()  # engines whose replacement stopped at a failed replica, which was logged
        self._is_closed = False
        self._sweep_task: asyncio.Task[None] | None = None
        self._is_swept = False  # the processes of orphaned engines have been ended
        self._use_parts(
            {name: self._factory.make(name, config, keys.get(name, ())) for name, config in configs.items()}
        )

    @property
    def all(self) -> Sequence[Engine]:
        """All engines, in the order of the config."""
        return [entry.engine for entry in self.by_name.values()]

    @property
    def refusals(self) -> Mapping[str, str]:
        """Why an engine cannot run on this machine, by engine name; engines that can are not in it."""
        refusals = {name: parts.process.refusal for name, parts in self._parts.items() if parts.process is not None}
        return {name: refusal for name, refusal in refusals.items() if refusal is not None}

    def metrics(self) -> bytes:
        """Return the metrics that running engines last gave, each sample with the label `engine`."""
        return relabelled(
            {
                name: parts.control.metrics
                for name, parts in self._parts.items()
                if parts.entry.engine.status.state in _STATES_WITH_METRICS
            }
        )

    def adapter_names(self) -> Sequence[str]:
        """Return the LoRA adapters that requests can name now, as `engine/adapter`."""
        names = (f"{engine_of(name)}/{each}" for name, one in self.by_name.items() for each in _adapter_names(one))
        return list(dict.fromkeys(names))

    def open(self) -> None:
        """Start the engines that are set to start at once; returns at once, the engines become ready later."""
        self._open_waiting()

    async def close(self) -> None:
        """Stop all engines, including those that are being drained, and close the connections; never raises."""
        self._waiting, self._old, self._is_closed = [], [], True
        if self._sweep_task is not None:  # only ends the wait: the thread of the sweep runs to its end
            self._sweep_task.cancel()
        engines = [entry.engine.close() for entry in self.by_name.values()]
        await asyncio.gather(self._drainer.close(), *engines)
        await asyncio.gather(*(transport.close() for parts in self._parts.values() for transport in parts.transports))

    def prepare(
        self,
        configs: Mapping[str, EngineConfig],
        keys: Mapping[str, Sequence[str]],
        *,
        swap: SwapConfig | None = None,
        source: str = "config",
    ) -> Prepared:
        """Make the engines of a new config; changes nothing. Blocks while files of checkpoints are read.

        Args:
            configs: the config of every engine of the new config, by name.
            keys: the API keys of external engines, by engine name. If only the keys of an engine differ, the engine is
                kept and requests to it use the new keys.
            swap: see `Prepared`.
            source: the name of the config, for the error message.

        Raises:
            ConfigError: an engine that would have to be started cannot start.
        """
        found = changes({name: entry.config for name, entry in self.by_name.items()}, configs)
        renewed = [name for name in found.kept if list(self._parts[name].keys) != list(keys.get(name, ()))]
        found = structs.replace(
            found,
            adjusted=(*found.adjusted, *renewed),
            kept=tuple(name for name in found.kept if name not in renewed),
        )
        new_parts = {
            name: self._factory.make(name, config, keys.get(name, ()))
            for name, config in configs.items()
            if name not in found.kept
        }
        for name in (*found.added, *found.changed):
            check(name, new_parts[name], source)
        return Prepared(changes=found, old_parts=self._parts, names=list(configs), new_parts=new_parts, swap=swap)

    def is_current(self, prepared: Prepared) -> bool:
        """Return whether the engines are still those that `prepared` was compared with."""
        return prepared.old_parts is self._parts

    def apply(self, prepared: Prepared) -> None:
        """Change to the prepared engines; returns at once.

        Engines that are removed leave the routing at once, and end later. An engine that is changed starts when the old
        one has ended, as the GPUs may not have memory for both. Replicas are replaced one at a time
        (`replica_rollout`), and each stays in `by_name` until its turn. Engines that are kept are not touched.

        Raises:
            ConfigError: the engines have changed since `prepare`, or were closed; nothing was done.
        """
        old_parts, found = self._parts, prepared.changes
        if self._is_closed:
            raise ConfigError("the server is shutting down")
        if not self.is_current(prepared):
            raise ConfigError("the engines were changed meanwhile; reload once more")
        if prepared.swap is not None:
            self._allocator.set_swap(prepared.swap)
        staying = {name: with_new_settings(old_parts[name], prepared.new_parts[name]) for name in found.adjusted}
        self._old = [
            name for name in (*found.changed, *found.removed) if _is_replaced_in_turn(name, old_parts, prepared.names)
        ]
        self._successors = {name: prepared.new_parts[name] for name in found.changed if name in self._old}
        all_parts = {**old_parts, **prepared.new_parts, **staying, **{name: old_parts[name] for name in self._old}}
        self._use_parts({name: all_parts[name] for name in dict.fromkeys((*prepared.names, *self._old))})
        for name in found.added:
            self._adopt_adapters(name)
        at_once = [name for name in (*found.removed, *found.changed) if name not in self._old]
        waiting = (*self._waiting, *found.added, *at_once)
        self._waiting = [name for name in self._parts if name in waiting]
        for name in at_once:
            self._drainer.begin(old_parts[name])
        for name, parts in staying.items():
            apply_settings(parts)
            if name not in self._waiting:
                self._register(parts)
        for change in ("added", "removed", "changed", "adjusted"):
            for name in getattr(found, change):
                self._log.info(f"engine {change}", engine=name)
        self._advance_rollouts()
        self._open_waiting()

    # --- replicas, one at a time ----------------------------------------------------------------------------------

    def _replace_next(self) -> None:
        """Retire the replicas whose turn has come, and open the engines that no longer have to wait."""
        has_retired = self._advance_rollouts()
        self._open_waiting()
        if has_retired:
            self._on_replaced()

    def _advance_rollouts(self) -> bool:
        """Retire the replicas whose turn has come; returns whether there were any."""
        has_retired = False
        for engine in dict.fromkeys(map(engine_of, self._old)):
            while names := self._retirable(engine):
                has_retired = True
                for name in names:
                    self._retire(name)
        return has_retired

    def _retirable(self, engine: str) -> Sequence[str]:
        """Return the replicas of the engine that may be retired now; logs once if a failed one prevents that."""
        names = members(engine, self._parts)
        old = [self._replica(name) for name in names if name in self._old]
        staying = [self._replica(name) for name in names if name not in self._old and not self._is_blocked(name)]
        failed = next((replica.name for replica in staying if replica.state == "failed"), None)
        if failed is None:
            self._halted.discard(engine)
        elif old and engine not in self._halted:
            self._halted.add(engine)
            self._log.error(
                "replicas not replaced", engine=engine, reason=f"{failed} has failed; the others stay as they were"
            )
        return next_to_retire(old, staying)

    def _replica(self, name: str) -> Replica:
        engine = self.by_name[name].engine
        return Replica(name, replica_state(engine.status.state, engine.availability))

    def _retire(self, name: str) -> None:
        """Retire a replica; its successor, if there is one, takes over its name."""
        old, new = self._parts[name], self._successors.pop(name, None)
        self._old.remove(name)
        self._waiting = [each for each in self._waiting if each != name]
        all_parts = {each: parts for each, parts in self._parts.items() if each != name or new is not None}
        if new is not None:
            self._use_parts(all_parts | {name: new})
            self._waiting.append(name)
            self._adopt_adapters(name)
            # the old one was in use, so its successor is loaded even if it starts on demand
            if old.entry.engine.status.state == "ready":
                new.entry.engine.load()
        else:
            self._use_parts(all_parts)
        self._drainer.begin(old)
        self._log.info("replica retired", engine=name, is_replaced=new is not None)

    def _adopt_adapters(self, name: str) -> None:
        """Let a new replica load the adapters that the administrator has loaded into the other replicas."""
        new = self.by_name[name].adapters
        others = [self.by_name[other].adapters for other in members(engine_of(name), self.by_name) if other != name]
        loaded = next((other.paths for other in others if other is not None and other.paths), {})
        if new is not None:
            new.adopt(loaded)

    def _is_blocked(self, name: str) -> bool:
        """Return whether an engine waits for the GPUs of a replica that is not retired yet."""
        if name not in self._waiting:
            return False
        gpus = _gpus_of(self._parts[name])
        retiring = [old for old in self._old if old != name and engine_of(old) == engine_of(name)]
        return any(gpus & _gpus_of(self._parts[old]) for old in retiring)

    # --- all engines ----------------------------------------------------------------------------------------------

    def _use_parts(self, all_parts: Mapping[str, EngineParts]) -> None:
        self._parts = all_parts
        self.by_name: Mapping[str, EngineEntry] = {name: parts.entry for name, parts in all_parts.items()}

    def _open_waiting(self) -> None:
        """Open the waiting engines that can be opened now.

        A managed engine waits until orphaned engine processes were ended, until no process of an older engine of the
        same name is left, and until a replica whose GPUs it needs has been retired.
        """
        if self._sweep_task is None and any(self._parts[name].process is not None for name in self._waiting):
            self._sweep_task = asyncio.create_task(self._sweep(), name="engines orphaned")
        if self._sweep_task is not None and not self._is_swept:
            return
        free = [
            name
            for name in self._waiting
            if self._parts[name].process is None or not (self._drainer.holds(name) or self._is_blocked(name))
        ]
        self._waiting = [name for name in self._waiting if name not in free]
        for name in free:
            self._register(self._parts[name])
            self._parts[name].entry.engine.open(self._parts[name].control)

    async def _sweep(self) -> None:
        await orphans.kill_and_log_orphans(self._log)
        self._is_swept = True
        self._open_waiting()

    def _register(self, parts: EngineParts) -> None:
        """Register a managed engine, or its new needs, at the allocator; an external engine takes no GPUs."""
        if parts.process is not None:
            self._allocator.register(parts.process.supervisor, parts.process.needs)

    def _report_change(self, name: str, status: EngineStatus) -> None:
        """Pass on the new status of an engine, unless another engine has its name now."""
        parts = self._parts.get(name)
        if parts is None or parts.entry.engine.status is status:
            self._on_change(name, status)
        if self._old:
            self._replace_next()


def _is_replaced_in_turn(name: str, old_parts: Mapping[str, EngineParts], after: Sequence[str]) -> bool:
    """Return whether a replica is retired in its turn, not at once.

    That is so if the new config still has the engine, and both configs together have several replicas of it.
    """
    engine = engine_of(name)
    return bool(members(engine, after)) and len({*members(engine, old_parts), *members(engine, after)}) > 1


def _gpus_of(parts: EngineParts) -> frozenset[int]:
    return frozenset() if parts.process is None else frozenset(parts.process.needs.awake)


def _adapter_names(entry: EngineEntry) -> Sequence[str]:
    """Return the names of an engine's adapters: first those of the config, then those that were loaded at run time."""
    fixed = entry.config.adapters if isinstance(entry.config, VllmConfig) else ()
    loaded = () if entry.adapters is None else entry.adapters.names
    return list(dict.fromkeys((*fixed, *loaded)))
