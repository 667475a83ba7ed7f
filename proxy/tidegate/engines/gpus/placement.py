"""Where an engine goes: on which GPUs, and how much of them it takes. A pure function of config and machine.

Memory is counted as vLLM takes it, in shares of each GPU's whole memory. An engine that sleeps gives back weights and
cache, but keeps its CUDA context, graphs and buffers: vLLM's own log ("Sleep mode freed …, … is still in use") tells of
1.4 to 4.3 GiB at level 1 and 2 alike, since what is kept is neither weights nor cache; we count 5 GiB.
"""

from collections.abc import Sequence

from msgspec import Struct

from tidegate.config.engines import CommandConfig, VllmConfig
from tidegate.engines.base import PermanentEngineError
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import Gpu

VLLM_UTILIZATION = 0.92  # vLLM's own in 0.32; in 0.10 it was 0.9, and planning for too much is safe
ASLEEP_BYTES = 5 << 30
ASLEEP_SHARE = 0.1  # where the memory's size is unknown


class Placement(Struct, frozen=True):
    """Where an engine goes.

    Attributes:
        gpus: by number, in the order of its ranks; empty: none, or nobody knows, and vLLM is not told.
        needs: its share of them.
    """

    gpus: tuple[int, ...] = ()
    needs: GpuNeeds = GpuNeeds()


def place(
    config: VllmConfig,
    gpus: Sequence[Gpu],
    *,
    attention_heads: int | None = None,
    is_spread: bool = False,
    number: int = 1,
) -> Placement:
    """The GPUs that the config names, or the first ones that it needs; a replica's follow those of the replica before.

    Where no GPU is known, those that the config names are believed to be there.

    Args:
        config: the engine's.
        gpus: the machine's, see `gpus.find_gpus`; none for vLLM's build for CPUs.
        attention_heads: of the model, where known.
        is_spread: only a part of it runs here, so that it takes all that it may.
        number: which replica it is, from 1 on.

    Raises:
        Hopeless: the machine does not have what the config asks for.
    """
    _check_split(config, attention_heads)
    if config.distributed is not None:
        return Placement(needs=GpuNeeds(is_pinned=config.pinned))  # Ray knows which machine's
    known = tuple(gpu.index for gpu in gpus)
    numbers = _numbers(config, known, is_spread=is_spread, number=number)
    if config.gpus is not None:
        _check_numbers(config.gpus, known)
    return Placement(numbers, _needs(config, numbers, gpus))


def place_command(config: CommandConfig, gpus: Sequence[Gpu]) -> GpuNeeds:
    """What a `kind: command` takes: its share of the GPUs that the config names.

    Raises:
        Hopeless: the machine does not have them.
    """
    numbers = config.gpus or ()
    _check_numbers(numbers, tuple(gpu.index for gpu in gpus))
    sizes = {gpu.index: gpu.total_bytes for gpu in gpus}
    can_sleep = config.sleep_path is not None
    asleep = {each: _asleep(sizes.get(each, 0), config.gpu_share) for each in numbers} if can_sleep else {}
    return GpuNeeds(awake=dict.fromkeys(numbers, config.gpu_share), asleep=asleep, is_pinned=config.pinned)


def _numbers(config: VllmConfig, known: tuple[int, ...], *, is_spread: bool, number: int) -> tuple[int, ...]:
    named = known if config.gpus is None else config.gpus
    if is_spread or (config.gpus is None and not known):
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
    """Never more than what it takes awake."""
    return min(share, ASLEEP_BYTES / total_bytes if total_bytes else ASLEEP_SHARE)


def _sizes(config: VllmConfig, number: int) -> str:
    """The replica's number and the parallel sizes, as far as they are not 1, by their names in the config."""
    sizes = {
        "replica": number,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "data_parallel_size": config.data_parallel_size,
    }
    said = [f"{name} {size}" for name, size in sizes.items() if size > 1]
    return " by ".join(said) or "one engine"


def _count(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
