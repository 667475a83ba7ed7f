"""How long a start may take, by the size of the model; no I/O."""

_READ_BYTES_S = 50e6  # bytes per second of a slow disk
_DOWNLOAD_S = 7200.0  # a model or a container image of unknown size over an unknown network


def start_limit_s(base_s: float, model_bytes: int, *, may_download: bool = False) -> float:
    """Return the number of seconds after which a start has failed.

    Args:
        base_s: the time for everything but reading the model: imports, compilation, graph capture.
        model_bytes: the size of the files that are read from the disk; 0 if it is unknown.
        may_download: whether a model or a container image may have to be downloaded first.
    """
    return base_s + model_bytes / _READ_BYTES_S + (_DOWNLOAD_S if may_download else 0.0)
