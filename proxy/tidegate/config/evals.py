"""The eval file: what `tidegate eval run` writes, and what `routing.evals` has read at start.

{"set": "1", "taken_at": 1760000000, "scores": [{"target": "r1/r1", "task": "json", "asked": 20, "right": 17}, …]}
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tidegate.errors import ConfigError
from tidegate.protocol.routing import Task

Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class EvalScore(Struct, frozen=True, forbid_unknown_fields=True):
    """How one target did at one kind of task; `right` of the `asked` items."""

    target: str
    task: Task
    asked: Count
    right: Count


class EvalFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One run.

    Attributes:
        set: the version of the set of items.
        taken_at: seconds since the epoch.
    """

    set: str
    taken_at: float
    scores: tuple[EvalScore, ...]


def read_evals(path: Path, source: str) -> EvalFile:
    """What a run found; `source` is the key that names the file, for refusals.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=EvalFile)
    except OSError as error:
        cure = "let `tidegate eval run` write it, or take the key out"
        raise ConfigError(f"{source}: {path} cannot be read: {error.strerror or error}; {cure}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: {path} is no eval file ({error}); let `tidegate eval run` write it") from error
    for score in found.scores:
        if score.right > score.asked:
            raise ConfigError(f"{source}: {path}: {score.target}: {score.right} right of {score.asked}; run it again")
    return found


def to_json(found: EvalFile) -> bytes:
    """The file's bytes, for people and for `read_evals`."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
