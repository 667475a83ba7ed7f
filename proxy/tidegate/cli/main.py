"""`tidegate`: the group of all commands."""

from importlib.metadata import version

import click

from tidegate.cli.check import check
from tidegate.cli.engines import engines
from tidegate.cli.eval import eval_
from tidegate.cli.reload import reload
from tidegate.cli.serve import serve
from tidegate.errors import ConfigError


class _Group(click.Group):
    """Shows a config error as one line and exits with status 2, as for a wrong option."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(f"tidegate: {error.message}", err=True)
            raise SystemExit(2) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tidegate"), prog_name="tidegate")
def main() -> None:
    """One OpenAI-compatible endpoint in front of your own engines and hosted upstreams."""


main.add_command(serve)
main.add_command(check)
main.add_command(engines)
main.add_command(eval_)
main.add_command(reload)
