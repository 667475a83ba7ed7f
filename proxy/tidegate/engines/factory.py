"""`EngineFactory`: makes one engine of the config, with its transports and its control; starts nothing."""

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


class EngineEntry(Struct, frozen=True):
    """One engine, the transport to it, and what the rest of Tidegate has to know about it.

    Attributes:
        transport: to the engine's `/v1`, for callers' requests.
        always_streams, dialect: see `base.EngineKind`.
        parses_thinking: whether the engine itself separates the thinking from the answer; if so, it does not matter
            whether the model's chat template lets the answer begin inside the thinking.
        supports_tools: False if the model's chat template is known not to read tools.
        model_bytes: size of the files that the engine has to load; 0 if unknown.
        model_card: the name of the card for its model (`configs/models.yaml`); None if the checkpoint does not show it.
        adapters: loads and unloads LoRA adapters at run time; None if the config does not allow that.
        parses_tool_calls: returns whether the engine parses its model's tool calls. The result may change at each
            start, for example when the checkpoint has been downloaded.
    """

    engine: Engine
    config: EngineConfig
    transport: Transport
    dialect: str
    always_streams: bool = False
    parses_thinking: bool = False
    supports_tools: bool = True
    model_bytes: int = 0
    model_card: str | None = None
    adapters: Adapters | None = None
    parses_tool_calls: Callable[[], bool] = lambda: True


class SupervisedEngine(Struct, frozen=True, kw_only=True):
    """The parts that only a managed engine has, which is one whose process Tidegate starts.

    Attributes:
        supervisor: starts, watches and stops the process.
        kind: the kind of the engine.
        settings: how the engine is supervised.
        needs: which GPUs it takes, and how much of them; empty if the engine is refused.
        refusal: why the engine cannot run on this machine; None: no reason is known.
    """

    supervisor: Supervisor
    kind: Kind
    settings: Settings
    needs: GpuNeeds
    refusal: str | None


class EngineParts(Struct, frozen=True, kw_only=True):
    """One engine as `assembly.Engines` holds it.

    Attributes:
        entry: the part that is visible outside of this package.
        control: the engine's control routes.
        root: the transport to the server's root, where the routes for health and metrics are.
        keys: the API keys that are sent to an external engine.
        process: the parts of a managed engine; None for an external engine.
    """

    entry: EngineEntry
    control: HttpControl
    root: Transport
    keys: Sequence[str] = ()
    process: SupervisedEngine | None = None

    @property
    def transports(self) -> Sequence[Transport]:
        """The transports to `/v1` and to the server's root."""
        return self.entry.transport, self.root


class EngineFactory:
    """Makes engines; owner of the list of the machine's GPUs.

    Args:
        allocator: allocates the GPUs to the engines that are made here.
        clock: for the engines.
        log: for the engines.
        on_change: called with the name and the new status of an engine.
        gpus: the GPUs of the machine; None: they are searched for when the first engine needs GPUs, because the driver
            may take seconds to answer.
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
        """Make the engine; reads files of the model, but writes, connects and starts nothing."""
        if isinstance(config, ExternalConfig):
            return self._external(name, config, keys)
        return self._managed(name, config)

    def _managed(self, name: str, config: ManagedConfig) -> EngineParts:
        kind = make_kind(name, config, self._find_gpus(config))
        process = self._process(name, config, kind)
        url = _LOOPBACK_URL if kind.uses_port else _ENGINE_URL
        socket_path = None if kind.uses_port else process.supervisor.socket_path
        transport = self._transport(f"{url}/v1", config, socket_path=socket_path)
        root = self._transport(url, config, socket_path=socket_path)
        loads_at_runtime = isinstance(config, VllmConfig) and config.runtime_adapters
        adapters = Adapters(transport, self._log) if loads_at_runtime else None
        restore = None if adapters is None else adapters.restore
        entry = EngineEntry(
            process.supervisor,
            config,
            transport,
            kind.dialect,
            always_streams=kind.always_streams,
            parses_thinking=_parses_thinking(kind),
            supports_tools=kind.supports_tools,
            model_bytes=kind.model_bytes(),
            model_card=kind.model_card(),
            adapters=adapters,
            parses_tool_calls=lambda: kind.parses_tool_calls,
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
        return EngineParts(entry=entry, control=control, root=root, process=process)

    def _process(self, name: str, config: ManagedConfig, kind: Kind) -> SupervisedEngine:
        settings = _settings(config)
        supervisor = Supervisor(
            name,
            kind,
            settings,
            allocator=self._allocator,
            clock=self._clock,
            log=self._log,
            on_change=self._change_listener(name),
        )
        needs, refusal = _needs(kind)
        refusal = refusal or hooks.refusal(config.hooks)
        return SupervisedEngine(supervisor=supervisor, kind=kind, settings=settings, needs=needs, refusal=refusal)

    def _external(self, name: str, config: ExternalConfig, keys: Sequence[str]) -> EngineParts:
        engine = ExternalEngine(name, clock=self._clock, log=self._log, on_change=self._change_listener(name))
        transport = self._transport(config.base_url, config, keys=keys)
        root = self._transport(config.base_url.rstrip("/").removesuffix("/v1"), config, keys=keys)
        control = make_control(None, transport, root, config.health_path, config.metrics_path)
        entry = EngineEntry(engine, config, transport, config.dialect)
        return EngineParts(entry=entry, control=control, root=root, keys=keys)

    def _transport(
        self, base_url: str, config: EngineConfig, *, keys: Sequence[str] = (), socket_path: str | None = None
    ) -> Transport:
        return Transport(
            base_url,
            credentials=CredentialPool(of_keys(keys), clock=self._clock),
            timeouts=timeouts_of(config),
            socket_path=socket_path,
        )

    def _change_listener(self, name: str) -> Callable[[EngineStatus], None]:
        return lambda status: self._on_change(name, status)

    def _find_gpus(self, config: ManagedConfig) -> Sequence[Gpu]:
        if self._gpus is None and uses_gpus(config):
            self._gpus = find_gpus(os.environ)
        return self._gpus or ()


def check(name: str, parts: EngineParts, source: str) -> None:
    """Check that an engine could be started on this machine, without starting it.

    Raises:
        ConfigError: it could not; the message has `source`, the path of the key, the fault and the cure.
    """
    if parts.process is None:
        return
    try:
        if parts.process.refusal is not None:
            raise PermanentEngineError(parts.process.refusal)
        parts.process.kind.command("engine.sock", "")  # only for its errors
    except EngineError as error:
        raise ConfigError(f"{source}: engines.{name}: {error}") from error


def with_new_settings(old: EngineParts, new: EngineParts) -> EngineParts:
    """Return the running engine, control and transports of `old` with the config of `new`; see `apply_settings`."""
    process = new.process
    if old.process is not None and process is not None:
        process = structs.replace(process, supervisor=old.process.supervisor)
    running = old.entry
    entry = structs.replace(new.entry, engine=running.engine, transport=running.transport, adapters=running.adapters)
    return EngineParts(entry=entry, control=old.control, root=old.root, keys=new.keys, process=process)


def apply_settings(parts: EngineParts) -> None:
    """Let a running engine follow the timeouts, keys and settings of its new config."""
    for transport in parts.transports:
        transport.use_timeouts(timeouts_of(parts.entry.config))
        if parts.process is None:
            transport.use_keys(parts.keys)
    if parts.process is not None:
        parts.process.supervisor.reconfigure(parts.process.kind, parts.process.settings)


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
    """Return the control of an engine; for `model`, `restore` and the paths see `HttpControl`."""
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
    """Return the time limits of requests to the engine."""
    return Timeouts(
        connect_s=_CONNECT_S,
        first_byte_s=config.first_byte_timeout_s,
        answer_s=config.first_byte_timeout_s,
        idle_s=config.idle_timeout_s,
    )


def _needs(kind: Kind) -> tuple[GpuNeeds, str | None]:
    """Return what the engine needs of the GPUs, and why it cannot get that, or None.

    The error is not raised: the engine's start will fail with the same message, and the other engines still run.
    """
    try:
        return structs.replace(kind.needs(), can_sleep=kind.sleep_level is not None), None
    except PermanentEngineError as error:
        return GpuNeeds(), str(error)


def _parses_thinking(kind: Kind) -> bool:
    try:
        return kind.parses_thinking
    except PermanentEngineError:  # the engine's start will fail with the same message
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
