"""What GPUs the machine has: from NVIDIA's management library (NVML) where it is there, else from the device files.

Neither is required. What is not known is 0 or empty, and nothing here raises.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICE_FILE = re.compile(r"nvidia(\d+)")


class Gpu(Struct, frozen=True, kw_only=True):
    """One that may be used.

    Attributes:
        index: its number, from 0 on; where Tidegate may see only some (`CUDA_VISIBLE_DEVICES`), among those.
        uuid, name: empty where unknown.
        total_bytes, free_bytes: 0 where unknown, as on machines that have one memory for all.
    """

    index: int
    uuid: str = ""
    name: str = ""
    total_bytes: int = 0
    free_bytes: int = 0


class Nvml(Protocol):
    """What is needed of the module `pynvml` (from the package nvidia-ml-py)."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's names
        """Load the driver's library."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Let go of it."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Of the whole machine, whatever is visible."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: ANN401, N802 - opaque
        """By the order of the bus."""

    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes:  # noqa: ANN401, N802
        """GPU-…."""

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes:  # noqa: ANN401, N802
        """As sold."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: ANN401, N802
        """`total` and `free`."""


def find_gpus(
    environment: Mapping[str, str], *, nvml: Nvml | None = None, devices: Path = Path("/dev")
) -> Sequence[Gpu]:
    """Those that an engine may use; blocks for as long as the driver takes to wake, seconds at worst.

    Args:
        environment: ours, which may hide some.
        nvml: the library; where omitted it is looked for.
        devices: where the device files are.
    """
    nvml = nvml or _load_nvml()
    found = (nvml and _ask(nvml)) or _count(devices)
    return _visible(found, environment.get(VISIBLE))


def select(gpus: Sequence[int], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables with which a process sees only these GPUs.

    Args:
        gpus: their numbers (`Gpu.index`), in the order in which the process is to see them.
        environment: ours, which may hide some GPUs.
    """
    visible = environment.get(VISIBLE)
    seen = visible.split(",") if visible else None
    devices = [str(number) if seen is None else seen[number] for number in gpus if seen is None or number < len(seen)]
    # as NVML numbers them; CUDA's own order is by speed
    return {VISIBLE: ",".join(devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _load_nvml() -> Nvml | None:
    try:
        import pynvml  # noqa: PLC0415 - an optional package, of no use without a GPU
    except ImportError:
        return None
    library: Nvml = pynvml
    return library


def _ask(nvml: Nvml) -> list[Gpu]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return []
    gpus = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # one that fell off the bus
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
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value  # older versions give bytes


def _count(devices: Path) -> list[Gpu]:
    """The driver makes a file for each."""
    try:
        names = [file.name for file in devices.iterdir()]
    except OSError:
        return []
    numbers = sorted(int(match[1]) for name in names if (match := _DEVICE_FILE.fullmatch(name)))
    return [Gpu(index=number) for number in numbers]


def _visible(gpus: Iterable[Gpu], visible: str | None) -> list[Gpu]:
    """What CUDA would show, in its order: it stops at the first name that is none."""
    gpus = list(gpus)
    if visible is None:
        return gpus
    shown: list[Gpu] = []
    for each in visible.split(","):
        gpu = next((gpu for gpu in gpus if _is_called(gpu, each.strip())), None)
        if gpu is None:
            break
        shown.append(gpu)
    return [
        Gpu(index=index, uuid=gpu.uuid, name=gpu.name, total_bytes=gpu.total_bytes, free_bytes=gpu.free_bytes)
        for index, gpu in enumerate(shown)
    ]


def _is_called(gpu: Gpu, name: str) -> bool:
    """By number or by the beginning of its UUID."""
    return name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name))
