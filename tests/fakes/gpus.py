"""NVIDIA's management library, as a machine with the GPUs given would answer."""

from dataclasses import dataclass, field
from types import SimpleNamespace


class NVMLError(Exception):
    pass


@dataclass
class FakeNvml:
    """Each GPU is (name, total, free); None instead of the sizes: not supported; None instead of a GPU: it is lost."""

    gpus: list
    has_driver: bool = True
    is_old: bool = False
    calls: list = field(default_factory=list)
    NVMLError = NVMLError

    def nvmlInit(self):  # noqa: N802
        self.calls.append("init")
        if not self.has_driver:
            raise NVMLError("no library")

    def nvmlShutdown(self):  # noqa: N802
        self.calls.append("shutdown")

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if self.gpus[index] is None:
            raise NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return self._text(f"GPU-{handle:04}-abcd")

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self._text(self.gpus[handle][0])

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        _, total, free = self.gpus[handle]
        if total is None:
            raise NVMLError("not supported")
        return SimpleNamespace(total=total, free=free)

    def _text(self, text):
        return text.encode() if self.is_old else text
