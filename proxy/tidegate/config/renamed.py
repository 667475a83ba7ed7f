"""Config keys that have been renamed. Their old names are accepted until 0.3, with a note (see `app.advice`)."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from msgspec import structs

from tidegate.config.engines import EngineConfig
from tidegate.config.root import Config
from tidegate.config.upstreams import UpstreamConfig

_Target = TypeVar("_Target", bound=UpstreamConfig | EngineConfig)


def notes(config: Config) -> Iterator[str]:
    """Yield a line for each old name in a config: the key's path and its new name."""
    for section, targets in (("upstreams", config.upstreams), ("engines", config.engines)):
        for name, target in targets.items():
            if target.admission is not None:
                yield (
                    f"{section}.{name}.admission: is called concurrency now, and its concurrency is limit: write "
                    "concurrency: {limit: …}; the old name is accepted until 0.3"
                )


def renamed(config: Config) -> Config:
    """Return the config with the values of old keys copied to the new ones; the old keys stay, for `notes`."""
    return structs.replace(config, upstreams=_renamed(config.upstreams), engines=_renamed(config.engines))


def _renamed(targets: Mapping[str, _Target]) -> dict[str, _Target]:
    return {
        name: target if target.admission is None else structs.replace(target, concurrency=target.admission.renamed())
        for name, target in targets.items()
    }
