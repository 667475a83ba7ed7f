"""What two configs differ in, for people; and what of it a running server cannot follow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from proxy.config.reference import reference_of
from proxy.config.root import Config

_ENTRIES = frozenset({"upstreams", "engines", "models", "cards", "auth.callers"})  # maps of things with names
_UNTOLD = frozenset({"environment", "args"})  # of an engine: tokens may stand in there as they are
_FIXED = ("server.host", "server.port", "server.workers", "telemetry.")


def differences(old: Config, new: Config) -> Sequence[str]:
    """A line for each key that is another, in the order of the config; secrets are the references they are."""
    return list(_compare("", _plain(old), _plain(new)))


def needs_restart(lines: Sequence[str]) -> Sequence[str]:
    """Those of `differences` that hold from the next start on."""
    return [line for line in lines if line.startswith(_FIXED)]


def _plain(config: Config) -> Any:  # noqa: ANN401 - plain data of any depth
    return msgspec.to_builtins(config, enc_hook=reference_of)


def _compare(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in (*new, *(name for name in old if name not in new)):
        where = f"{path}.{name}" if path else name
        if path in _ENTRIES and (name not in old or name not in new):
            yield f"{where}: {'added' if name in new else 'removed'}"
        elif isinstance(old.get(name), dict) and isinstance(new.get(name), dict):
            yield from _compare(where, old[name], new[name])
        elif old.get(name) != new.get(name):
            is_told = _UNTOLD.isdisjoint(path.split("."))
            yield f"{where}: {_shown(old.get(name))} -> {_shown(new.get(name))}" if is_told else f"{where}: changed"


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
