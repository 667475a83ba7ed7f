"""`EngineFactory`: makes one engine of the config, with its wires and all that belongs to it; starts nothing."""

import os
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct, structs

from tidegate.clock import Clock
from tidegate.config.engines import EngineConfig, ExternalConfig, ManagedConfig, VllmConfig, served_name
from tidegate.config.replicas import engine_of
from tidegate.engines.base import Engine, EngineError, EngineStatus, PermanentEngineError
from tidegate.engines.control import HttpControl
from tidegate.engines.external import ExternalEngine
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.gpus.devices import Gpu, find_gpus
from tidegate.engines.kinds import Kind, make_kind, uses_gpus
from tidegate.engines.scrape import read_load
from tidegate.engines.supervision import hooks
from tidegate.engines.supervision.settings import Settings
from tidegate.engines.supervision.supervisor import Supervisor
from tidegate.engines.vllm.adapters import Adapters
from tidegate.errors import ConfigError
from tidegate.telemetry.logs import Log
from tidegate.transport.credential_specs import of_keys
from tidegate.transport.credentials import CredentialPool
from tidegate.transport.wire import Timeouts, Transport

_ENGINE_URL = "http://engine"
_LOOPBACK_URL = "http://127.0.0.1:1"  # each start replaces the port
_CONNECT_S = 5.0

OnEngineChange = Callable[[str, EngineStatus], None]


class ConnectedEngine(Struct, frozen=True):
    """One engine, and what leads to it.

    Attributes:
        transport: to its `/v1`, for callers' requests.
        always_streams, dialect: see `base.EngineKind`.
        parses_thinking: it takes thinking apart itself, whatever the model's template begins with.
        knows_tools: False if the model's chat template is known not to read tools.
        model_bytes: what it has to load; 0 where unknown.
        model_card: the name of the card that fits it, where its checkpoint tells.
        adapters: how they come and go; None where the config does not let them.
        calls_tools: whether it reads its model's tool calls; may differ after each start, when the checkpoint is there.
    """

    engine: Engine
    config: EngineConfig
    transport: Transport
    dialect: str
    always_streams: bool = False
    parses_thinking: bool = False
    knows_tools: bool = True
    model_bytes: int = 0
    model_card: str | None = None
    adapters: Adapters | None = None
    calls_tools: Callable[[], bool] = lambda: True


class OwnProcess(Struct, frozen=True, kw_only=True):
    """What an engine has whose process is ours.

    Attributes:
        needs: of the GPUs; nothing where it is refused.
        refusal: why it cannot run on this machine; None: nothing is known against it.
    """

    supervisor: Supervisor
    kind: Kind
    settings: Settings
    needs: GpuNeeds
    refusal: str | None


class EngineParts(Struct, frozen=True, kw_only=True):
    """One engine as `assembly.Engines` holds it: what everybody may see, and what is its own.

    Attributes:
        root: the wire to where its health and metrics are.
        keys: what an engine of somebody else's is shown.
        process: None where it is somebody else's.
    """

    connected: ConnectedEngine
    control: HttpControl
    root: Transport
    keys: Sequence[str] = ()
    process: OwnProcess | None = None

    @property
    def wires(self) -> Sequence[Transport]:
        """Both."""
        return self.connected.transport, self.root


class EngineFactory:
    """Owner of what is known of the machine's GPUs.

    Args:
        room: who shares those out among the engines that are made here.
        on_change: told the name and the new status of an engine.
        gpus: the machine's; where omitted they are looked for when somebody wants one: the driver takes its time.
    """

    def __init__(
        self,
        allocator: GpuAllocator,
        *,
        clock: Clock,
        log: Log,
        on_change: OnEngineChange,
        gpus: Sequence[Gpu] | None = None,
    ) -> None:
        self._allocator = allocator
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._gpus = gpus

    def make(self, name: str, config: EngineConfig, keys: Sequence[str]) -> EngineParts:
        """The engine; files are read, nothing is written, opened or started."""
        if isinstance(config, ExternalConfig):
            return self._external(name, config, keys)
        return self._managed(name, config)

    def _managed(self, name: str, config: ManagedConfig) -> EngineParts:
        kind = make_kind(name, config, self._find_gpus(config))
        process = self._process(name, config, kind)
        url = _LOOPBACK_URL if kind.uses_port else _ENGINE_URL
        socket_path = None if kind.uses_port else process.supervisor.socket_path
        transport = self._wire(f"{url}/v1", config, socket_path=socket_path)
        root = self._wire(url, config, socket_path=socket_path)
        comes_and_goes = isinstance(config, VllmConfig) and config.runtime_adapters
        adapters = Adapters(transport, self._log) if comes_and_goes else None
        restore = None if adapters is None else adapters.restore
        connected = ConnectedEngine(
            process.supervisor,
            config,
            transport,
            kind.dialect,
            always_streams=kind.always_streams,
            parses_thinking=_parses_thinking(kind),
            knows_tools=kind.knows_tools,
            model_bytes=kind.model_bytes(),
            model_card=kind.model_card(),
            adapters=adapters,
            calls_tools=lambda: kind.calls_tools,
        )
        control = make_control(
            served_name(engine_of(name), config),
            transport,
            root,
            kind.health_path,
            kind.metrics_path,
            sleep_paths=kind.sleep_paths,
            restore=restore,
        )
        return EngineParts(connected=connected, control=control, root=root, process=process)

    def _process(self, name: str, config: ManagedConfig, kind: Kind) -> OwnProcess:
        settings = _settings(config)
        supervisor = Supervisor(
            name,
            kind,
            settings,
            allocator=self._allocator,
            clock=self._clock,
            log=self._log,
            on_change=self._teller(name),
        )
        needs, refusal = _needs(kind)
        refusal = refusal or hooks.refusal(config.hooks)
        return OwnProcess(supervisor=supervisor, kind=kind, settings=settings, needs=needs, refusal=refusal)

    def _external(self, name: str, config: ExternalConfig, keys: Sequence[str]) -> EngineParts:
        engine = ExternalEngine(name, clock=self._clock, log=self._log, on_change=self._teller(name))
        transport = self._wire(config.base_url, config, keys=keys)
        root = self._wire(config.base_url.rstrip("/").removesuffix("/v1"), config, keys=keys)
        control = make_control(None, transport, root, config.health_path, config.metrics_path)
        connected = ConnectedEngine(engine, config, transport, config.dialect)
        return EngineParts(connected=connected, control=control, root=root, keys=keys)

    def _wire(
        self, base_url: str, config: EngineConfig, *, keys: Sequence[str] = (), socket_path: str | None = None
    ) -> Transport:
        return Transport(
            base_url,
            credentials=CredentialPool(of_keys(keys), clock=self._clock),
            timeouts=timeouts_of(config),
            socket_path=socket_path,
        )

    def _teller(self, name: str) -> Callable[[EngineStatus], None]:
        return lambda status: self._on_change(name, status)

    def _find_gpus(self, config: ManagedConfig) -> Sequence[Gpu]:
        if self._gpus is None and uses_gpus(config):
            self._gpus = find_gpus(os.environ)
        return self._gpus or ()


def check(name: str, parts: EngineParts, source: str) -> None:
    """See whether an engine could be started here, without starting it.

    Raises:
        ConfigError: it could not; with `source`, the key's path, what is wrong and the cure.
    """
    if parts.process is None:
        return
    try:
        if parts.process.refusal is not None:
            raise PermanentEngineError(parts.process.refusal)
        parts.process.kind.command("engine.sock", "")
    except EngineError as error:
        raise ConfigError(f"{source}: engines.{name}: {error}") from error


def going_on(old: EngineParts, new: EngineParts) -> EngineParts:
    """The engine, control and wires of the one, with what the config of the other says; for `treat`."""
    process = new.process
    if old.process is not None and process is not None:
        process = structs.replace(process, supervisor=old.process.supervisor)
    was = old.connected
    connected = structs.replace(new.connected, engine=was.engine, transport=was.transport, adapters=was.adapters)
    return EngineParts(connected=connected, control=old.control, root=old.root, keys=new.keys, process=process)


def treat(parts: EngineParts) -> None:
    """Have an engine that goes on treated as its config says now."""
    for wire in parts.wires:
        wire.use_timeouts(timeouts_of(parts.connected.config))
        if parts.process is None:
            wire.use_keys(parts.keys)
    if parts.process is not None:
        parts.process.supervisor.treat(parts.process.kind, parts.process.settings)


def make_control(
    model: str | None,
    transport: Transport,
    root: Transport,
    health_path: str,
    metrics_path: str | None,
    *,
    sleep_paths: tuple[str, str] | None = None,
    restore: Callable[[], Awaitable[None]] | None = None,
) -> HttpControl:
    """What asks an engine; `model`, `restore` and the paths as in `HttpControl`."""
    return HttpControl(
        root,
        transport,
        health_path=health_path,
        metrics_path=metrics_path,
        read_load=read_load,
        model=model,
        sleep_paths=sleep_paths,
        restore=restore,
    )


def timeouts_of(config: EngineConfig) -> Timeouts:
    """How long a request waits for the engine."""
    return Timeouts(
        connect_s=_CONNECT_S,
        first_byte_s=config.first_byte_timeout_s,
        answer_s=config.first_byte_timeout_s,
        idle_s=config.idle_timeout_s,
    )


def _needs(kind: Kind) -> tuple[GpuNeeds, str | None]:
    """Of the GPUs, and why it gets none: its start will say the same, and the others go on."""
    try:
        return structs.replace(kind.needs(), can_sleep=kind.sleep_level is not None), None
    except PermanentEngineError as error:
        return GpuNeeds(), str(error)


def _parses_thinking(kind: Kind) -> bool:
    try:
        return kind.parses_thinking
    except PermanentEngineError:  # its start will say the same
        return False


def _settings(config: ManagedConfig) -> Settings:
    return Settings(
        starts_at_once=config.start == "eager",
        queue_timeout_s=config.queue_timeout_s,
        drain_timeout_s=config.drain_timeout_s,
        idle_unload_s=config.idle_unload_s,
        hooks=config.hooks,
        idle_canary_s=config.idle_canary_s,
    )
