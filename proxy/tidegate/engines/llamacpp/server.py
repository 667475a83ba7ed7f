"""The child process of the kind llama.cpp: llama.cpp's HTTP server on a Unix socket, until SIGTERM.

It is run as `python -m tidegate.engines.llamacpp.server`, with its `engine.ServerSpec` as JSON in the environment.
"""

import os
import signal
import threading

import msgspec
import xllamacpp

from tidegate.engines.llamacpp.engine import SPEC_VARIABLE, ServerSpec


def main(spec_json: str) -> None:
    """Serve until SIGTERM; `spec_json` is a `ServerSpec` as JSON."""
    spec = msgspec.json.decode(spec_json, type=ServerSpec)
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
    params.api_keys = [spec.api_key]
    params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.threads
    params.n_ctx = spec.context_tokens * spec.parallel
    params.n_parallel = spec.parallel
    params.kv_unified = False  # one cache for each request: if a shared cache is full, all requests fail
    params.use_jinja = True
    params.endpoint_slots = False  # the route /slots would show the prompts of other requests
    params.endpoint_metrics = True
    params.ui = False
    return params


if __name__ == "__main__":
    main(os.environ.pop(SPEC_VARIABLE))
