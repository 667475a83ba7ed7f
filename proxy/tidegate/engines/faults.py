"""Finds settings with which an engine could start on no machine, and settings that do nothing; starts no engine.

Something that only this machine lacks (a GPU, vLLM itself) is not a fault: see `assembly.Engines.refusals`.
"""

from collections.abc import Iterator, Mapping

from tidegate.config.engines import CommandConfig, EngineConfig, LlamaCppConfig, VllmConfig
from tidegate.engines.base import PermanentEngineError
from tidegate.engines.command import CommandEngine
from tidegate.engines.llamacpp.engine import LlamaCpp
from tidegate.engines.vllm import command as vllm_command
from tidegate.engines.vllm.engine import Vllm
from tidegate.errors import ConfigError


def faults(engines: Mapping[str, EngineConfig]) -> Iterator[str]:
    """Yield settings with which an engine could start on no machine: each as the key's path, the fault and the cure."""
    for name, config in engines.items():
        if isinstance(config, LlamaCppConfig):
            yield from _at(name, LlamaCpp(name, config).faults())
        elif isinstance(config, VllmConfig):
            yield from _at(name, Vllm(name, config).faults())
        elif isinstance(config, CommandConfig):
            yield from _at(name, CommandEngine(name, config).faults())


def notes(engines: Mapping[str, EngineConfig]) -> Iterator[str]:
    """Yield settings that do nothing or are perhaps not intended: each as the key's path, the note and the cure."""
    for name, config in engines.items():
        if isinstance(config, VllmConfig):
            yield from _at(name, Vllm(name, config).notes())
        elif isinstance(config, CommandConfig):
            yield from _at(name, CommandEngine(name, config).notes())


def check_settings(engines: Mapping[str, EngineConfig], source: str) -> None:
    """Check that `args` and `environment` of the vLLM engines contain only what may be set there.

    Raises:
        ConfigError: they contain something else; the message has `source`, the key's path, the fault and the cure.
    """
    for name, config in engines.items():
        if not isinstance(config, VllmConfig):
            continue
        try:
            vllm_command.check_settings(config)
        except PermanentEngineError as error:
            raise ConfigError(f"{source}: engines.{name}.{error}") from error


def _at(name: str, found: Iterator[str]) -> Iterator[str]:
    return (f"engines.{name}.{each}" for each in found)
