"""Finding the GPUs; whatever is missing on the machine, the result is a list."""

import pytest

from tests.fakes.gpus import FakeNvml
from tidegate.engines.gpus.devices import Gpu, find_gpus

GIB = 1 << 30
H100 = ("NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB)
L4 = ("NVIDIA L4", 24 * GIB, 20 * GIB)


def test_each_gpu_is_described():
    nvml = FakeNvml([H100, L4])
    assert find_gpus({}, nvml=nvml) == [
        Gpu(index=0, uuid="GPU-0000-abcd", name=H100[0], total_bytes=80 * GIB, free_bytes=79 * GIB),
        Gpu(index=1, uuid="GPU-0001-abcd", name=L4[0], total_bytes=24 * GIB, free_bytes=20 * GIB),
    ]
    assert nvml.calls == ["init", "shutdown"]


def test_older_versions_of_the_library_return_bytes():
    [gpu] = find_gpus({}, nvml=FakeNvml([L4], is_old=True))
    assert (gpu.name, gpu.uuid) == (L4[0], "GPU-0000-abcd")


def test_memory_that_the_library_does_not_report_is_0():
    """Machines with one memory for CPU and GPU."""
    [gpu] = find_gpus({}, nvml=FakeNvml([("NVIDIA GB10", None, None)]))
    assert (gpu.total_bytes, gpu.free_bytes) == (0, 0)


def test_a_failed_gpu_is_left_out_and_the_others_keep_their_numbers():
    assert [gpu.index for gpu in find_gpus({}, nvml=FakeNvml([H100, None, L4]))] == [0, 2]


def test_without_a_driver_and_without_device_files_there_is_none(tmp_path):
    nvml = FakeNvml([H100], has_driver=False)
    assert find_gpus({}, nvml=nvml, devices=tmp_path) == []
    assert find_gpus({}, nvml=nvml, devices=tmp_path / "nowhere") == []


def test_without_the_library_the_device_files_are_counted(tmp_path):
    for name in ("nvidia1", "nvidia0", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert find_gpus({}, nvml=FakeNvml([], has_driver=False), devices=tmp_path) == [
        Gpu(index=0),
        Gpu(index=1),
        Gpu(index=10),
    ]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", [L4[0]]),
        ("1,0", [L4[0], H100[0]]),
        (" 1 , 0", [L4[0], H100[0]]),
        ("GPU-0001", [L4[0]]),
        ("0,7,1", [H100[0]]),
        ("-1", []),
        ("", []),
    ],
)
def test_hidden_gpus_do_not_count_and_the_others_are_numbered_as_cuda_does(visible, names):
    """CUDA numbers them in the given order, from 0 on, and stops at the first that does not exist."""
    gpus = find_gpus({"CUDA_VISIBLE_DEVICES": visible}, nvml=FakeNvml([H100, L4]))
    assert [(gpu.index, gpu.name) for gpu in gpus] == list(enumerate(names))


def test_the_real_machine_is_searched_without_an_error():
    """Whatever GPUs it has."""
    assert isinstance(find_gpus({}), list)
