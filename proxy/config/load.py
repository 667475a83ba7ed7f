"""YAML in, checked `Config` out. Every refusal names the file, the key's path, what is wrong and the cure."""

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml

from proxy.config.cards import Card, History, Structured, Thinks
from proxy.config.credentials import Algorithm, AuthMethod, CredentialKindName
from proxy.config.engines import EngineConfig, EngineKindName
from proxy.config.models import ModelConfig, OnStreamFailure, Policy
from proxy.config.root import Config, check, did_you_mean
from proxy.config.secret import Secret
from proxy.config.telemetry import LogFormat, LogLevel
from proxy.config.upstreams import DialectName, UpstreamConfig
from proxy.errors import ConfigError
from proxy.protocol.reasoning import ReasoningFormat
from proxy.protocol.routing import Priority, Reach

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$")
_ENUM = re.compile(r"Invalid (?:enum )?value '(?P<value>.*)'$")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.+)`$")


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice is an error: YAML would silently take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Config:
    """Read a file.

    Raises:
        ConfigError: it cannot be read, or does not hold a config that can work.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Config:
    """Read a text; `source` is named in refusals.

    Raises:
        ConfigError: it does not hold a config that can work.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {error.problem}; mend this line") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {type(error).__name__}") from error
    try:
        config = msgspec.convert({} if loaded is None else _without_empty_sections(loaded), Config, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), loaded)}") from error
    check(config, source)
    return config


def _without_empty_sections(loaded: object) -> object:
    # `upstreams:` with all its entries commented out is null to YAML and "none" to a person
    if not isinstance(loaded, dict):
        return loaded
    return {key: value for key, value in loaded.items() if value is not None or key not in Config.__struct_fields__}


def _secret(kind: type, value: Any) -> Any:  # noqa: ANN401 - msgspec's signature
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("a secret is written env:NAME or file:PATH")


def _explain(message: str, loaded: object) -> str:
    at = _PLACE.search(message)
    path = at["path"] if at else ""
    what = message[: at.start()] if at else message
    if match := _UNKNOWN.match(what):
        field = match["field"]
        full = f"{path}.{field}" if path else field
        return f"{_named(full, loaded)}: unknown key; {did_you_mean(field, _fields_at(path, loaded))}"
    if not path:
        return f"the whole file: {what}; a config is a mapping, see configs/tidegate.yaml"
    return f"{_named(path, loaded)}: {what[0].lower()}{what[1:]}; {_cure(path, what)}"


def _cure(path: str, what: str) -> str:
    section, field = path.partition("[")[0], path.rpartition(".")[2]
    if match := _ENUM.match(what):
        return did_you_mean(match["value"], get_args(_CHOICES.get(f"{section}.{field}") or _CHOICES.get(field, Any)))
    if field == "token_url":
        return "write it as https://HOST/PATH, without a user name or fragment"
    if field == "base_url":
        return "write it as https://HOST/v1, without a user name, query or fragment"
    return "configs/tidegate.yaml shows every key"


def _named(path: str, loaded: object) -> str:
    """`upstreams[...].x` with the real key in place of the dots, where only one entry can be meant."""
    section = path.split("[...]", maxsplit=1)[0]
    entries = loaded.get(section) if isinstance(loaded, Mapping) else None
    if "[...]" in path and isinstance(entries, Mapping):
        guilty = [name for name, entry in entries.items() if not _is_good(section, entry)]
        if guilty:
            return path.replace("[...]", f".{guilty[0]}", 1)
    return path


def _guilty(section: str, entries: object) -> object:
    """The entry that was refused; None where that cannot be told."""
    if section not in _ENTRIES or not isinstance(entries, Mapping):
        return None
    return next((entry for entry in entries.values() if not _is_good(section, entry)), None)


def _is_good(section: str, entry: object) -> bool:
    try:
        msgspec.convert(entry, _ENTRIES[section], dec_hook=_secret)
    except msgspec.ValidationError:
        return False
    return True


def _fields_at(path: str, loaded: object) -> Sequence[str]:
    """The keys that the struct at `path` knows: of a union, the one of the kind that stands there."""
    kind: Any = Config
    section = ""
    for step in _STEP.findall(path):
        kind = _members(kind) if step.startswith("[") else get_type_hints(kind)[step]
        loaded = _guilty(section, loaded) if step == "[...]" else _at(loaded, step)
        section = step
        if get_origin(kind) in {Union, UnionType}:
            kind = _struct_in(kind, loaded.get("kind") if isinstance(loaded, Mapping) else None)
    fields: Sequence[str] = kind.__struct_fields__
    return fields


def _at(loaded: object, step: str) -> object:
    if isinstance(loaded, Mapping):
        return loaded.get(step)
    return loaded[int(step[1:-1])] if isinstance(loaded, list) and step[1:-1].isdigit() else None


def _members(kind: Any) -> Any:  # noqa: ANN401 - a type
    """What a mapping's values or a tuple's items are."""
    arguments = get_args(kind)
    return arguments[0] if get_origin(kind) is tuple else arguments[-1]


def _struct_in(union: Any, tag: object) -> Any:  # noqa: ANN401 - a type
    """The struct of that tag, or the only one."""
    structs = [one for one in get_args(union) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    return next((one for one in structs if one.__struct_config__.tag == tag), structs[0])


_ENTRIES: Mapping[str, Any] = {
    "upstreams": UpstreamConfig,
    "engines": EngineConfig,
    "models": ModelConfig,
    "cards": Card,
}
_CHOICES: Mapping[str, Any] = {
    "dialect": DialectName,
    "upstreams.kind": CredentialKindName,
    "kind": EngineKindName,
    "algorithm": Algorithm,
    "auth_method": AuthMethod,
    "log_format": LogFormat,
    "log_level": LogLevel,
    "policy": Policy,
    "on_stream_failure": OnStreamFailure,
    "reach": Reach,
    "priority": Priority,
    "reasoning_format": ReasoningFormat,
    "thinking": Thinks,
    "reasoning_history": History,
    "structured_output": Structured,
}
