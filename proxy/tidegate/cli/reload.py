"""`tidegate reload`: makes a running server read its config again."""

import click
import msgspec

from tidegate.cli.remote import CommandRefused, Server, check_url
from tidegate.operations.administration import ReloadReport


@click.command()
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, callback=check_url, help="The URL of the server."
)
@click.option("--key", envvar="TIDEGATE_ADMIN_KEY", show_envvar=True, help="The admin key, if the server has one.")
def reload(url: str, key: str | None) -> None:
    """Make a running server read its config again; if the new config is refused, the old one stays in force."""
    body = Server(url, key).request("POST", "reload")
    try:
        report = msgspec.json.decode(body, type=ReloadReport)
    except msgspec.DecodeError as error:
        raise CommandRefused(f"the server at {url} is not Tidegate, or of another version") from error
    for line in report.changed:
        click.echo(f"{line} (from the next start on)" if line in report.needs_restart else line)
    for line in report.notes:
        click.echo(f"note: {line}", err=True)
    if not report.changed:
        click.echo("nothing has changed")
