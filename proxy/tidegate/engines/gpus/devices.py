"""Which GPUs the machine has: from NVIDIA's management library (NVML) where it is installed, else from device files.

Neither is required. An unknown value is 0 or empty, and no function raises.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_DEVICE_FILE = re.compile(r"nvidia(\d+)")


class Gpu(Struct, frozen=True, kw_only=True):
    """A GPU that Tidegate may use.

    Attributes:
        index: its number, from 0 on; where `CUDA_VISIBLE_DEVICES` hides some GPUs, its number among the visible ones.
        uuid, name: empty where unknown.
        total_bytes, free_bytes: 0 where unknown, as on machines with one memory for CPU and GPU.
    """

    index: int
    uuid: str = ""
    name: str = ""
    total_bytes: int = 0
    free_bytes: int = 0


class Nvml(Protocol):
    """The part of the module `pynvml` (from the package nvidia-ml-py) that is used here."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's names
        """Load the driver's library."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Release the driver's library."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """The number of GPUs of the whole machine, hidden ones included."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: ANN401, N802 - opaque
        """The handle of the GPU with this number, in the order of the PCI bus."""

    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes:  # noqa: ANN401, N802
        """The unique id, `GPU-…`."""

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes:  # noqa: ANN401, N802
        """The product name."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: ANN401, N802
        """An object with `total` and `free`, in bytes."""


def find_gpus(
    environment: Mapping[str, str], *, nvml: Nvml | None = None, devices: Path = Path("/dev")
) -> Sequence[Gpu]:
    """The GPUs that an engine may use; blocks while the driver initialises, seconds at worst.

    Args:
        environment: Tidegate's environment variables; `CUDA_VISIBLE_DEVICES` may hide some GPUs.
        nvml: the library; None: import `pynvml` if it is installed.
        devices: the folder of the device files.
    """
    nvml = nvml or _load_nvml()
    found = (nvml and _query_nvml(nvml)) or _count_device_files(devices)
    return _visible(found, environment.get(VISIBLE_DEVICES))


def visibility_of(gpus: Sequence[int], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables with which a process can use only these GPUs.

    Args:
        gpus: their numbers (`Gpu.index`), in the order in which the process is to number them.
        environment: Tidegate's environment variables; `CUDA_VISIBLE_DEVICES` may hide some GPUs.
    """
    visible = environment.get(VISIBLE_DEVICES)
    visible_names = visible.split(",") if visible else None
    devices = [
        str(number) if visible_names is None else visible_names[number]
        for number in gpus
        if visible_names is None or number < len(visible_names)
    ]
    # the order in which NVML numbers them; CUDA's default order is by speed
    return {VISIBLE_DEVICES: ",".join(devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _load_nvml() -> Nvml | None:
    try:
        import pynvml  # noqa: PLC0415 - an optional package, of no use without a GPU
    except ImportError:
        return None
    library: Nvml = pynvml
    return library


def _query_nvml(nvml: Nvml) -> list[Gpu]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return []
    gpus = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # a GPU that has failed and is no longer on the bus
                gpus.append(_describe(nvml, index))
    except nvml.NVMLError:
        return []
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    return gpus


def _describe(nvml: Nvml, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total, free = 0, 0
    with contextlib.suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    return Gpu(index=index, uuid=_text(uuid), name=_text(name), total_bytes=total, free_bytes=free)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value  # older versions return bytes


def _count_device_files(devices: Path) -> list[Gpu]:
    """The GPUs that have a device file, which NVIDIA's driver creates for each."""
    try:
        names = [file.name for file in devices.iterdir()]
    except OSError:
        return []
    numbers = sorted(int(match[1]) for name in names if (match := _DEVICE_FILE.fullmatch(name)))
    return [Gpu(index=number) for number in numbers]


def _visible(gpus: Iterable[Gpu], visible: str | None) -> list[Gpu]:
    """The GPUs that CUDA would show, in its order; as CUDA does, stop at the first name that matches no GPU."""
    gpus = list(gpus)
    if visible is None:
        return gpus
    shown: list[Gpu] = []
    for each in visible.split(","):
        gpu = next((gpu for gpu in gpus if _matches(gpu, each.strip())), None)
        if gpu is None:
            break
        shown.append(gpu)
    return [
        Gpu(index=index, uuid=gpu.uuid, name=gpu.name, total_bytes=gpu.total_bytes, free_bytes=gpu.free_bytes)
        for index, gpu in enumerate(shown)
    ]


def _matches(gpu: Gpu, name: str) -> bool:
    """Whether `name` is the number of the GPU, or the beginning of its UUID."""
    return name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name))
