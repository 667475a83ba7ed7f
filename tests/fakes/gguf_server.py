"""llama.cpp's server from xllamacpp, as a program for `kind: command`.

It is run as `gguf_server.py --model FILE --host HOST --port N`. HOST is an address or, if it ends in .sock, a Unix
socket, as for llama-server.
"""

import argparse
import os
import signal
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--alias", default="gguf")
    options = parser.parse_args()
    print(f"pid {os.getpid()}", flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_ctx, params.n_parallel = 2048, 2
    params.use_jinja = params.endpoint_metrics = True
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [key]
    server = xllamacpp.Server(params)
    stop.wait()
    print("asked to end", flush=True)
    del server


if __name__ == "__main__":
    main()
