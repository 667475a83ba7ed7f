"""A command in the config: a text or a list of words. It is run without a shell."""

import shlex
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

CommandLine = Annotated[str, Meta(min_length=1)] | Annotated[tuple[str, ...], Meta(min_length=1)]


def split(command: str | Sequence[str]) -> list[str]:
    """Return the words of a command. A text is split as by a shell; a line may end with a backslash.

    Raises:
        ValueError: a quotation mark is not closed.
    """
    return shlex.split(command.replace("\\\n", " ")) if isinstance(command, str) else list(command)


def fault(command: str | Sequence[str]) -> str | None:
    """Return why the command cannot be run, and the cure; None: it can be run."""
    try:
        words = split(command)
    except ValueError:
        return "a quotation mark is not closed; close it, or write a list of words"
    if not words or not words[0].strip():
        return "empty; write the program and its arguments"
    return None
