"""Every kind of managed engine, by the class of its config; a new kind is one file and one line here."""

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
    """A kind of engine, with what `EngineFactory` has to know before the engine's start.

    A property or method that reads the model or the machine may raise `PermanentEngineError`; the engine's start then
    fails with the same error.
    """

    @property
    def uses_port(self) -> bool:
        """Whether the server listens on a port of the loopback address and not on its socket (see `base.Command`)."""

    @property
    def sleep_paths(self) -> tuple[str, str] | None:
        """The paths, beside `/v1`, of the POST requests that put the server to sleep and wake it; None: vLLM's."""

    @property
    def supports_tools(self) -> bool:
        """False if the model's chat template is known not to read tools."""

    @property
    def parses_thinking(self) -> bool:
        """Whether the server's answers have the thinking separated from the content."""

    def model_card(self) -> str | None:
        """Return the name of the model card for the model that it loads; None if it is not known."""

    def needs(self) -> GpuNeeds:
        """Return which GPUs the engine takes, and how much of them.

        Raises:
            PermanentEngineError: the machine does not have what the engine needs.
        """


_KINDS: Mapping[type, Callable[[str, Any, Sequence[Gpu]], Kind]] = {
    LlamaCppConfig: LlamaCpp,
    VllmConfig: Vllm,
    CommandConfig: CommandEngine,
}


def make_kind(name: str, config: ManagedConfig, gpus: Sequence[Gpu]) -> Kind:
    """Make the kind for the engine `name`; `gpus` are those of the machine."""
    return _KINDS[type(config)](name, config, gpus)


def uses_gpus(config: ManagedConfig) -> bool:
    """Return whether the engine may use GPUs; the search for GPUs is slow, so it is made only for such engines."""
    return isinstance(config, VllmConfig) or (isinstance(config, CommandConfig) and config.gpus is not None)
