"""Every kind of engine whose process is ours, by the class of its config: a new one is a file and a line here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from proxy.config.engines import CommandConfig, LlamaCppConfig, ManagedConfig, VllmConfig
from proxy.engines.base import EngineKind
from proxy.engines.command import CommandEngine
from proxy.engines.gpus import Gpu
from proxy.engines.llamacpp import LlamaCpp
from proxy.engines.sharing import Needs
from proxy.engines.vllm import Vllm


class Kind(EngineKind, Protocol):
    """A kind of engine, and what is known of one before it is started.

    A property or method that looks at the model or the machine may raise `Hopeless`; the start will say the same.
    """

    @property
    def uses_port(self) -> bool:
        """Whether it listens on a port of the loopback address, in place of its socket (see `base.Command`)."""

    @property
    def sleep_paths(self) -> tuple[str, str] | None:
        """Where a POST puts it to sleep and where one wakes it, beside `/v1`; None: at vLLM's, if it can sleep."""

    @property
    def knows_tools(self) -> bool:
        """False if the model's chat template is known not to read tools."""

    @property
    def parses_thinking(self) -> bool:
        """Whether it takes thinking apart itself, whatever the model's template begins with."""

    def model_card(self) -> str | None:
        """The name of the card that fits what it loads; None where that is not known."""

    def needs(self) -> Needs:
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
    """The engine's command line and habits; `gpus` are the machine's."""
    return _KINDS[type(config)](name, config, gpus)


def uses_gpus(config: ManagedConfig) -> bool:
    """Whether it matters to an engine what GPUs the machine has; looking for them takes the driver its time."""
    return isinstance(config, VllmConfig) or (isinstance(config, CommandConfig) and config.gpus is not None)
