"""`tidegate serve`: runs the server."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import msgspec
import structlog
import uvloop

from tidegate.app.app import App
from tidegate.app.keys import check_exposure
from tidegate.cli.banner import explain_nothing_found, show
from tidegate.cli.progress import EngineProgress
from tidegate.config import load
from tidegate.config.environment import Discovery, discover
from tidegate.config.root import Config
from tidegate.entrypoints import server
from tidegate.telemetry import logs
from tidegate.telemetry.output import redirect_output


@click.command()
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="A YAML file; without it, the environment is used."
)
@click.option("--host", help="The address to listen on, instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on, instead of server.port.")
@click.option("--no-auth", is_flag=True, help="Accept requests without a key from everybody who can reach the address.")
def serve(file: Path | None, host: str | None, port: int | None, *, no_auth: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one cancels running answers. SIGHUP reads the config again."""

    def read() -> Discovery:
        found = discover(os.environ) if file is None else Discovery(load.load(file), str(file), ())
        return msgspec.structs.replace(found, config=_override(found.config, host, port))

    discovery = read()
    config = discovery.config
    if not (config.upstreams or config.engines):
        click.echo(explain_nothing_found(discovery, file), err=True)
        raise SystemExit(2)
    check_exposure(config, source=discovery.source, no_auth=no_auth)
    address = server.choose_address(config.server.host, config.server.port)
    stdout, stderr = redirect_output()
    logs.configure(log_format=config.telemetry.log_format, level=config.telemetry.log_level, output=stdout)
    uvloop.run(_run(read, discovery, address, no_auth=no_auth, dropped_lines=lambda: stdout.dropped + stderr.dropped))


def _override(config: Config, host: str | None, port: int | None) -> Config:
    overrides = {"host": host, "port": port}
    changes = {name: value for name, value in overrides.items() if value is not None}
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, **changes))


async def _run(
    read: Callable[[], Discovery],
    discovery: Discovery,
    address: tuple[str, int],
    *,
    no_auth: bool,
    dropped_lines: Callable[[], int],
) -> None:
    def read_config() -> tuple[Config, str]:
        found = read()
        return found.config, found.source

    progress = EngineProgress(sys.stderr)
    config = discovery.config
    running_app = App(
        config,
        source=discovery.source,
        no_auth=no_auth,
        on_engine_change=progress.update,
        read_config=read_config,
        dropped_lines=dropped_lines,
    )
    stop, stop_now = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop, stop_now)
    reloads: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, _on_reload, running_app, reloads)
    log = structlog.get_logger("tidegate")

    async def drain() -> None:
        grace_s = running_app.config.server.shutdown_grace_s
        log.info("stopping", grace_s=grace_s)
        draining = asyncio.create_task(running_app.running.drain(grace_s))
        stop_now_wait = asyncio.create_task(stop_now.wait())
        await asyncio.wait((draining, stop_now_wait), return_when=asyncio.FIRST_COMPLETED)
        stop_now_wait.cancel()
        if not draining.done():
            draining.cancel()
            await running_app.running.drain(0)
        log.info("stopped")

    show(config, discovery, address, sys.stderr)
    _tune_garbage_collector()
    running_app.start()
    progress.start({name: engine.model_bytes for name, engine in running_app.engines.by_name.items()})
    try:
        await server.serve(running_app.asgi, host=address[0], port=address[1], stop=stop, drain=drain)
    finally:
        progress.close()
        await running_app.stop()


def _tune_garbage_collector() -> None:
    """Run the garbage collector less often, and not on the objects that exist now.

    These objects stay until the end, and requests leave few reference cycles. The default, a collection after every
    700 new objects, costs CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _on_reload(app: App, reloads: set[asyncio.Task[None]]) -> None:
    async def reload() -> None:
        with suppress(Exception):  # it has been logged, and the old config stays in force
            await app.reload()

    task = asyncio.get_running_loop().create_task(reload())
    reloads.add(task)
    task.add_done_callback(reloads.discard)


def _on_signal(stop: asyncio.Event, stop_now: asyncio.Event) -> None:
    if stop.is_set():
        stop_now.set()
    stop.set()
