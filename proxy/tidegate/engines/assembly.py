"""`Engines`: every engine of the config put together, with its wires; and another set of them while they run.

Each replica is an engine of its own here (`config.replicas`); those of one engine are replaced one at a time.
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
from tidegate.engines.factory import ConnectedEngine, EngineFactory, EngineParts, OnEngineChange, check, going_on, treat
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.process import orphans
from tidegate.engines.rollout import Replica, next_to_retire, replica_state
from tidegate.engines.scrape import relabelled
from tidegate.engines.states import State
from tidegate.errors import ConfigError
from tidegate.telemetry.logs import Log

_SWAP = SwapConfig()
_TELLING: frozenset[State] = frozenset({"ready", "draining"})


class Prepared(Struct, frozen=True, kw_only=True):
    """Another set of engines, checked and made; nothing of it runs, so it can be thrown away.

    Attributes:
        changes: what `Engines.apply` will do.
        before: the set that it was compared with.
        names: all of them, in the order of the config.
        made: those that are added, changed or adjusted.
        swap: how engines make room for each other from then on; None: as before.
    """

    changes: Changes
    before: Mapping[str, EngineParts]
    names: Sequence[str]
    made: Mapping[str, EngineParts]
    swap: SwapConfig | None = None


class Engines:
    """Owner of the engines and of their wires; `open` and `close` are called once each.

    Args:
        configs: by name, replicas one by one.
        keys: of those that somebody else runs, by name.
        on_change: told the name and the new status of an engine; not of one whose name another one has now.
        on_replaced: called after `by_name` has changed without `apply`: a replica was replaced in its turn.
        gpus: the machine's; where omitted they are looked for.
        swap: how engines make room for each other.

    Attributes:
        by_name: the engines; another mapping after each `apply` and before each `on_replaced`.
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
        self._drainer = EngineDrainer(self._allocator, self._continue)
        self._factory = EngineFactory(self._allocator, clock=clock, log=log, on_change=self._tell, gpus=gpus)
        self._waiting: list[str] = list(configs)  # those that are not open yet
        self._old: list[str] = []  # replicas that are to be retired, each in its turn
        self._next: dict[str, EngineParts] = {}  # what replaces them, by name
        self._halted: set[str] = set()  # engines whose new replicas failed, as was logged
        self._is_closed = False
        self._sweeping: asyncio.Task[None] | None = None
        self._is_swept = False  # orphaned engines were looked for
        self._hold({name: self._factory.make(name, config, keys.get(name, ())) for name, config in configs.items()})

    @property
    def all(self) -> Sequence[Engine]:
        """In the order of the config."""
        return [connected.engine for connected in self.by_name.values()]

    @property
    def refusals(self) -> Mapping[str, str]:
        """By engine, why it cannot run on this machine."""
        refusals = {name: parts.process.refusal for name, parts in self._parts.items() if parts.process is not None}
        return {name: refusal for name, refusal in refusals.items() if refusal is not None}

    def metrics(self) -> bytes:
        """What those that run last told of themselves, each sample under its engine's name."""
        return relabelled(
            {
                name: parts.control.metrics
                for name, parts in self._parts.items()
                if parts.connected.engine.status.state in _TELLING
            }
        )

    def adapter_names(self) -> Sequence[str]:
        """The LoRA adapters that can be asked for now, as `engine/name`."""
        names = (f"{engine_of(name)}/{each}" for name, one in self.by_name.items() for each in _names(one))
        return list(dict.fromkeys(names))

    def open(self) -> None:
        """Start those that start at once; returns at once, they become ready by and by."""
        self._open_waiting()

    async def close(self) -> None:
        """Stop the engines, those too that are on their way out, close the connections; never raises."""
        self._waiting, self._old, self._is_closed = [], [], True
        if self._sweeping is not None:  # ends the wait; its thread runs to its end
            self._sweeping.cancel()
        engines = [connected.engine.close() for connected in self.by_name.values()]
        await asyncio.gather(self._drainer.close(), *engines)
        await asyncio.gather(*(wire.close() for parts in self._parts.values() for wire in parts.wires))

    def prepare(
        self,
        configs: Mapping[str, EngineConfig],
        keys: Mapping[str, Sequence[str]],
        *,
        swap: SwapConfig | None = None,
        source: str = "config",
    ) -> Prepared:
        """Make what another config wants; blocks while checkpoints are looked at, and changes nothing.

        Args:
            configs: by name; all of them, as at first.
            keys: as at first; others than before go on being sent to an engine that is otherwise kept.
            swap: see `Prepared`.
            source: where they come from, for refusals.

        Raises:
            ConfigError: an engine that would have to start could not.
        """
        found = changes({name: connected.config for name, connected in self.by_name.items()}, configs)
        renewed = [name for name in found.kept if list(self._parts[name].keys) != list(keys.get(name, ()))]
        found = structs.replace(
            found,
            adjusted=(*found.adjusted, *renewed),
            kept=tuple(name for name in found.kept if name not in renewed),
        )
        made = {
            name: self._factory.make(name, config, keys.get(name, ()))
            for name, config in configs.items()
            if name not in found.kept
        }
        for name in (*found.added, *found.changed):
            check(name, made[name], source)
        return Prepared(changes=found, before=self._parts, names=list(configs), made=made, swap=swap)

    def is_current(self, prepared: Prepared) -> bool:
        """Whether the engines are still those that it was compared with."""
        return prepared.before is self._parts

    def apply(self, prepared: Prepared) -> None:
        """Have the prepared set from now on; returns at once.

        Those that go are out of routing and end by and by; one that is changed starts when the old one has ended, as
        both might not fit. Replicas are replaced one at a time (`rollout`); each stays in `by_name` until its turn.
        Those that are kept are not touched.

        Raises:
            ConfigError: there is another set meanwhile than the one it was compared with, or they were closed;
                nothing was done.
        """
        before, found = self._parts, prepared.changes
        if self._is_closed:
            raise ConfigError("the server is going down")
        if not self.is_current(prepared):
            raise ConfigError("the engines were changed meanwhile; reload once more")
        if prepared.swap is not None:
            self._allocator.use(prepared.swap)
        staying = {name: going_on(before[name], prepared.made[name]) for name in found.adjusted}
        self._old = [name for name in (*found.changed, *found.removed) if _is_in_turn(name, before, prepared.names)]
        self._next = {name: prepared.made[name] for name in found.changed if name in self._old}
        all_parts = {**before, **prepared.made, **staying, **{name: before[name] for name in self._old}}
        self._hold({name: all_parts[name] for name in dict.fromkeys((*prepared.names, *self._old))})
        for name in found.added:
            self._adopt_adapters(name)
        at_once = [name for name in (*found.removed, *found.changed) if name not in self._old]
        waiting = (*self._waiting, *found.added, *at_once)
        self._waiting = [name for name in self._parts if name in waiting]
        for name in at_once:
            self._drainer.begin(before[name])
        for name, parts in staying.items():
            treat(parts)
            if name not in self._waiting:
                self._admit(parts)
        for change in ("added", "removed", "changed", "adjusted"):
            for name in getattr(found, change):
                self._log.info(f"engine {change}", engine=name)
        self._advance_rollouts()
        self._open_waiting()

    # --- replicas, one at a time ----------------------------------------------------------------------------------

    def _continue(self) -> None:
        """Do what may have become possible: retire the next replicas, open the engines that wait."""
        has_retired = self._advance_rollouts()
        self._open_waiting()
        if has_retired:
            self._on_replaced()

    def _advance_rollouts(self) -> bool:
        """Retire the replicas whose turn it is; returns whether there were any."""
        has_retired = False
        for engine in dict.fromkeys(map(engine_of, self._old)):
            while names := self._next_of(engine):
                has_retired = True
                for name in names:
                    self._retire(name)
        return has_retired

    def _next_of(self, engine: str) -> Sequence[str]:
        """The replicas of the engine that may be retired now."""
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
        """Retire a replica, and put its successor in its place, if there is one."""
        old, new = self._parts[name], self._next.pop(name, None)
        self._old.remove(name)
        self._waiting = [each for each in self._waiting if each != name]
        all_parts = {each: parts for each, parts in self._parts.items() if each != name or new is not None}
        if new is not None:
            self._hold(all_parts | {name: new})
            self._waiting.append(name)
            self._adopt_adapters(name)
            if old.connected.engine.status.state == "ready":  # also one that starts on demand: the old one was in use
                new.connected.engine.load()
        else:
            self._hold(all_parts)
        self._drainer.begin(old)
        self._log.info("replica retired", engine=name, is_replaced=new is not None)

    def _adopt_adapters(self, name: str) -> None:
        """Have a new replica load the adapters that the administrator has loaded into the others."""
        new = self.by_name[name].adapters
        others = [self.by_name[other].adapters for other in members(engine_of(name), self.by_name) if other != name]
        loaded = next((other.paths for other in others if other is not None and other.paths), {})
        if new is not None:
            new.adopt(loaded)

    def _is_blocked(self, name: str) -> bool:
        """Whether it waits for the GPUs of a replica that is not retired yet."""
        if name not in self._waiting:
            return False
        gpus = _gpus_of(self._parts[name])
        olds = [old for old in self._old if old != name and engine_of(old) == engine_of(name)]
        return any(gpus & _gpus_of(self._parts[old]) for old in olds)

    # --- all engines ----------------------------------------------------------------------------------------------

    def _hold(self, all_parts: Mapping[str, EngineParts]) -> None:
        self._parts = all_parts
        self.by_name: Mapping[str, ConnectedEngine] = {name: parts.connected for name, parts in all_parts.items()}

    def _open_waiting(self) -> None:
        """Open those whose name no process that ends still has; processes of ours only after orphans were ended."""
        if self._sweeping is None and any(self._parts[name].process is not None for name in self._waiting):
            self._sweeping = asyncio.create_task(self._sweep(), name="engines orphaned")
        if self._sweeping is not None and not self._is_swept:
            return
        free = [
            name
            for name in self._waiting
            if self._parts[name].process is None or not (self._drainer.holds(name) or self._is_blocked(name))
        ]
        self._waiting = [name for name in self._waiting if name not in free]
        for name in free:
            self._admit(self._parts[name])
            self._parts[name].connected.engine.open(self._parts[name].control)

    async def _sweep(self) -> None:
        await orphans.sweep(self._log)
        self._is_swept = True
        self._open_waiting()

    def _admit(self, parts: EngineParts) -> None:
        if parts.process is not None:
            self._allocator.admit(parts.process.supervisor, parts.process.needs)

    def _tell(self, name: str, status: EngineStatus) -> None:
        """Pass on what an engine says; not what one says whose name another one has now."""
        parts = self._parts.get(name)
        if parts is None or parts.connected.engine.status is status:
            self._on_change(name, status)
        if self._old:
            self._continue()


def _is_in_turn(name: str, before: Mapping[str, EngineParts], after: Sequence[str]) -> bool:
    """Whether it is retired in its turn: it is one of several replicas, and some of them stay."""
    engine = engine_of(name)
    return bool(members(engine, after)) and len({*members(engine, before), *members(engine, after)}) > 1


def _gpus_of(parts: EngineParts) -> frozenset[int]:
    return frozenset() if parts.process is None else frozenset(parts.process.needs.awake)


def _names(connected: ConnectedEngine) -> Sequence[str]:
    """Of its adapters: those of the config, then those that were loaded since."""
    fixed = connected.config.adapters if isinstance(connected.config, VllmConfig) else ()
    loaded = () if connected.adapters is None else connected.adapters.names
    return list(dict.fromkeys((*fixed, *loaded)))
