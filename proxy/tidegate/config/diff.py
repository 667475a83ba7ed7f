"""What two configs differ in, for people; and what of it a running server cannot follow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tidegate.config.reference import reference_of
from tidegate.config.root import Config

_ENTRIES = frozenset({"upstreams", "engines", "models", "cards", "auth.callers"})  # maps of things with names
# of an engine: their values may hold secrets
_UNTOLD = frozenset({"environment", "args", "before_load", "after_load"})
_FIXED = ("server.host", "server.port", "server.workers", "telemetry.")


def differences(old: Config, new: Config) -> Sequence[str]:
    """A line for each key that is another, in the order of the config; secrets are the references they are."""
    return list(_compare("", _plain(old), _plain(new)))


def reloaded(start: Config, old: Config, new: Config) -> tuple[Sequence[str], Sequence[str]]:
    """What a reload changes, and which of these lines hold from the next start on.

    The latter tell what the server was started with, whatever was read meanwhile: that is what runs.

    Args:
        start: what the server was started with.
        old: what held until now.
        new: what holds from now on.
    """
    fixed = [line for line in differences(start, new) if line.startswith(_FIXED)]
    return [*(line for line in differences(old, new) if not line.startswith(_FIXED)), *fixed], fixed


def _plain(config: Config) -> Any:  # noqa: ANN401 - plain data of any depth
    return msgspec.to_builtins(config, enc_hook=reference_of)


def _compare(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in (*new, *(name for name in old if name not in new)):
        where = f"{path}.{name}" if path and not name.startswith("[") else f"{path}{name}"
        is_entry = path in _ENTRIES or name.startswith("[")
        if is_entry and (name not in old or name not in new):
            yield f"{where}: {'added' if name in new else 'removed'}"
        elif old.get(name) != new.get(name):
            yield from _changed(where, old.get(name), new.get(name))


def _changed(where: str, old: object, new: object) -> Iterator[str]:
    old, new = _by_number(old), _by_number(new)
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _compare(where, old, new)
    elif _UNTOLD.isdisjoint(where.split(".")):
        yield f"{where}: {_shown(old)} -> {_shown(new)}"
    else:
        yield f"{where}: changed"


def _by_number(value: object) -> object:
    """A list of things with keys of their own, such as targets, as a map of its numbers."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
        return {f"[{number}]": item for number, item in enumerate(value)}
    return value


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
