"""`EngineAdministration`: shows the state of the engines to the administrator, and controls the engines."""

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
    """Loads and unloads LoRA adapters while an engine runs (see `tidegate.engines.vllm.adapters`)."""

    async def load(self, name: str, path: str) -> str:
        """Load the adapter at `path` and return the engine's reply; raises `ProxyError`."""

    async def unload(self, name: str) -> str:
        """Unload the adapter and return the engine's reply; raises `ProxyError`."""


class AdministeredEngine(Protocol):
    """An engine with its config and adapters (see `tidegate.engines.factory.EngineEntry`)."""

    @property
    def engine(self) -> Engine:
        """The engine."""

    @property
    def config(self) -> EngineConfig:
        """The engine's section of the config."""

    @property
    def adapters(self) -> EngineAdapters | None:
        """Loads and unloads adapters; None if the engine's config has no `runtime_adapters`."""


class EngineReport(Struct, frozen=True, kw_only=True):
    """The state of one engine, as JSON; for the fields see `EngineStatus` and `Load`.

    Attributes:
        in_flight: the number of Tidegate's requests in the engine.
        load: the load that the engine's metrics report.
        waiting: the number of Tidegate's requests that wait until the engine takes requests, as it loads or has given
            its GPU memory to another engine.
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
    waiting: int = 0  # the defaults are for the CLI: servers of older versions do not send these two fields
    attempts: int = 0


class EngineList(Struct, frozen=True):
    """The reports of all engines, or of all replicas of one engine, in the order of the config."""

    engines: Sequence[EngineReport]


class ReloadReport(Struct, frozen=True):
    """What the reload of the config has changed, as JSON.

    Attributes:
        changed: a line for each key that has changed.
        needs_restart: those of these lines that take effect only at the next start.
        notes: advice on keys that have no effect, or probably another effect than intended.
    """

    changed: Sequence[str]
    needs_restart: Sequence[str]
    notes: Sequence[str] = ()


class EngineAdministration:
    """Reads and controls the engines; has no state of its own.

    The code that calls a method must have authenticated the administrator.

    The name of an engine with replicas means all of them; the name of a replica means that one.

    Args:
        engines: the engines by name, each replica under its own name.
        log: where orders are logged.
    """

    def __init__(self, engines: Mapping[str, AdministeredEngine], log: Log) -> None:
        self._engines = engines
        self._log = log

    def list(self) -> EngineList:
        """The reports of all engines."""
        return EngineList([_report(name, entry) for name, entry in self._engines.items()])

    def report(self, name: str) -> EngineReport | EngineList:
        """The report of one engine, or of its replicas.

        Raises:
            EngineNotFound: no engine has that name.
        """
        return _reports(name, self._find(name))

    def set_goal(self, name: str, goal: Goal) -> EngineReport | EngineList:
        """Set the goal of the engine and return its report; the engine reaches the goal later.

        Raises:
            EngineNotFound: no engine has that name.
            Conflict: the engine, or every one of its replicas, cannot do that.
        """
        found, refusals = self._find(name), []
        for entry in found.values():
            try:
                entry.engine.set_goal(goal)
            except EngineError as error:
                refusals.append(error)
        if len(refusals) == len(found):
            raise Conflict(_as_sentence(refusals[0])) from refusals[0]
        self._log.info("engine goal set", engine=name, goal=goal)
        return _reports(name, found)

    def output(self, name: str) -> str:
        """The last lines of the engine's output.

        Raises:
            EngineNotFound: no engine has that name.
            Conflict: Tidegate does not start the engine, so it does not have its output.
        """
        found = self._find(name)
        if any(isinstance(entry.config, ExternalConfig) for entry in found.values()):
            raise Conflict(f"The engine {name} was not started by Tidegate, so its output is not known here.")
        lines = []
        for each, entry in found.items():
            lines += [f"==> {each} <=="] * (each != name) + list(entry.engine.lines)
        return "".join(f"{line}\n" for line in lines)

    async def load_adapter(self, name: str, adapter: str, path: str) -> str:
        """Load a LoRA adapter into the engine, or into each of its replicas; return the engine's reply.

        An engine that does not run is started first.

        Raises:
            EngineNotFound: no engine has that name.
            Conflict: the engine's config has no `runtime_adapters`.
            MalformedRequest: the adapter's name is not allowed.
            EngineUnavailable, UpstreamError: the engine could not be started, refused the adapter, or failed.
        """
        reply = ""
        for each, entry in self._find(name).items():
            adapters = _adapters(each, entry)
            if not is_name(adapter):
                raise MalformedRequest(f"'{adapter[:80]}' is not a usable name: {NAME_CURE}.", param="name")
            release_slot = await entry.engine.acquire_slot(can_wait=True)
            try:
                reply = await adapters.load(adapter, path)
            finally:
                release_slot()
            self._log.info("adapter loaded", engine=each, adapter=adapter)
        return reply

    async def unload_adapter(self, name: str, adapter: str) -> str:
        """Unload a LoRA adapter; return the engine's reply.

        Raises:
            ProxyError: as for `load_adapter`.
        """
        reply = ""
        for each, entry in self._find(name).items():
            adapters = _adapters(each, entry)
            release_slot = await entry.engine.acquire_slot(can_wait=True)
            try:
                reply = await adapters.unload(adapter)
            finally:
                release_slot()
            self._log.info("adapter unloaded", engine=each, adapter=adapter)
        return reply

    def _find(self, name: str) -> Mapping[str, AdministeredEngine]:
        """The engine or its replicas, by their own names; raises `EngineNotFound`."""
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
        in_flight=entry.engine.requests.taken,
        load=entry.engine.scraped_load.load,
        waiting=entry.engine.requests.waiting,
    )


def _adapters(name: str, entry: AdministeredEngine) -> EngineAdapters:
    if entry.adapters is None:
        raise Conflict(f"The adapters of the engine {name} are fixed: set its runtime_adapters to change them.")
    return entry.adapters


def _as_sentence(error: EngineError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
