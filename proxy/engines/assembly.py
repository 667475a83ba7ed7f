"""`Engines`: every engine of the config put together, with its wires; and another set of them while they run."""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from proxy.clock import Clock
from proxy.config.engines import EngineConfig, VllmConfig
from proxy.config.swap import SwapConfig
from proxy.engines import orphans
from proxy.engines.base import Engine, EngineStatus
from proxy.engines.changes import Changes, changes
from proxy.engines.gpus import Gpu
from proxy.engines.life import State
from proxy.engines.retirement import Retirement
from proxy.engines.scrape import relabelled
from proxy.engines.sharing import Sharing
from proxy.engines.workshop import Assembled, OnEngineChange, Piece, Workshop, check, going_on, treat
from proxy.errors import ConfigError
from proxy.telemetry.logs import Log

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
    before: Mapping[str, Piece]
    names: Sequence[str]
    made: Mapping[str, Piece]
    swap: SwapConfig | None = None


class Engines:
    """Owner of the engines and of their wires; `open` and `close` are called once each.

    Args:
        configs: by name.
        keys: of those that somebody else runs, by name.
        on_change: told the name and the new status of an engine; not of one whose name another one has now.
        gpus: the machine's; where omitted they are looked for.
        swap: how engines make room for each other.

    Attributes:
        by_name: the engines; another mapping after each `apply`.
    """

    def __init__(
        self,
        configs: Mapping[str, EngineConfig],
        *,
        keys: Mapping[str, Sequence[str]],
        clock: Clock,
        log: Log,
        on_change: OnEngineChange,
        gpus: Sequence[Gpu] | None = None,
        swap: SwapConfig = _SWAP,
    ) -> None:
        self._log = log
        self._on_change = on_change
        self._sharing = Sharing(swap)
        self._retirement = Retirement(self._sharing, self._open_waiting)
        self._workshop = Workshop(self._sharing, clock=clock, log=log, on_change=self._tell, gpus=gpus)
        self._waiting: list[str] = list(configs)  # those that are not open yet
        self._is_closed = False
        self._sweeping: asyncio.Task[None] | None = None
        self._is_swept = False  # see `orphans`
        self._hold({name: self._workshop.make(name, config, keys.get(name, ())) for name, config in configs.items()})

    @property
    def all(self) -> Sequence[Engine]:
        """In the order of the config."""
        return [assembled.engine for assembled in self.by_name.values()]

    @property
    def refusals(self) -> Mapping[str, str]:
        """By engine, why it cannot run on this machine."""
        refusals = {name: piece.process.refusal for name, piece in self._pieces.items() if piece.process is not None}
        return {name: refusal for name, refusal in refusals.items() if refusal is not None}

    def metrics(self) -> bytes:
        """What those that run last told of themselves, each sample under its engine's name."""
        return relabelled(
            {
                name: piece.control.metrics
                for name, piece in self._pieces.items()
                if piece.assembled.engine.status.state in _TELLING
            }
        )

    def adapter_names(self) -> Sequence[str]:
        """The LoRA adapters that can be asked for now, as `engine/name`."""
        return [f"{name}/{adapter}" for name, assembled in self.by_name.items() for adapter in _names(assembled)]

    def open(self) -> None:
        """Start those that start at once; returns at once, they become ready by and by."""
        self._open_waiting()

    async def close(self) -> None:
        """Stop the engines, those too that are on their way out, close the connections; never raises."""
        self._waiting, self._is_closed = [], True
        if self._sweeping is not None:  # its thread goes on
            self._sweeping.cancel()
        engines = [assembled.engine.close() for assembled in self.by_name.values()]
        await asyncio.gather(self._retirement.close(), *engines)
        await asyncio.gather(*(wire.close() for piece in self._pieces.values() for wire in piece.wires))

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
        found = changes({name: assembled.config for name, assembled in self.by_name.items()}, configs)
        renewed = [name for name in found.kept if list(self._pieces[name].keys) != list(keys.get(name, ()))]
        found = structs.replace(
            found,
            adjusted=(*found.adjusted, *renewed),
            kept=tuple(name for name in found.kept if name not in renewed),
        )
        made = {
            name: self._workshop.make(name, config, keys.get(name, ()))
            for name, config in configs.items()
            if name not in found.kept
        }
        for name in (*found.added, *found.changed):
            check(name, made[name], source)
        return Prepared(changes=found, before=self._pieces, names=list(configs), made=made, swap=swap)

    def apply(self, prepared: Prepared) -> None:
        """Have the prepared set from now on; returns at once.

        Those that go are out of routing and end by and by; one that is changed starts when the old one has ended, as
        both might not fit. Those that are kept are not touched.

        Raises:
            ConfigError: there is another set meanwhile than the one it was compared with, or they were closed;
                nothing was done.
        """
        before, found = self._pieces, prepared.changes
        if self._is_closed:
            raise ConfigError("the server is going down")
        if prepared.before is not before:
            raise ConfigError("the engines were changed meanwhile; reload once more")
        if prepared.swap is not None:
            self._sharing.use(prepared.swap)
        staying = {name: going_on(before[name], prepared.made[name]) for name in found.adjusted}
        self._hold({name: staying.get(name) or prepared.made.get(name) or before[name] for name in prepared.names})
        self._waiting = [name for name in prepared.names if name in (*found.added, *found.changed, *self._waiting)]
        for name in (*found.removed, *found.changed):
            self._retirement.begin(before[name])
        for name, piece in staying.items():
            treat(piece)
            if name not in self._waiting:
                self._admit(piece)
        for change in ("added", "removed", "changed", "adjusted"):
            for name in getattr(found, change):
                self._log.info(f"engine {change}", engine=name)
        self._open_waiting()

    def _hold(self, pieces: Mapping[str, Piece]) -> None:
        self._pieces = pieces
        self.by_name: Mapping[str, Assembled] = {name: piece.assembled for name, piece in pieces.items()}

    def _open_waiting(self) -> None:
        """Open those in whose way no process stands that has their name; the first ours when no orphan is left."""
        if self._sweeping is None and any(self._pieces[name].process is not None for name in self._waiting):
            self._sweeping = asyncio.create_task(self._sweep(), name="engines orphaned")
        if self._sweeping is not None and not self._is_swept:
            return
        free = [
            name for name in self._waiting if self._pieces[name].process is None or not self._retirement.holds(name)
        ]
        self._waiting = [name for name in self._waiting if name not in free]
        for name in free:
            self._admit(self._pieces[name])
            self._pieces[name].assembled.engine.open(self._pieces[name].control)

    async def _sweep(self) -> None:
        await orphans.sweep(self._log)
        self._is_swept = True
        self._open_waiting()

    def _admit(self, piece: Piece) -> None:
        if piece.process is not None:
            self._sharing.admit(piece.process.supervisor, piece.process.needs)

    def _tell(self, name: str, status: EngineStatus) -> None:
        """Pass on what an engine says; not what one says whose name another one has now."""
        piece = self._pieces.get(name)
        if piece is None or piece.assembled.engine.status is status:
            self._on_change(name, status)


def _names(assembled: Assembled) -> Sequence[str]:
    """Of its adapters: those of the config, then those that were loaded since."""
    fixed = assembled.config.adapters if isinstance(assembled.config, VllmConfig) else ()
    loaded = () if assembled.adapters is None else assembled.adapters.names
    return list(dict.fromkeys((*fixed, *loaded)))
