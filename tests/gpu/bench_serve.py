"""Runs `vllm bench serve FLAG…` with vLLM's Python: `bench_serve.py SOCKET FLAG…`; the last line is the result as JSON.

SOCKET is the path of a Unix socket, or `-` for the address in the flags. vLLM's benchmark supports only TCP, and
Tidegate's engines listen on Unix sockets, so this script replaces the connector; then no proxy is needed in between.
vLLM's console script is not used, because it fails with vLLM's CPU build.
"""

import argparse
import json
import sys
from typing import Any

import aiohttp
from vllm.benchmarks.serve import add_cli_args, main


def _connect_to(path: str) -> None:
    def connector(*, limit: int = 100, **_options: Any) -> aiohttp.UnixConnector:
        return aiohttp.UnixConnector(path, limit=limit, keepalive_timeout=60)

    aiohttp.TCPConnector = connector


if __name__ == "__main__":
    socket, *flags = sys.argv[1:]
    if socket != "-":
        _connect_to(socket)
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    print(json.dumps(main(parser.parse_args(flags))))
