"""`tidegate engines …`: show and control the engines of a running server; print the command that starts an engine."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tidegate.cli.progress import describe, redraw
from tidegate.cli.remote import CommandRefused, Interrupted, Server, check_url
from tidegate.config import load
from tidegate.config.engines import ExternalConfig
from tidegate.config.environment import discover
from tidegate.config.replicas import expand, members
from tidegate.config.root import did_you_mean
from tidegate.engines.base import Command, EngineError
from tidegate.engines.gpus.devices import find_gpus
from tidegate.engines.kinds import make_kind
from tidegate.engines.states import State
from tidegate.engines.vllm.engine import Vllm
from tidegate.operations.administration import EngineReport

_POLL_S = 0.2
_COLUMNS = ("NAME", "KIND", "STATE", "IN FLIGHT", "RUNNING", "WAITING", "KV", "RESTARTS", "MODEL")

# by command: its help text, and the states of the engine that end the wait
_ORDERS: Mapping[str, tuple[str, Sequence[State]]] = {
    "start": ("Load the engine NAME, even if it was stopped or has failed for good.", ("ready",)),
    "stop": ("Stop the engine NAME when its running answers have ended; no request starts it again.", ("stopped",)),
    "sleep": ("Free the GPUs of the engine NAME until its next request.", ("sleeping",)),
    "wake": ("Wake the sleeping engine NAME: load it back onto its GPUs.", ("ready",)),
}


@click.group()
def engines() -> None:
    """Show the engines of a running server, and start, stop, sleep or wake them."""


def _on_server(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options `--url` and `--key` to a command, which receives them as one `Server`."""

    def with_server(url: str, key: str | None, **options: Any) -> None:  # noqa: ANN401 - the command's own
        command(server=Server(url, key), **options)

    with_server.__doc__ = command.__doc__
    with_server.__name__ = command.__name__
    key = click.option(
        "--key", envvar="TIDEGATE_ADMIN_KEY", show_envvar=True, help="The admin key, if the server has one."
    )
    url = click.option(
        "--url", default="http://127.0.0.1:8000", show_default=True, callback=check_url, help="The URL of the server."
    )
    return url(key(with_server))


@engines.command("list")
@_on_server
def list_(server: Server) -> None:
    """List the engines with their states and loads."""
    click.echo("\n".join(table(server.list())))


@engines.command()
@click.argument("name")
@_on_server
def logs(server: Server, name: str) -> None:
    """Print the last lines that the engine NAME has written since it was started."""
    click.echo(server.request("GET", "engines", name, "logs").decode("utf-8", "replace"), nl=False)


def _add_order(order: str, summary: str, end_states: Sequence[State]) -> None:
    @engines.command(order, help=f"{summary} Waits until that is done.")
    @click.argument("name")
    @click.option("--no-wait", is_flag=True, help="Do not wait until it is done.")
    @_on_server
    def give_order(server: Server, name: str, *, no_wait: bool) -> None:
        for report in server.send_order(name, order):
            ended = report if no_wait else _wait(server, report, end_states)
            click.echo(f"{ended.name}: {ended.state}")


for _order, (_summary, _end_states) in _ORDERS.items():
    _add_order(_order, _summary, _end_states)


@engines.command()
@click.argument("name")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="A YAML file; without it, the environment is used."
)
@click.option("--check", is_flag=True, help="First check the flags with vLLM's own parser, which takes a while.")
def command(name: str, file: Path | None, *, check: bool) -> None:
    """Print the command that starts the engine NAME of a config; no server need be running.

    At each real start, API_KEY and engine.sock are replaced by a new key and a new socket or port.
    """
    configured = expand((discover(os.environ).config if file is None else load.load(file)).engines)
    name = next(iter(members(name, configured)), name)  # the first replica
    if (config := configured.get(name)) is None:
        raise CommandRefused(f"no engine is called {name}; {did_you_mean(name, configured)}")
    if isinstance(config, ExternalConfig):
        raise CommandRefused(f"{name} is an external engine at {config.base_url}; Tidegate does not start it")
    try:
        kind = make_kind(name, config, find_gpus(os.environ))
        engine_command = kind.command("engine.sock", "API_KEY")
        if check and isinstance(kind, Vllm):
            _check_flags(kind)
    except EngineError as error:
        raise CommandRefused(str(error)) from error
    click.echo(shell_line(engine_command))


def _check_flags(kind: Vllm) -> None:
    checking = kind.check()
    result = subprocess.run(  # noqa: S603 - the operator's own Python
        checking.argv, env=os.environ | dict(checking.environment), capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = (result.stdout + result.stderr).splitlines()
        raise kind.explain(lines) or EngineError(f"vLLM ended with status {result.returncode}", lines[-1:])


def shell_line(command: Command) -> str:
    """The command as typed into a shell: each variable on a line, then the program and its arguments."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return " \\\n  ".join([*variables, shlex.join(command.argv)])


def table(reports: Iterable[EngineReport]) -> Iterable[str]:
    """A row for each engine; below it, if any, its reason, its progress and the number of waiting requests."""
    reports = list(reports)
    rows = [_COLUMNS, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    yield lines[0]
    for report, line in zip(reports, lines[1:], strict=True):
        yield line
        if details := _details(report):
            yield f"  {details}"


def _row(report: EngineReport) -> tuple[str, ...]:
    load = report.load
    return (
        report.name,
        report.kind,
        report.state,
        str(report.in_flight),
        f"{load.running:.0f}",
        f"{load.waiting:.0f}",
        "-" if load.kv_used is None else f"{load.kv_used:.0%}",
        str(report.restarts),
        report.model,
    )


def _details(report: EngineReport) -> str:
    waiting = f"{report.waiting} requests waiting" if report.waiting else ""
    return ", ".join(part for part in (report.reason, describe(report.progress, report.left_s), waiting) if part)


def _wait(server: Server, first: EngineReport, end_states: Sequence[State]) -> EngineReport:
    """Wait until the engine is in one of `end_states`; returns its last report.

    Raises:
        CommandRefused: the engine has failed, or does not follow the order.
        Interrupted: Ctrl-C was pressed; the engine still follows the order.
    """
    name, past_states = first.name, {first.state}
    interrupt = _Interrupt()
    try:
        while (report := server.report(name)[0]).state not in end_states:
            if interrupt.is_set:
                raise Interrupted(f"not waiting any longer; {name} goes on")
            has_failed_since = first.state != "failed" or report.attempts != first.attempts
            if report.state == "failed" and has_failed_since:
                raise CommandRefused(f"{name}: failed: {report.reason}")
            if report.state == "ready" and "draining" in past_states:
                raise CommandRefused(f"{name}: it stays loaded, as requests need it again")
            past_states.add(report.state)
            _show(f"  {name}: {report.state}: {_details(report)}")
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        raise Interrupted(f"not waiting any longer; {name} goes on") from None
    finally:
        interrupt.restore()
        _show("")
    return report


class _Interrupt:
    """Turns the first Ctrl-C into a flag; a second one raises `KeyboardInterrupt` again.

    A signal handler may run inside a finaliser, where Python discards exceptions; a flag is not lost.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._is_main_thread = threading.current_thread() is threading.main_thread()  # only it may set a handler
        self._old_handler = signal.signal(signal.SIGINT, self._set) if self._is_main_thread else None

    def restore(self) -> None:
        """Set the old signal handler again."""
        if self._is_main_thread:
            signal.signal(signal.SIGINT, self._old_handler)

    def _set(self, *_: object) -> None:
        self.is_set = True
        self.restore()


def _show(line: str) -> None:
    if sys.stderr.isatty():
        redraw(sys.stderr, line)
