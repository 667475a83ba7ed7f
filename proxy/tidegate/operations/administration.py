"""What the administrator is shown of the engines, and what they are told."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tidegate.config.engines import EngineConfig, EngineKindName, ExternalConfig, kind_of, source_of
from tidegate.config.replicas import members
from tidegate.config.root import NAME_CURE, is_name
from tidegate.engines.base import Engine, EngineError, Goal, Load, Progress
from tidegate.engines.states import State
from tidegate.errors import Conflict, EngineNotFound, MalformedRequest
from tidegate.telemetry.logs import Log


class EngineAdapters(Protocol):
    """What can be loaded while an engine runs (see `tidegate.engines.vllm.adapters`); both say what the engine said."""

    async def load(self, name: str, path: str) -> str:
        """Raises `ProxyError`."""

    async def unload(self, name: str) -> str:
        """Raises `ProxyError`."""


class AdministeredEngine(Protocol):
    """An engine and what belongs to it (see `tidegate.engines.assembly.ConnectedEngine`)."""

    @property
    def engine(self) -> Engine:
        """Itself."""

    @property
    def config(self) -> EngineConfig:
        """What the config says."""

    @property
    def adapters(self) -> EngineAdapters | None:
        """None where the config does not let them come and go."""


class EngineReport(Struct, frozen=True, kw_only=True):
    """What is known of one engine, see `EngineStatus` and `Load`.

    Attributes:
        in_flight: how many of our requests are in it.
        load: what its metrics say.
        waiting: how many of our requests wait until it takes requests, as it loads or makes room for another engine.
    """

    name: str
    kind: EngineKindName
    model: str
    state: State
    reason: str
    progress: Progress | None
    left_s: float | None
    restarts: int
    in_flight: int
    load: Load
    waiting: int = 0  # servers of older versions have neither this field
    attempts: int = 0  # nor this one


class EngineList(Struct, frozen=True):
    """Reports of every engine, or of every replica of one, in the order of the config."""

    engines: Sequence[EngineReport]


class ReloadReport(Struct, frozen=True):
    """What a new config has changed.

    Attributes:
        changed: a line for each key.
        needs_restart: those of these lines that hold from the next start on only.
        notes: what in the config does nothing, or perhaps not what was meant.
    """

    changed: Sequence[str]
    needs_restart: Sequence[str]
    notes: Sequence[str] = ()


class Administration:
    """Reads and tells; holds nothing of its own. Whoever calls has made sure that the administrator asks.

    The name of an engine that has replicas means all of them, the name of a replica that one.

    Args:
        engines: by name, replicas one by one.
        log: keeps what they were told.
    """

    def __init__(self, engines: Mapping[str, AdministeredEngine], log: Log) -> None:
        self._engines = engines
        self._log = log

    def list(self) -> EngineList:
        """Every engine."""
        return EngineList([_report(name, entry) for name, entry in self._engines.items()])

    def report(self, name: str) -> EngineReport | EngineList:
        """One engine, or its replicas.

        Raises:
            EngineNotFound: there is none of that name.
        """
        return _reports(name, self._find(name))

    def tell(self, name: str, goal: Goal) -> EngineReport | EngineList:
        """Say what the engine is to do; it does so by and by.

        Raises:
            EngineNotFound: there is none of that name.
            Conflict: this one, or none of its replicas, can be told so.
        """
        found, refusals = self._find(name), []
        for entry in found.values():
            try:
                entry.engine.want(goal)
            except EngineError as error:
                refusals.append(error)
        if len(refusals) == len(found):
            raise Conflict(_sentence(refusals[0])) from refusals[0]
        self._log.info("engine told", engine=name, goal=goal)
        return _reports(name, found)

    def output(self, name: str) -> str:
        """The end of what the engine has written.

        Raises:
            EngineNotFound: there is none of that name.
            Conflict: it writes elsewhere.
        """
        found = self._find(name)
        if any(isinstance(entry.config, ExternalConfig) for entry in found.values()):
            raise Conflict(f"The engine {name} is run by somebody else, who has its output.")
        lines = []
        for each, entry in found.items():
            lines += [f"==> {each} <=="] * (each != name) + list(entry.engine.lines)
        return "".join(f"{line}\n" for line in lines)

    async def load_adapter(self, name: str, adapter: str, path: str) -> str:
        """Load a LoRA adapter into the engine, or each of its replicas, started if need be; returns its answer.

        Raises:
            EngineNotFound, Conflict: no such engine, or none whose adapters come and go.
            MalformedRequest: the adapter's name is not allowed.
            EngineUnavailable, UpstreamError: it does not run, does not want it, or failed.
        """
        told = ""
        for each, entry in self._find(name).items():
            adapters = _adapters(each, entry)
            if not is_name(adapter):
                raise MalformedRequest(f"'{adapter[:80]}' is not a usable name: {NAME_CURE}.", param="name")
            leave = await entry.engine.enter(can_wait=True)
            try:
                told = await adapters.load(adapter, path)
            finally:
                leave()
            self._log.info("adapter loaded", engine=each, adapter=adapter)
        return told

    async def unload_adapter(self, name: str, adapter: str) -> str:
        """Unload one; what the engine says to that.

        Raises:
            ProxyError: as `load_adapter`.
        """
        told = ""
        for each, entry in self._find(name).items():
            adapters = _adapters(each, entry)
            leave = await entry.engine.enter(can_wait=True)
            try:
                told = await adapters.unload(adapter)
            finally:
                leave()
            self._log.info("adapter unloaded", engine=each, adapter=adapter)
        return told

    def _find(self, name: str) -> Mapping[str, AdministeredEngine]:
        """The engine or its replicas, by their own names."""
        found = {each: self._engines[each] for each in members(name, self._engines)}
        if not found:
            raise EngineNotFound(f"There is no engine '{name[:64]}' here.")
        return found


def _reports(name: str, found: Mapping[str, AdministeredEngine]) -> EngineReport | EngineList:
    reports = [_report(each, entry) for each, entry in found.items()]
    return reports[0] if list(found) == [name] else EngineList(reports)


def _report(name: str, entry: AdministeredEngine) -> EngineReport:
    status = entry.engine.status
    return EngineReport(
        name=name,
        kind=kind_of(entry.config),
        model=source_of(entry.config),
        state=status.state,
        reason=status.reason,
        progress=status.progress,
        left_s=status.left_s,
        restarts=status.restarts,
        attempts=status.attempts,
        in_flight=entry.engine.slots.taken,
        load=entry.engine.observed_load.load,
        waiting=entry.engine.slots.waiting,
    )


def _adapters(name: str, entry: AdministeredEngine) -> EngineAdapters:
    if entry.adapters is None:
        raise Conflict(f"The adapters of the engine {name} are fixed: set its runtime_adapters to change them.")
    return entry.adapters


def _sentence(error: EngineError) -> str:
    told = str(error)
    return f"{told[:1].upper()}{told[1:]}."
