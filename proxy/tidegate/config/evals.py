"""The eval file, which `tidegate eval run` writes; the server reads the one named by `routing.evals` at its start.

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
    """The result of one target at one kind of task: it answered `right` of the `asked` items correctly."""

    target: str
    task: Task
    asked: Count
    right: Count


class EvalFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The results of one run.

    Attributes:
        set: the version of the set of items.
        taken_at: when the run was, in seconds since the epoch.
        scores: one for each target and kind of task.
    """

    set: str
    taken_at: float
    scores: tuple[EvalScore, ...]


def read_evals(path: Path, source: str) -> EvalFile:
    """Read the results of a run from `path`; `source` is the config key that names the file, for error messages.

    Raises:
        ConfigError: the file cannot be read, or is no eval file.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=EvalFile)
    except OSError as error:
        cure = "let `tidegate eval run` write it, or take the key out"
        raise ConfigError(f"{source}: {path} cannot be read: {error.strerror or error}; {cure}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: {path} is no eval file ({error}); let `tidegate eval run` write it") from error
    for score in results.scores:
        if score.right > score.asked:
            raise ConfigError(f"{source}: {path}: {score.target}: {score.right} right of {score.asked}; run it again")
    return results


def to_json(results: EvalFile) -> bytes:
    """Return the bytes of the file: indented JSON, which `read_evals` reads."""
    return msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"
