"""Every kind of engine whose process is ours, by the class of its config; a new kind is a file and a line here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tidegate.config.engines import CommandConfig, LlamaCppConfig, ManagedConfig, VllmConfig
from tidegate.engines.base import EngineKind
from tidegate.engines.command import CommandEngine
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.llamacpp.engine import LlamaCpp
from tidegate.engines.vllm.engine import Vllm


class Kind(EngineKind, Protocol):
    """A kind of engine, with what `EngineFactory` needs to know before its start.

    A property or method that reads the model or the machine may raise `PermanentEngineError`; the start then fails with it too.
    """

    @property
    def uses_port(self) -> bool:
        """Whether it listens on a port of the loopback address and not on its socket (see `base.Command`)."""

    @property
    def sleep_paths(self) -> tuple[str, str] | None:
        """The paths, beside `/v1`, of the POST requests that put it to sleep and wake it; None: vLLM's paths."""

    @property
    def knows_tools(self) -> bool:
        """False if the model's chat template is known not to read tools."""

    @property
    def parses_thinking(self) -> bool:
        """Whether its answers have thinking apart from the content already."""

    def model_card(self) -> str | None:
        """The name of the card of the model that it loads; None where that is not known."""

    def needs(self) -> GpuNeeds:
        """What it takes of the GPUs.

        Raises:
            Hopeless: the machine does not have what it needs.
        """


_KINDS: Mapping[type, Callable[[str, Any, Sequence[Gpu]], Kind]] = {
    LlamaCppConfig: LlamaCpp,
    VllmConfig: Vllm,
    CommandConfig: CommandEngine,
}


def make_kind(name: str, config: ManagedConfig, gpus: Sequence[Gpu]) -> Kind:
    """The kind of the engine `name`; `gpus` are the machine's."""
    return _KINDS[type(config)](name, config, gpus)


def uses_gpus(config: ManagedConfig) -> bool:
    """Whether the engine depends on the machine's GPUs; they are not searched for others, as that takes a while."""
    return isinstance(config, VllmConfig) or (isinstance(config, CommandConfig) and config.gpus is not None)
