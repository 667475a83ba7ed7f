"""`vllm bench serve FLAG…`, run by vLLM's Python: `bench_serve.py PLACE FLAG…`; its numbers are the last line, as JSON.

PLACE is a Unix socket, or `-` for what the flags say: vLLM's benchmark speaks TCP alone, and Tidegate's engines listen
on sockets. Only where it connects is replaced, so that nothing stands between it and the engine. vLLM's console script
fails under its CPU build.
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
    place, *flags = sys.argv[1:]
    if place != "-":
        _connect_to(place)
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    print(json.dumps(main(parser.parse_args(flags))))
