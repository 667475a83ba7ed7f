"""`tidegate engines …`: see and tell the engines of a running server; print how one is started."""

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

# by command: what it means, and the states that end the wait
_ORDERS: Mapping[str, tuple[str, Sequence[State]]] = {
    "start": ("Load the engine NAME, also one that was stopped or has given up.", ("ready",)),
    "stop": ("Let the engine NAME end its answers, then stop it; no request starts it.", ("stopped",)),
    "sleep": ("Let the engine NAME free its GPUs until a request comes.", ("sleeping",)),
    "wake": ("Take the GPUs back for the engine NAME.", ("ready",)),
}


@click.group()
def engines() -> None:
    """See the engines of a running server, and tell them what to do."""


def _on_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which server, as one `Server`."""

    def with_server(url: str, key: str | None, **options: Any) -> None:  # noqa: ANN401 - the command's own
        command(server=Server(url, key), **options)

    with_server.__doc__ = command.__doc__
    with_server.__name__ = command.__name__
    key = click.option(
        "--key", envvar="TIDEGATE_ADMIN_KEY", show_envvar=True, help="The admin key, if the server has one."
    )
    url = click.option(
        "--url", default="http://127.0.0.1:8000", show_default=True, callback=check_url, help="Where the server is."
    )
    return url(key(with_server))


@engines.command("list")
@_on_server
def list_(server: Server) -> None:
    """Show every engine, what it does and how busy it is."""
    click.echo("\n".join(table(server.list())))


@engines.command()
@click.argument("name")
@_on_server
def logs(server: Server, name: str) -> None:
    """Print the end of what the engine NAME has written since it was started."""
    click.echo(server.ask("GET", "engines", name, "logs").decode("utf-8", "replace"), nl=False)


def _add_order(order: str, about: str, awaited: Sequence[State]) -> None:
    @engines.command(order, help=f"{about} Waits until that is done.")
    @click.argument("name")
    @click.option("--no-wait", is_flag=True, help="Say it and leave.")
    @_on_server
    def tell(server: Server, name: str, *, no_wait: bool) -> None:
        for report in server.tell(name, order):
            ended = report if no_wait else _wait(server, report, awaited)
            click.echo(f"{ended.name}: {ended.state}")


for _order, (_about, _awaited) in _ORDERS.items():
    _add_order(_order, _about, _awaited)


@engines.command()
@click.argument("name")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="A YAML file; without it, the environment decides."
)
@click.option("--check", is_flag=True, help="First have vLLM's own parser read the flags, which takes it a while.")
def command(name: str, file: Path | None, *, check: bool) -> None:
    """Print how the engine NAME of a config is started; the server need not run.

    The real one has a key and a socket or port of its own at each start, in place of API_KEY and engine.sock.
    """
    configured = expand((discover(os.environ).config if file is None else load.load(file)).engines)
    name = next(iter(members(name, configured)), name)  # the first replica
    if (config := configured.get(name)) is None:
        raise CommandRefused(f"no engine is called {name}; {did_you_mean(name, configured)}")
    if isinstance(config, ExternalConfig):
        raise CommandRefused(f"{name} is run by somebody else at {config.base_url}; there is no command")
    try:
        kind = make_kind(name, config, find_gpus(os.environ))
        made = kind.command("engine.sock", "API_KEY")
        if check and isinstance(kind, Vllm):
            _check_flags(kind)
    except EngineError as error:
        raise CommandRefused(str(error)) from error
    click.echo(shell_line(made))


def _check_flags(kind: Vllm) -> None:
    checking = kind.check()
    done = subprocess.run(  # noqa: S603 - the operator's own Python
        checking.argv, env=os.environ | dict(checking.environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        raise kind.explain(lines) or EngineError(f"vLLM ended with status {done.returncode}", lines[-1:])


def shell_line(command: Command) -> str:
    """As one would type it: the variables first, one part a line."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return " \\\n  ".join([*variables, shlex.join(command.argv)])


def table(reports: Iterable[EngineReport]) -> Iterable[str]:
    """A row for each engine and, where it takes no requests, a line with the reason, progress and waiting requests."""
    reports = list(reports)
    rows = [_COLUMNS, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    yield lines[0]
    for report, line in zip(reports, lines[1:], strict=True):
        yield line
        if why := _why(report):
            yield f"  {why}"


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


def _why(report: EngineReport) -> str:
    waiting = f"{report.waiting} requests waiting" if report.waiting else ""
    return ", ".join(part for part in (report.reason, describe(report.progress, report.left_s), waiting) if part)


def _wait(server: Server, first: EngineReport, awaited: Sequence[State]) -> EngineReport:
    """Watch the engine until it is in one of the `awaited` states.

    Raises:
        Refused: it came out otherwise, or Ctrl-C: the engine goes on without us.
    """
    name, seen = first.name, {first.state}
    interrupt = _Interrupt()
    try:
        while (report := server.report(name)[0]).state not in awaited:
            if interrupt.has_come:
                raise Interrupted(f"not waiting any longer; {name} goes on")
            has_failed_since = first.state != "failed" or report.attempts != first.attempts
            if report.state == "failed" and has_failed_since:
                raise CommandRefused(f"{name}: failed: {report.reason}")
            if report.state == "ready" and "draining" in seen:
                raise CommandRefused(f"{name}: it stays, as somebody wants it")
            seen.add(report.state)
            _show(f"  {name}: {report.state}: {_why(report)}")
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        raise Interrupted(f"not waiting any longer; {name} goes on") from None
    finally:
        interrupt.forget()
        _show("")
    return report


class _Interrupt:
    """Ctrl-C as a fact: as an exception it is lost where it meets a finaliser. The second one is an exception again."""

    def __init__(self) -> None:
        self.has_come = False
        self._is_ours = threading.current_thread() is threading.main_thread()  # no other may set a handler
        self._before = signal.signal(signal.SIGINT, self._note) if self._is_ours else None

    def forget(self) -> None:
        """Leave it to whoever had it."""
        if self._is_ours:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        self.has_come = True
        self.forget()


def _show(line: str) -> None:
    if sys.stderr.isatty():
        redraw(sys.stderr, line)
