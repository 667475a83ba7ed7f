"""Replicas: an engine `gpu` with `replicas: 3` becomes the engines `gpu:1`, `gpu:2`, `gpu:3`.

Each has its own process, health and GPUs. Callers and the rest of the config use the name `gpu`. An engine's name in a
config may not hold a colon, so the names of replicas are unique. A colon needs no quotes in a shell and no escape in a
URL.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import structs

from tidegate.config.engines import EngineConfig, Replicated, VllmConfig

_SEPARATOR = ":"

# vLLM's options with which an engine is part of a larger deployment, or needs an address that only one process can use
_UNSHARED_ARGS = frozenset(
    {
        "nnodes",
        "node-rank",
        "master-addr",
        "master-port",
        "data-parallel-address",
        "data-parallel-rpc-port",
        "data-parallel-rank",
        "data-parallel-start-rank",
        "data-parallel-size-local",
        "kv-events-config",
    }
)
_UNSHARED_VARIABLES = frozenset({"CUDA_VISIBLE_DEVICES", "VLLM_NIXL_SIDE_CHANNEL_PORT"})


def engine_of(name: str) -> str:
    """The engine's name in the config; `name` is that of the engine or of one of its replicas."""
    return name.partition(_SEPARATOR)[0]


def number_of(name: str) -> int:
    """The number of the replica `name`, from 1 on; 1 for an engine without replicas."""
    return int(name.partition(_SEPARATOR)[2] or 1)


def members(engine: str, names: Iterable[str]) -> Sequence[str]:
    """Those of `names` that are replicas of `engine`, or `engine` itself; it may be the name of one replica."""
    return [name for name in names if engine in {name, engine_of(name)}]


def groups(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """The names of the replicas of each engine, by its name in the config; engines without replicas are left out."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(engine_of(name), []).append(name)
    return {engine: each for engine, each in found.items() if each != [engine]}


def replicas_of(config: EngineConfig | None) -> int:
    """The configured number of replicas; 1 for a kind of engine without this key, and for None."""
    return config.replicas if isinstance(config, Replicated) else 1


def expand(engines: Mapping[str, EngineConfig]) -> Mapping[str, EngineConfig]:
    """Return the engines by name, with each replica as an engine of its own that has its part of the GPUs."""
    return {name: replica for engine, config in engines.items() for name, replica in _expand(engine, config)}


def _expand(engine: str, config: EngineConfig) -> Iterator[tuple[str, EngineConfig]]:
    count = replicas_of(config)
    if count == 1:
        yield engine, config
        return
    # the number of replicas is removed, as a change of that number alone must not restart the existing replicas
    single = structs.replace(config, replicas=1)
    gpus = getattr(config, "gpus", None)
    for number in range(count):
        changes = {} if gpus is None else {"gpus": _part(gpus, number, count)}
        yield f"{engine}{_SEPARATOR}{number + 1}", structs.replace(single, **changes)


def _part(gpus: Sequence[int], number: int, count: int) -> tuple[int, ...]:
    size = len(gpus) // count
    return tuple(gpus[number * size : (number + 1) * size])


def faults(config: EngineConfig) -> Iterator[str]:
    """Yield the settings that replicas cannot share: key, fault and cure, to be appended to the engine's path."""
    count = replicas_of(config)
    if count == 1:
        return
    gpus = getattr(config, "gpus", None)
    if gpus is not None and len(gpus) % count:
        yield f".gpus: {len(gpus)} cannot be divided evenly among {count} replicas; name the same number for each"
    if not isinstance(config, VllmConfig):
        return
    for key in config.args:
        if key.removeprefix("--").partition(".")[0].replace("_", "-") in _UNSHARED_ARGS:
            yield f".args.{key}: {count} replicas cannot share it; take it out, or write several engines"
    for key in config.environment:
        if key in _UNSHARED_VARIABLES:
            cure = "name all GPUs under gpus" if key == "CUDA_VISIBLE_DEVICES" else "write several engines"
            yield f".environment.{key}: {count} replicas cannot share it; take it out, or {cure}"
