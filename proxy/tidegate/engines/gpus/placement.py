"""On which GPUs an engine runs, and how much of their memory it takes. A pure function of config and machine.

Memory is counted as vLLM takes it, in shares of each GPU's whole memory. An engine that sleeps frees weights and cache,
but keeps its CUDA context, graphs and buffers. vLLM's log ("Sleep mode freed …, … is still in use") reports 1.4 to
4.3 GiB for them, at level 1 and 2 alike, since they are neither weights nor cache. Tidegate counts 5 GiB.
"""

from collections.abc import Sequence

from msgspec import Struct

from tidegate.config.engines import CommandConfig, VllmConfig
from tidegate.engines.base import PermanentEngineError
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import Gpu

VLLM_UTILIZATION = 0.92  # vLLM's default in 0.32; in 0.10 it was 0.9, and planning for too much is safe
ASLEEP_BYTES = 5 << 30
ASLEEP_SHARE = 0.1  # used where the memory's size is unknown


class Placement(Struct, frozen=True):
    """The GPUs of one engine.

    Attributes:
        gpus: their numbers, in the order of the engine's ranks; empty: none, or unknown, so vLLM chooses.
        needs: the engine's share of them.
    """

    gpus: tuple[int, ...] = ()
    needs: GpuNeeds = GpuNeeds()


def place_vllm(
    config: VllmConfig,
    gpus: Sequence[Gpu],
    *,
    attention_heads: int | None = None,
    is_multi_host: bool = False,
    number: int = 1,
) -> Placement:
    """The GPUs that the config names, or else as many as needed; each replica takes those after its predecessor's.

    Where no GPU is known, those that the config names are assumed to exist.

    Args:
        config: the engine's config.
        gpus: the machine's GPUs, see `devices.find_gpus`; none for vLLM's build for CPUs.
        attention_heads: the number of the model's attention heads; None where unknown.
        is_multi_host: only a part of the engine runs on this machine, so it takes all GPUs that it may use.
        number: the number of the replica, from 1 on.

    Raises:
        PermanentEngineError: the machine does not have the GPUs that the config needs.
    """
    _check_split(config, attention_heads)
    if config.distributed is not None:
        return Placement(needs=GpuNeeds(is_pinned=config.pinned))  # Ray chooses the GPUs, of any machine
    known = tuple(gpu.index for gpu in gpus)
    numbers = _numbers(config, known, is_multi_host=is_multi_host, number=number)
    if config.gpus is not None:
        _check_numbers(config.gpus, known)
    return Placement(numbers, _needs(config, numbers, gpus))


def place_command(config: CommandConfig, gpus: Sequence[Gpu]) -> GpuNeeds:
    """What an engine of `kind: command` takes: its share of the GPUs that the config names.

    Raises:
        PermanentEngineError: the machine does not have these GPUs.
    """
    numbers = config.gpus or ()
    _check_numbers(numbers, tuple(gpu.index for gpu in gpus))
    sizes = {gpu.index: gpu.total_bytes for gpu in gpus}
    can_sleep = config.sleep_path is not None
    asleep = {each: _asleep(sizes.get(each, 0), config.gpu_share) for each in numbers} if can_sleep else {}
    return GpuNeeds(awake=dict.fromkeys(numbers, config.gpu_share), asleep=asleep, is_pinned=config.pinned)


def _numbers(config: VllmConfig, known: tuple[int, ...], *, is_multi_host: bool, number: int) -> tuple[int, ...]:
    named = known if config.gpus is None else config.gpus
    if is_multi_host or (config.gpus is None and not known):
        return named
    needed = config.tensor_parallel_size * config.pipeline_parallel_size * config.data_parallel_size
    if config.gpus is not None and len(named) != needed:
        raise PermanentEngineError(
            f"gpus names {_count(len(named))}, and {_sizes(config, number)} needs {needed}: name as many as are needed"
        )
    if config.gpus is not None:
        return named
    if len(named) < number * needed:
        sizes = "the sizes" if number == 1 else "replicas, or the sizes"
        raise PermanentEngineError(
            f"{_sizes(config, number)} needs {_count(number * needed)}, and the machine has {len(named)}: "
            f"lower {sizes}, or set distributed: ray for GPUs of several machines"
        )
    return named[(number - 1) * needed : number * needed]


def _check_numbers(named: Sequence[int], known: Sequence[int]) -> None:
    if twice := sorted({number for number in named if named.count(number) > 1}):
        raise PermanentEngineError(f"gpus: {_list(twice)} is named twice: each rank needs a GPU of its own")
    if known and (missing := [number for number in named if number not in known]):
        raise PermanentEngineError(f"gpus: there is no GPU {_list(missing)}: the machine has {_list(known)}")


def _check_split(config: VllmConfig, attention_heads: int | None) -> None:
    size = config.tensor_parallel_size
    if attention_heads is None or attention_heads % size == 0:
        return
    sizes = [each for each in range(1, attention_heads + 1) if attention_heads % each == 0]
    raise PermanentEngineError(
        f"tensor_parallel_size: {size} GPUs cannot share out the {attention_heads} attention heads of "
        f"{config.model} evenly: take one of {_list(sizes)}"
    )


def _needs(config: VllmConfig, numbers: Sequence[int], gpus: Sequence[Gpu]) -> GpuNeeds:
    share = VLLM_UTILIZATION if config.gpu_memory_utilization is None else config.gpu_memory_utilization
    sizes = {gpu.index: gpu.total_bytes for gpu in gpus}
    asleep = {} if config.sleep_level is None else {each: _asleep(sizes.get(each, 0), share) for each in numbers}
    return GpuNeeds(awake=dict.fromkeys(numbers, share), asleep=asleep, is_pinned=config.pinned)


def _asleep(total_bytes: int, share: float) -> float:
    """The share that an engine takes asleep, never more than the share that it takes awake."""
    return min(share, ASLEEP_BYTES / total_bytes if total_bytes else ASLEEP_SHARE)


def _sizes(config: VllmConfig, number: int) -> str:
    """The replica's number and the parallel sizes that are not 1, with their names in the config, for messages."""
    sizes = {
        "replica": number,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "data_parallel_size": config.data_parallel_size,
    }
    parts = [f"{name} {size}" for name, size in sizes.items() if size > 1]
    return " by ".join(parts) or "one engine"


def _count(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
