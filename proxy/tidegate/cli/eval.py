"""`tidegate eval run`: sends the shipped items to every target of a running server, and writes the scores to a file."""

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from tidegate.cli.progress import redraw
from tidegate.cli.remote import CommandRefused, Interrupted, check_url
from tidegate.clock import SystemClock
from tidegate.config import load
from tidegate.config.environment import discover
from tidegate.config.evals import EvalFile, EvalScore, to_json
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.config.root import Config, did_you_mean, unnamed_engines
from tidegate.evals.client import EvalClient, NotAnswered
from tidegate.evals.items import shipped
from tidegate.evals.run import Outcome, run
from tidegate.transport.credential_specs import of_keys
from tidegate.transport.credentials import CredentialPool
from tidegate.transport.wire import Timeouts, Transport

_TIMEOUTS = Timeouts(connect_s=10.0, first_byte_s=600.0, answer_s=600.0, idle_s=600.0)
_COLUMNS = ("TARGET", "TASK", "RIGHT", "ASKED")


@click.group("eval")
def eval_() -> None:
    """Measure how good the targets of a running server are."""


@eval_.command("run")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The server's config; without it, the environment is used.",
)
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, callback=check_url, help="The URL of the server."
)
@click.option("--key", envvar="TIDEGATE_API_KEY", show_envvar=True, help="An API key of the server, if it has any.")
@click.option("--model", "models", multiple=True, help="Only this model, or target as upstream/name; may be repeated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="evals.json",
    show_default=True,
    help="File for routing.evals.",
)
@click.option("--at-once", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at a time.")
def run_(file: Path | None, url: str, key: str | None, models: Sequence[str], out: Path, at_once: int) -> None:
    """Send the shipped test items to each target of each model, and write how many each answered right.

    Every item is a request that costs as much as any other. Set routing.evals to the file that is written.
    """
    try:
        config = discover(os.environ).config if file is None else load.load(file)
        targets = targets_of(config, models, "the environment" if file is None else str(file))
        _check_writable(out)
        outcomes = asyncio.run(_run_all(url, key, targets, at_once))
        found = EvalFile(shipped().version, SystemClock().now_s(), tuple(_scores(outcomes)))
        click.echo("\n".join(table(outcomes)))
        if not found.scores:
            raise CommandRefused(f"no target answered; {out} is not written")
        _write(out, to_json(found))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {out} is not written") from None
    click.echo(f"\nwritten to {out}")


def targets_of(config: Config, models: Sequence[str], source: str) -> Sequence[str]:
    """The names that select the targets of `models`, each name once; if `models` is empty, of all models.

    `source` is where the config was read from; shown in error messages.

    Raises:
        CommandRefused: a model does not exist, or there are no models.
    """
    known = dict(config.models)
    known |= {name: ModelConfig(targets=(TargetConfig(engine=name),)) for name in unnamed_engines(config)}
    names: dict[str, None] = {}
    for model in models or known:
        if model in known:
            names |= dict.fromkeys(_name(target) for target in known[model].targets)
        elif model.partition("/")[0] in config.upstreams.keys() | config.engines.keys() and "/" in model:
            names[model] = None
        else:
            hint = "set --config to the server's file, or use --model upstream/name"
            raise CommandRefused(f"no model is called {model} in {source}; {did_you_mean(model, known)} (or {hint})")
    if not names:
        raise CommandRefused(f"{source} names no model; use --model upstream/name")
    return list(names)


def table(outcomes: Iterable[Outcome]) -> Iterable[str]:
    """A row for each target and task, and a line for each target without right answers or with failed requests."""
    outcomes = list(outcomes)
    scores = _scores(outcomes)
    rows = [_COLUMNS, *((score.target, score.task, str(score.right), str(score.asked)) for score in scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    yield from ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    for outcome in outcomes:
        found = outcome.scores()
        if found and not any(score.right for score in found):
            yield f"{outcome.target}: no answer was right; is it the intended model?"
        if outcome.failed:
            error = " ".join(outcome.first_error.split())[:200]
            yield f"{outcome.target}: items without an answer: {outcome.failed}; the first error: {error}"


def _name(target: TargetConfig) -> str:
    upstream = target.upstream or target.engine or ""
    return f"{upstream}/{target.model or upstream}"


def _scores(outcomes: Iterable[Outcome]) -> list[EvalScore]:
    return [score for outcome in outcomes for score in outcome.scores()]


async def _run_all(url: str, key: str | None, targets: Sequence[str], at_once: int) -> Sequence[Outcome]:
    items = shipped()
    count = len(items.items) * len(targets)
    transport = Transport(
        url.rstrip("/") + "/v1", timeouts=_TIMEOUTS, credentials=CredentialPool(of_keys([key] if key else []))
    )
    try:
        client = EvalClient(transport, items)
        return await run(client, targets, items.items, at_once=at_once, on_progress=lambda done: _show(done, count))
    except NotAnswered as error:
        hint = " Set TIDEGATE_API_KEY." if error.status == 401 else ""
        raise CommandRefused(f"{url}: {error}{hint}") from error
    except ValueError as error:
        raise CommandRefused("the key cannot be sent in a header") from error
    finally:
        _show(count, count)
        await transport.close()


def _show(done: int, count: int) -> None:
    if sys.stderr.isatty():
        redraw(sys.stderr, f"  {done} of {count} asked" if done < count else "")


def _check_writable(out: Path) -> None:
    """Check that the file can be written, before any request costs money.

    Raises:
        CommandRefused: it cannot.
    """
    if out.is_dir() or not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise CommandRefused(f"{out} cannot be written")


def _write(out: Path, body: bytes) -> None:
    try:
        out.write_bytes(body)
    except OSError as error:
        raise CommandRefused(f"{out} cannot be written: {error.strerror}") from error
