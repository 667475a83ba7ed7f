"""Which GPUs an engine gets and its share of them, or the error with a remedy."""

import pytest

from tidegate.config.engines import VllmConfig
from tidegate.engines.base import PermanentEngineError
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.gpus.devices import Gpu
from tidegate.engines.gpus.placement import Placement, place_vllm

GIB = 1 << 30
FEWER = "lower the sizes, or set distributed: ray for GPUs of several machines"


def machine(count, gib=80):
    return [Gpu(index=index, total_bytes=gib * GIB) for index in range(count)]


def config(**fields):
    return VllmConfig(model="org/m", **fields)


def test_an_engine_takes_the_first_gpu_and_vllms_share_of_it():
    assert place_vllm(config(), machine(2)) == Placement((0,), GpuNeeds(awake={0: 0.92}))


def test_all_sizes_multiply():
    sizes = config(tensor_parallel_size=2, pipeline_parallel_size=2, data_parallel_size=2)
    assert place_vllm(sizes, machine(9)).gpus == tuple(range(8))


def test_the_named_gpus_are_taken_in_their_order():
    """The engine's ranks have the same order."""
    placement = place_vllm(config(gpus=(3, 1), tensor_parallel_size=2, gpu_memory_utilization=0.5), machine(4))
    assert placement == Placement((3, 1), GpuNeeds(awake={3: 0.5, 1: 0.5}))


def test_the_needs_of_a_pinned_engine_are_pinned():
    assert place_vllm(config(pinned=True), machine(1)).needs.is_pinned


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize(("gib", "share"), [(80, 5 / 80), (24, 5 / 24), (0, 0.1)])
def test_asleep_it_keeps_about_5_gib(level, gib, share):
    assert place_vllm(config(sleep_level=level), machine(1, gib)).needs.asleep == {0: pytest.approx(share)}


def test_asleep_it_takes_no_more_than_awake():
    assert place_vllm(config(sleep_level=1, gpu_memory_utilization=0.05), machine(1, 24)).needs.asleep == {0: 0.05}


def test_without_gpus_no_gpu_is_assigned():
    assert place_vllm(config(tensor_parallel_size=2), []) == Placement()


def test_where_no_gpu_is_known_the_named_ones_are_assumed_to_exist():
    """A machine without NVIDIA's driver may have other GPUs."""
    assert place_vllm(config(gpus=(4,)), []) == Placement((4,), GpuNeeds(awake={4: 0.92}))


def test_with_ray_no_gpu_is_assigned():
    assert place_vllm(config(distributed="ray", tensor_parallel_size=16), machine(2)) == Placement()


def test_the_local_part_of_a_distributed_engine_takes_all_gpus():
    assert place_vllm(config(data_parallel_size=16), machine(2), is_multi_host=True).gpus == (0, 1)
    assert place_vllm(config(data_parallel_size=16, gpus=(1,)), machine(2), is_multi_host=True).gpus == (1,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"tensor_parallel_size": 4},
            f"tensor_parallel_size 4 needs 4 GPUs, and the machine has 2: {FEWER}",
        ),
        (
            {"tensor_parallel_size": 2, "data_parallel_size": 2},
            f"tensor_parallel_size 2 by data_parallel_size 2 needs 4 GPUs, and the machine has 2: {FEWER}",
        ),
        ({"gpus": (2,)}, "gpus: there is no GPU 2: the machine has 0, 1"),
        (
            {"gpus": (0, 0), "tensor_parallel_size": 2},
            "gpus: 0 is named twice: each rank needs a GPU of its own",
        ),
        ({"gpus": (0, 1)}, "gpus names 2 GPUs, and one engine needs 1: name as many as are needed"),
        ({"gpus": ()}, "gpus names 0 GPUs, and one engine needs 1: name as many as are needed"),
        (
            {"gpus": (0,), "tensor_parallel_size": 2},
            "gpus names 1 GPU, and tensor_parallel_size 2 needs 2: name as many as are needed",
        ),
    ],
)
def test_missing_gpus_are_an_error_with_a_remedy(fields, message):
    with pytest.raises(PermanentEngineError) as caught:
        place_vllm(config(**fields), machine(2))
    assert str(caught.value) == message


def test_attention_heads_that_cannot_be_divided_are_an_error():
    """VLLM itself reports this only after a minute of loading."""
    with pytest.raises(
        PermanentEngineError, match=r"2 GPUs cannot share out the 9 attention heads of org/m evenly: .* 1, 3, 9"
    ):
        place_vllm(config(tensor_parallel_size=2), machine(2), attention_heads=9)
    assert place_vllm(config(tensor_parallel_size=2), machine(2), attention_heads=8).gpus == (0, 1)


# --- replicas -----------------------------------------------------------------------------------------------------


def test_replicas_take_the_machines_gpus_one_after_the_other():
    pair = config(tensor_parallel_size=2)
    assert [place_vllm(pair, machine(4), number=number).gpus for number in (1, 2)] == [(0, 1), (2, 3)]


def test_a_replica_takes_the_gpus_that_were_assigned_to_it():
    assert place_vllm(config(gpus=(3, 1), tensor_parallel_size=2), machine(4), number=2).gpus == (3, 1)


@pytest.mark.parametrize(
    ("fields", "gpus", "number", "message"),
    [
        ({}, 1, 2, "replica 2 needs 2 GPUs, and the machine has 1: lower replicas, or the sizes"),
        (
            {"tensor_parallel_size": 2},
            3,
            2,
            "replica 2 by tensor_parallel_size 2 needs 4 GPUs, and the machine has 3: lower replicas, or the sizes",
        ),
        (
            {"tensor_parallel_size": 2, "gpus": (1,)},
            4,
            2,
            "gpus names 1 GPU, and replica 2 by tensor_parallel_size 2 needs 2: name as many as are needed",
        ),
    ],
)
def test_too_few_gpus_for_a_replica_are_an_error_with_a_remedy(fields, gpus, number, message):
    with pytest.raises(PermanentEngineError) as caught:
        place_vllm(config(**fields), machine(gpus), number=number)
    assert str(caught.value).startswith(message)


def test_without_gpus_or_with_ray_a_replica_gets_no_gpus():
    assert place_vllm(config(), [], number=2).gpus == ()
    assert place_vllm(config(distributed="ray", tensor_parallel_size=8), machine(1), number=2).gpus == ()
