"""`Engines`: every engine of the config put together, with its wires."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from proxy.clock import Clock
from proxy.config.engines import EngineConfig, ExternalConfig, LlamaCppConfig, ManagedConfig, VllmConfig
from proxy.engines.adapters import Adapters
from proxy.engines.base import Engine, EngineKind, EngineStatus, Hopeless
from proxy.engines.control import HttpControl
from proxy.engines.external import ExternalEngine
from proxy.engines.gpus import Gpu, find_gpus
from proxy.engines.life import State
from proxy.engines.llamacpp import LlamaCpp
from proxy.engines.scrape import read_load, relabelled
from proxy.engines.sharing import Needs, Sharing
from proxy.engines.supervisor import Settings, Supervisor
from proxy.engines.vllm import Vllm
from proxy.telemetry.logs import Log
from proxy.transport import Timeouts, Transport

_ENGINE_URL = "http://engine"
_CONNECT_S = 5.0

_TELLING: frozenset[State] = frozenset({"ready", "draining"})

OnEngineChange = Callable[[str, EngineStatus], None]


class Assembled(Struct, frozen=True):
    """One engine, and what leads to it.

    Attributes:
        transport: to its `/v1`, for callers' requests.
        always_streams, dialect: see `base.EngineKind`.
        parses_thinking: it takes thinking apart itself, whatever the model's template begins with.
        model_bytes: what it has to load; 0 where unknown.
        model_card: the name of the card that fits it, where its checkpoint tells.
        adapters: how they come and go; None where the config does not let them.
    """

    engine: Engine
    config: EngineConfig
    transport: Transport
    dialect: str
    always_streams: bool = False
    parses_thinking: bool = False
    model_bytes: int = 0
    model_card: str | None = None
    adapters: Adapters | None = None


class Engines:
    """Owner of the engines and of their wires; `open` and `close` are called once each.

    Args:
        configs: by name.
        keys: of those that somebody else runs, by name.
        on_change: told the name and the new status of an engine.
        gpus: the machine's; where omitted they are looked for.

    Attributes:
        by_name: the engines.
        refusals: by engine, why it cannot run on this machine.
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
    ) -> None:
        self._clock = clock
        self._log = log
        self._on_change = on_change
        self._gpus = _look_for_gpus(configs) if gpus is None else gpus
        self.refusals: dict[str, str] = {}
        self._kinds = {
            name: make_kind(name, config, self._gpus)
            for name, config in configs.items()
            if not isinstance(config, ExternalConfig)
        }
        self._sharing = Sharing({name: self._needs(name, kind) for name, kind in self._kinds.items()})
        self._controls: dict[str, HttpControl] = {}
        self._wires: list[Transport] = []
        self.by_name: Mapping[str, Assembled] = {
            name: self._external(name, config, keys.get(name, ()))
            if isinstance(config, ExternalConfig)
            else self._managed(name, config)
            for name, config in configs.items()
        }

    @property
    def all(self) -> Sequence[Engine]:
        """In the order of the config."""
        return [assembled.engine for assembled in self.by_name.values()]

    def metrics(self) -> bytes:
        """What those that run last told of themselves, each sample under its engine's name."""
        return relabelled(
            {
                name: self._controls[name].metrics
                for name, assembled in self.by_name.items()
                if assembled.engine.status.state in _TELLING
            }
        )

    def adapter_names(self) -> Sequence[str]:
        """The LoRA adapters that can be asked for now, as `engine/name`."""
        return [f"{name}/{adapter}" for name, assembled in self.by_name.items() for adapter in _names(assembled)]

    def open(self) -> None:
        """Start those that start at once; returns at once, they become ready by and by."""
        for name, assembled in self.by_name.items():
            assembled.engine.open(self._controls[name])

    async def close(self) -> None:
        """Stop the engines, close the connections; never raises."""
        await asyncio.gather(*(assembled.engine.close() for assembled in self.by_name.values()))
        await asyncio.gather(*(wire.close() for wire in self._wires))

    def _needs(self, name: str, kind: EngineKind) -> Needs:
        try:
            return kind.place().needs if isinstance(kind, Vllm) else Needs()
        except Hopeless as error:  # its start will say the same; the others go on
            self.refusals[name] = str(error)
            return Needs()

    def _managed(self, name: str, config: ManagedConfig) -> Assembled:
        kind = self._kinds[name]
        supervisor = Supervisor(
            name,
            kind,
            _settings(config),
            room=self._sharing,
            clock=self._clock,
            log=self._log,
            on_change=self._teller(name),
        )
        self._sharing.admit(supervisor)
        transport = self._wire(f"{_ENGINE_URL}/v1", config, socket_path=supervisor.socket_path)
        root = self._wire(_ENGINE_URL, config, socket_path=supervisor.socket_path)
        adapters = self._adapters(config, transport)
        self._controls[name] = make_control(
            name,
            transport,
            root,
            kind.health_path,
            kind.metrics_path,
            restore=None if adapters is None else adapters.restore,
        )
        return Assembled(
            supervisor,
            config,
            transport,
            kind.dialect,
            always_streams=kind.always_streams,
            parses_thinking=_parses_thinking(kind),
            model_bytes=kind.model_bytes(),
            model_card=kind.model_card() if isinstance(kind, Vllm) else None,
            adapters=adapters,
        )

    def _adapters(self, config: ManagedConfig, transport: Transport) -> Adapters | None:
        comes_and_goes = isinstance(config, VllmConfig) and config.runtime_adapters
        return Adapters(transport, self._log) if comes_and_goes else None

    def _external(self, name: str, config: ExternalConfig, keys: Sequence[str]) -> Assembled:
        engine = ExternalEngine(name, clock=self._clock, log=self._log, on_change=self._teller(name))
        transport = self._wire(config.base_url, config, keys=keys)
        root = self._wire(config.base_url.rstrip("/").removesuffix("/v1"), config, keys=keys)
        self._controls[name] = make_control(None, transport, root, config.health_path, config.metrics_path)
        return Assembled(engine, config, transport, config.dialect)

    def _wire(
        self, base_url: str, config: EngineConfig, *, keys: Sequence[str] = (), socket_path: str | None = None
    ) -> Transport:
        wire = Transport(
            base_url,
            api_keys=keys,
            timeouts=Timeouts(
                connect_s=_CONNECT_S,
                first_byte_s=config.first_byte_timeout_s,
                answer_s=config.first_byte_timeout_s,
                idle_s=config.idle_timeout_s,
            ),
            socket_path=socket_path,
        )
        self._wires.append(wire)
        return wire

    def _teller(self, name: str) -> Callable[[EngineStatus], None]:
        return lambda status: self._on_change(name, status)


def _is_ours(config: EngineConfig) -> bool:
    return not isinstance(config, ExternalConfig)


def make_kind(name: str, config: ManagedConfig, gpus: Sequence[Gpu]) -> EngineKind:
    """The engine's command line and habits."""
    return LlamaCpp(name, config) if isinstance(config, LlamaCppConfig) else Vllm(name, config, gpus)


def _names(assembled: Assembled) -> Sequence[str]:
    """Of its adapters: those of the config, then those that were loaded since."""
    fixed = assembled.config.adapters if isinstance(assembled.config, VllmConfig) else ()
    loaded = () if assembled.adapters is None else assembled.adapters.names
    return list(dict.fromkeys((*fixed, *loaded)))


def _parses_thinking(kind: EngineKind) -> bool:
    try:
        return isinstance(kind, Vllm) and kind.parses_thinking
    except Hopeless:  # its start will say the same
        return False


def _settings(config: ManagedConfig) -> Settings:
    return Settings(
        starts_at_once=config.start == "eager",
        queue_timeout_s=config.queue_timeout_s,
        drain_timeout_s=config.drain_timeout_s,
        idle_unload_s=config.idle_unload_s,
    )


def _look_for_gpus(configs: Mapping[str, EngineConfig]) -> Sequence[Gpu]:
    """Only where somebody wants one: the driver takes its time."""
    is_wanted = any(isinstance(config, VllmConfig) for config in configs.values())
    return find_gpus(os.environ) if is_wanted else ()


def make_control(
    model: str | None,
    transport: Transport,
    root: Transport,
    health_path: str,
    metrics_path: str | None,
    *,
    restore: Callable[[], Awaitable[None]] | None = None,
) -> HttpControl:
    """What asks an engine; `model` and `restore` as in `HttpControl`."""
    return HttpControl(
        root,
        transport,
        health_path=health_path,
        metrics_path=metrics_path,
        read_load=read_load,
        model=model,
        restore=restore,
    )
