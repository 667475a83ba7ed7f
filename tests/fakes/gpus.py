"""`FakeNvml`: a double of NVIDIA's management library (NVML) for a machine with given GPUs."""

from dataclasses import dataclass, field
from types import SimpleNamespace


class NVMLError(Exception):
    pass


@dataclass
class FakeNvml:
    """The library on one machine.

    Attributes:
        gpus: a tuple for each GPU: name, total and free bytes. None in place of the sizes: reading them is not
            supported. None in place of the tuple: the GPU is lost.
        has_driver: False: the library cannot be initialised.
        is_old: texts are bytes, as in old versions of the library.
        calls: the calls of `nvmlInit` ("init") and `nvmlShutdown` ("shutdown"), in order.
    """

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
