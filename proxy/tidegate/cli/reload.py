"""`tidegate reload`."""

import click
import msgspec

from tidegate.cli.remote import CommandRefused, Server, check_url
from tidegate.operations.administration import ReloadReport


@click.command()
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, callback=check_url, help="Where the server is."
)
@click.option("--key", envvar="TIDEGATE_ADMIN_KEY", show_envvar=True, help="The admin key, if the server has one.")
def reload(url: str, key: str | None) -> None:
    """Have a running server read its config again; if that cannot work, the one before stays."""
    body = Server(url, key).ask("POST", "reload")
    try:
        told = msgspec.json.decode(body, type=ReloadReport)
    except msgspec.DecodeError as error:
        raise CommandRefused(f"what answers at {url} is not Tidegate, or of another version") from error
    for line in told.changed:
        click.echo(f"{line} (from the next start on)" if line in told.needs_restart else line)
    for line in told.notes:
        click.echo(f"note: {line}", err=True)
    if not told.changed:
        click.echo("nothing has changed")
