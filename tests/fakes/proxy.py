"""Starts Tidegate in this process on a real socket, or as a process of its own."""

import asyncio
import json
import os
import re
import sys
from contextlib import asynccontextmanager

import msgspec

from tidegate.app.app import App
from tidegate.config import load
from tidegate.config.routing import RetryConfig, RoutingConfig
from tidegate.entrypoints import server

# These variables of the environment are hidden, so that they do not influence what Tidegate finds in a test.
_HIDDEN = re.compile(r"(_API_KEY|_BASE_URL|OLLAMA_HOST|TIDEGATE_.*)$")


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _HIDDEN.search(name)} | variables


@asynccontextmanager
async def serving(config_text: str, *, grace_s: float = 5.0):
    """Tidegate with this config in this process; yields its URL (without /v1)."""
    async with running_app(config_text, grace_s=grace_s) as (url, _):
        yield url


@asynccontextmanager
async def running_app(config_text: str, *, grace_s: float = 5.0, clock=None, prepare=None):
    """Tidegate with this config in this process; yields its URL (without /v1) and the `App`.

    `prepare` may change the app before it starts. Failed requests are not repeated at the same target, unless the
    config has a key `routing`.
    """
    config = load.parse(config_text, "test.yaml")
    if not re.search(r'\brouting"?:', config_text):
        config = msgspec.structs.replace(config, routing=RoutingConfig(retry=RetryConfig(repeats=0)))
    running_app = App(config, clock=clock)
    if prepare is not None:
        prepare(running_app)
    host, port = server.choose_address("127.0.0.1", 0)
    stop = asyncio.Event()

    async def drain() -> None:
        await running_app.running.drain(grace_s)

    running_app.start()
    serve = asyncio.create_task(server.serve(running_app.asgi, host=host, port=port, stop=stop, drain=drain))
    try:
        await until_open(host, port)
        yield f"http://{host}:{port}", running_app
    finally:
        stop.set()
        await serve
        await running_app.stop()


async def until_open(host: str, port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


class Process:
    """`tidegate serve` as a process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, banner: str) -> None:
        self.process = process
        self.url = url
        self.banner = banner
        self.lines: list[dict] = []

    async def line(self, event: str, **fields) -> dict:
        """Wait for the next log line of that event with those fields, and return it."""
        while True:
            raw = await self.process.stdout.readline()
            assert raw, f"the log ended without {event}"
            entry = json.loads(raw)
            self.lines.append(entry)
            if entry["event"] == event and fields.items() <= entry.items():
                return entry


async def start(
    *arguments: str, stdout: int = asyncio.subprocess.PIPE, stderr: int = asyncio.subprocess.PIPE, **variables: str
) -> asyncio.subprocess.Process:
    """Run `tidegate` without the keys in the environment; its log goes to `stdout`, its banner to `stderr`."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tidegate",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment(**variables),
    )


@asynccontextmanager
async def process(*arguments: str, stdout: int = asyncio.subprocess.PIPE, **variables: str):
    """`tidegate serve` on a free port; yields when it listens, and kills it at the end if it is still running."""
    started = await start("serve", "--port", "0", *arguments, stdout=stdout, **variables)
    banner = ""
    try:
        while (match := re.search(r"listening +(http://\S+)/v1", banner)) is None or "-d '{" not in banner:
            raw = await started.stderr.readline()
            assert raw, f"tidegate ended: {banner}"
            banner += raw.decode()
        url = match[1]
        host, _, port = url.removeprefix("http://").rpartition(":")
        await until_open(host, int(port))
        yield Process(started, url, banner)
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()
