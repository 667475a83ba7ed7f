"""`tidegate check FILE`."""

from pathlib import Path

import click

from proxy.app.advice import advise
from proxy.app.house import App
from proxy.config import load, reference


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate FILE and print what it means, every default spelt out; secrets show as the references they are.

    What is right, but cannot run on this machine or does nothing, is said beside it.
    """
    config = load.load(file)
    built = App(config, source=str(file))
    for line in advise(config):
        click.echo(f"{file}: note: {line}", err=True)
    for name, reason in built.engines.refusals.items():
        click.echo(f"{file}: engines.{name}: not on this machine: {reason}", err=True)
    click.echo(reference.dump(config), nl=False)
