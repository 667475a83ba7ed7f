"""`tidegate check FILE`."""

from pathlib import Path

import click

from proxy import app
from proxy.config import load, reference


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate FILE and print what it means, every default spelt out; secrets show as the references they are."""
    config = load.load(file)
    app.build(config, source=str(file))
    click.echo(reference.dump(config), nl=False)
