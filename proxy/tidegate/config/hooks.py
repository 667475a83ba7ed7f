"""`engines.NAME.hooks:` commands that run before and after the load of an engine."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from tidegate.config.command_line import CommandLine, fault
from tidegate.config.server import Seconds


class HooksConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that run around the load of an engine; see `command_line` for their form."""

    before_load: Annotated[
        CommandLine | None,
        Meta(description="Runs before the process is started; if it fails, the start fails."),
    ] = None
    after_load: Annotated[
        CommandLine | None,
        Meta(description="Runs when the engine is ready; if it fails, that is logged, and the engine keeps running."),
    ] = None
    timeout_s: Annotated[Seconds, Meta(description="A hook that runs longer has failed; its processes are killed.")] = (
        30.0
    )


def faults(hooks: HooksConfig) -> Iterator[str]:
    """Yield the hooks that cannot be run: each as key, fault and cure, to be appended to the path of the hooks."""
    for key, command in (("before_load", hooks.before_load), ("after_load", hooks.after_load)):
        if command is not None and (found := fault(command)) is not None:
            yield f".{key}: {found}"
