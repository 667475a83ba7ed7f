"""`Config`, the whole file, and the checks that need more than one section."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.config import commands, concurrency, credentials, hooks, models, replicas, routing
from tidegate.config.auth import AuthConfig
from tidegate.config.cards import Card, known_cards
from tidegate.config.engines import CommandConfig, EngineConfig, ExternalConfig, VllmConfig
from tidegate.config.models import DefaultsConfig, ModelConfig, TargetConfig
from tidegate.config.routing import RoutingConfig
from tidegate.config.server import ServerConfig
from tidegate.config.swap import SwapConfig
from tidegate.config.telemetry import TelemetryConfig
from tidegate.config.upstreams import UpstreamConfig, url_fault
from tidegate.errors import ConfigError

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
NAME_CURE = "take letters, digits, dot, dash, underscore"

_MAX_SHOWN = 24


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. `Config()` is the config of an empty file."""

    server: Annotated[ServerConfig, Meta(description="Where Tidegate listens, and its limits for callers.")] = (
        ServerConfig()
    )
    auth: Annotated[AuthConfig, Meta(description="The keys of callers and of the administrator.")] = AuthConfig()
    telemetry: Annotated[TelemetryConfig, Meta(description="Logging.")] = TelemetryConfig()
    defaults: Annotated[
        DefaultsConfig, Meta(description="Settings for models and requests that have none of their own.")
    ] = DefaultsConfig()
    routing: Annotated[
        RoutingConfig, Meta(description="Which targets requests may go to, and what is done when one fails.")
    ] = RoutingConfig()
    upstreams: Annotated[
        Mapping[str, UpstreamConfig], Meta(description="Hosted model APIs, by a name of your choice.")
    ] = {}
    engines: Annotated[
        Mapping[str, EngineConfig], Meta(description="Local model servers, by a name of your choice.")
    ] = {}
    swap: Annotated[SwapConfig, Meta(description="When a loaded engine makes room for another one.")] = SwapConfig()
    models: Annotated[
        Mapping[str, ModelConfig],
        Meta(description="The names that callers use; a name that is not here is looked up at the upstreams."),
    ] = {}
    cards: Annotated[
        Mapping[str, Card],
        Meta(description="Facts about models; they take precedence over those in configs/models.yaml."),
    ] = {}


def check(config: Config, source: str) -> None:
    """Check everything that the types of the fields do not check, also across sections.

    Raises:
        ConfigError: its message has `source`, the key's path, the fault and the cure.
    """
    if config.server.workers > 1:
        raise ConfigError(
            f"{source}: server.workers: {config.server.workers} workers would need state that they share, "
            "which this version does not have; set 1, and run more replicas behind a balancer"
        )
    _check_names(config, source)
    for fault in _faults(config):
        raise ConfigError(f"{source}: {fault}")


def _faults(config: Config) -> Iterator[str]:
    """Yield settings that cannot work, and names of targets that do not exist; each with the path of its key."""
    for name, upstream in config.upstreams.items():
        if (fault := url_fault(upstream.base_url)) is not None:
            yield f"upstreams.{name}.base_url: {fault}"
        if upstream.api_version is not None and upstream.dialect != "azure":
            yield f"upstreams.{name}.api_version: only azure has one; take it out"
        yield from (f"upstreams.{name}.credentials{fault}" for fault in credentials.faults(upstream.credentials))
        yield from (
            f"upstreams.{name}{fault}" for fault in concurrency.faults(upstream.concurrency, upstream.admission)
        )
    for name, engine in config.engines.items():
        yield from (f"engines.{name}{fault}" for fault in _engine_faults(engine))
        yield from (f"engines.{name}{fault}" for fault in replicas.faults(engine))
        yield from (f"engines.{name}{fault}" for fault in concurrency.faults(engine.concurrency, engine.admission))
    for index, group in enumerate(config.swap.exclusive):
        yield from (f"swap.exclusive[{index}]: {fault}" for fault in _group_faults(group, config.engines))
    yield from (f"routing{fault}" for fault in routing.faults(config.routing))
    for name, model in config.models.items():
        for index, target in enumerate(model.targets):
            yield from (f"models.{name}.targets[{index}]{fault}" for fault in _target_faults(target, config))
        yield from (f"models.{name}{fault}" for fault in models.faults(model))


def _engine_faults(engine: EngineConfig) -> Iterator[str]:
    if isinstance(engine, ExternalConfig):
        if (fault := url_fault(engine.base_url)) is not None:
            yield f".base_url: {fault}"
    elif isinstance(engine, CommandConfig):
        yield from commands.faults(engine)
    elif isinstance(engine, VllmConfig):
        for adapter in engine.adapters:
            if not is_name(adapter):
                yield f".adapters.{adapter[:80]}: not a usable name; {NAME_CURE}"
        if engine.sleep_level == 2 and (engine.adapters or engine.runtime_adapters):
            yield (
                ".sleep_level: 2 would drop the adapters' weights, which vLLM does not read again; set 1, or leave it "
                "out, so that the engine stops to make room"
            )
    if not isinstance(engine, ExternalConfig):
        yield from (f".hooks{fault}" for fault in hooks.faults(engine.hooks))


def is_name(name: str) -> bool:
    """Whether `name` is allowed as the name of an upstream, engine, caller or adapter."""
    return _NAME.fullmatch(name) is not None


def _group_faults(group: Sequence[str], engines: Mapping[str, EngineConfig]) -> Iterator[str]:
    """Yield what is wrong with one group of engines that must not be loaded together."""
    for name in dict.fromkeys(group):
        if name not in engines:
            yield f"no engine is called {name}; {did_you_mean(name, engines)}"
        elif isinstance(engines[name], ExternalConfig):
            yield f"{name} is not started by Tidegate, so it cannot make room; take it out"
        if group.count(name) > 1:
            yield f"{name} is named twice; take one out"
    if len(group) < 2:
        yield "a group has at least two engines; add another, or take the group out"
    pinned = [name for name in group if getattr(engines.get(name), "pinned", False)]
    if len(pinned) > 1:
        yield f"{' and '.join(pinned)} are pinned, so neither makes room for the other; unpin one of them"


def unnamed_engines(config: Config) -> Sequence[str]:
    """The engines started by Tidegate that no model names: each is served as a model under its own name."""
    targets = {target.engine for model in config.models.values() for target in model.targets}
    return [
        name
        for name, engine in config.engines.items()
        if not isinstance(engine, ExternalConfig) and name not in targets and name not in config.models
    ]


def _check_names(config: Config, source: str) -> None:
    for section, names in (("upstreams", config.upstreams), ("engines", config.engines)):
        for name in names:
            if not is_name(name):
                raise ConfigError(f"{source}: {section}.{name[:80]}: not a usable name; {NAME_CURE}")
    for name in config.upstreams.keys() & config.engines.keys():
        raise ConfigError(f"{source}: engines.{name}: an upstream has this name too; rename one of them")
    for name in config.auth.callers:
        if not is_name(name) or name in {"anonymous", "admin"}:
            raise ConfigError(f"{source}: auth.callers.{name[:80]}: not a usable name; take another")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host == "localhost" or is_loopback_address(host)


def is_loopback_address(address: str) -> bool:
    """Whether `address` is a loopback IP address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the cure for a name that is not known: the most similar known name, or the list of the known ones."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    if close:
        return f"did you mean {close[0]}?"
    more = f" and {len(choices) - _MAX_SHOWN} more" if len(choices) > _MAX_SHOWN else ""
    return f"known here: {', '.join(choices[:_MAX_SHOWN])}{more}" if choices else "there is none here"


def _target_faults(target: TargetConfig, config: Config) -> Iterator[str]:
    if target.card is not None and target.card not in config.cards and target.card not in known_cards():
        cure = did_you_mean(target.card, {**known_cards(), **config.cards})
        yield f".card: no model card is called {target.card}; {cure}"
    if (target.upstream is None) == (target.engine is None):
        yield ": set one of them: either upstream or engine"
    elif target.upstream is not None:
        if target.upstream not in config.upstreams:
            cure = did_you_mean(target.upstream, config.upstreams)
            yield f".upstream: no upstream is called {target.upstream}; {cure}"
        if target.model is None:
            yield f".model: missing; say what the model is called at {target.upstream}"
    elif target.engine not in config.engines:
        cure = did_you_mean(target.engine or "", config.engines)
        yield f".engine: no engine is called {target.engine}; {cure}"
