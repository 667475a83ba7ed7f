"""The child process: llama.cpp's HTTP server on a Unix socket, until SIGTERM or until the parent is gone.

Run as `python -m proxy.engines.llamacpp_server JSON` (see `llamacpp.ServerSpec`). The parent holds the other end of our
standard input and never writes: its end means that the parent is gone, however it went. Loading holds the interpreter's
lock, so on Linux the kernel is asked as well to kill us with the parent.
"""

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec
import xllamacpp

from proxy.engines.llamacpp import ServerSpec

_PR_SET_PDEATHSIG = 1


def main(argument: str) -> None:
    """Serve, and return after SIGTERM."""
    spec = msgspec.json.decode(argument, type=ServerSpec)
    _die_with_parent(spec.socket_path)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = xllamacpp.Server(_params(spec))
    stop.wait()
    del server


def _params(spec: ServerSpec) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = spec.model
    params.model_alias = {spec.alias}
    params.hostnames = [spec.socket_path]
    params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.threads
    params.n_ctx = spec.context_tokens
    params.n_parallel = spec.parallel
    params.kv_unified = True  # one long request may use the whole window
    params.use_jinja = True
    params.endpoint_slots = False  # it would show what others ask
    params.ui = False
    return params


def _die_with_parent(socket_path: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_end, args=(socket_path,), daemon=True).start()


def _wait_for_end(socket_path: str) -> None:
    while os.read(0, 4096):
        pass
    Path(socket_path).unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
