"""The differences of two configs as text for people, and which of them take effect only at the next start."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tidegate.config.reference import reference_of
from tidegate.config.root import Config

_ENTRIES = frozenset({"upstreams", "engines", "models", "cards", "auth.callers"})  # mappings whose keys are names
# keys of an engine whose values are not shown, as they may hold secrets
_HIDDEN = frozenset({"environment", "args", "before_load", "after_load"})
# the beginnings of the keys that take effect only at the next start
_FIXED = ("server.host", "server.port", "server.workers", "telemetry.")


def differences(old: Config, new: Config) -> Sequence[str]:
    """Return a line for each key whose value differs, in the order of the config; secrets are shown as references."""
    return list(_compare("", _plain(old), _plain(new)))


def reloaded(start: Config, old: Config, new: Config) -> tuple[Sequence[str], Sequence[str]]:
    """Return what a reload changes, and which of these lines take effect only at the next start.

    Both are lines as from `differences`. The lines of the second kind compare the new config with the config of the
    start: reloads in between have not changed these settings.

    Args:
        start: the config that the server was started with.
        old: the config until now.
        new: the config from now on.
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
    elif _HIDDEN.isdisjoint(where.split(".")):
        yield f"{where}: {_shown(old)} -> {_shown(new)}"
    else:
        yield f"{where}: changed"


def _by_number(value: object) -> object:
    """Return a list of mappings, such as targets, as one mapping from "[0]", "[1]" and so on; others unchanged."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
        return {f"[{number}]": item for number, item in enumerate(value)}
    return value


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
