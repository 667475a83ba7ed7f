"""What the config says of engines that no machine could start, or that does nothing; nothing is started for it.

What only this machine lacks (a GPU, vLLM itself) is neither: see `assembly.Engines.refusals`.
"""

from collections.abc import Iterator, Mapping

from proxy.config.engines import CommandConfig, EngineConfig, LlamaCppConfig, VllmConfig
from proxy.engines.base import Hopeless
from proxy.engines.command import CommandEngine
from proxy.engines.llamacpp import LlamaCpp
from proxy.engines.vllm import Vllm
from proxy.errors import ConfigError


def faults(engines: Mapping[str, EngineConfig]) -> Iterator[str]:
    """What no machine could start: the key's path, what is wrong and the cure."""
    for name, config in engines.items():
        if isinstance(config, LlamaCppConfig):
            yield from _at(name, LlamaCpp(name, config).faults())
        elif isinstance(config, VllmConfig):
            yield from _at(name, Vllm(name, config).faults())
        elif isinstance(config, CommandConfig):
            yield from _at(name, CommandEngine(name, config).faults())


def notes(engines: Mapping[str, EngineConfig]) -> Iterator[str]:
    """What does nothing, or perhaps not what was meant: the same."""
    for name, config in engines.items():
        if isinstance(config, VllmConfig):
            yield from _at(name, Vllm(name, config).notes())
        elif isinstance(config, CommandConfig):
            yield from _at(name, CommandEngine(name, config).notes())


def check_settings(engines: Mapping[str, EngineConfig], source: str) -> None:
    """Refuse what may never be set in an engine's command or environment.

    Raises:
        ConfigError: with `source`, the key's path, what is wrong and the cure.
    """
    for name, config in engines.items():
        if not isinstance(config, VllmConfig):
            continue
        try:
            Vllm(name, config).check_settings()
        except Hopeless as error:
            raise ConfigError(f"{source}: engines.{name}.{error}") from error


def _at(name: str, told: Iterator[str]) -> Iterator[str]:
    return (f"engines.{name}.{each}" for each in told)
