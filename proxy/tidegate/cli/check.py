"""`tidegate check FILE`: validates a config file."""

from pathlib import Path

import click

from tidegate.app.advice import advise
from tidegate.app.app import App
from tidegate.config import load, reference
from tidegate.engines.faults import faults, notes


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate FILE and print the whole config with all defaults; secrets are shown as references.

    A setting that is valid, but has no effect or cannot work on this machine, is noted. A setting with which an engine
    could not start on any machine is an error.
    """
    config = load.load(file)
    built = App(config, source=str(file))
    found = list(faults(config.engines))
    for line in (*advise(config), *notes(config.engines)):
        click.echo(f"{file}: note: {line}", err=True)
    for name, reason in built.engines.refusals.items():
        if not any(fault.startswith(f"engines.{name}.") for fault in found):
            click.echo(f"{file}: engines.{name}: not on this machine: {reason}", err=True)
    for fault in found:
        click.echo(f"tidegate: {file}: {fault}", err=True)
    if found:
        raise SystemExit(2)
    click.echo(reference.dump(config), nl=False)
