"""`engines.NAME.hooks:` commands that run around the load of an engine."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proxy.config.server import Seconds

HookCommand = (
    Annotated[str, Meta(min_length=1)] | Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
)


class HooksConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands around the load of an engine, without a shell; a string is split into words as a shell would."""

    before_load: Annotated[
        HookCommand | None, Meta(description="Before the process is started; its failure is that of the start.")
    ] = None
    after_load: Annotated[
        HookCommand | None, Meta(description="Once the engine answers; its failure is logged, and the engine goes on.")
    ] = None
    timeout_s: Annotated[Seconds, Meta(description="A hook that takes longer has failed; its processes are ended.")] = (
        30.0
    )


def argv_of(command: HookCommand) -> Sequence[str]:
    """Its words; none where a quotation has no end (see `faults`)."""
    if not isinstance(command, str):
        return command
    try:
        return shlex.split(command)
    except ValueError:
        return ()


def faults(hooks: HooksConfig) -> Iterator[str]:
    """What cannot be run, each with the path of its key."""
    for name in ("before_load", "after_load"):
        command = getattr(hooks, name)
        if command is not None and not argv_of(command):
            yield f".{name}: these are no words of a command: {command!r}; close the quotation, or write a list"
