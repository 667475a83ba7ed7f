"""Turns msgspec's message about an invalid config into Tidegate's: the key's path, the fault and the cure."""

import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from tidegate.config.auth import CallerConfig
from tidegate.config.cards import Card, History, Structured, Thinks
from tidegate.config.credentials import Algorithm, AuthMethod, CredentialKindName
from tidegate.config.engines import Distributed, EngineConfig, EngineKindName, Start
from tidegate.config.models import ModelConfig, OnStreamFailure, Policy, ProgressIn
from tidegate.config.root import Config, did_you_mean
from tidegate.config.secret import Secret
from tidegate.config.telemetry import LogFormat, LogLevel
from tidegate.config.upstreams import DialectName, UpstreamConfig
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.routing import Priority, Reach

_LOCATION = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`$")
_ENUM = re.compile(r"Invalid (?:enum )?value '(?P<value>.*)'$")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.+)`$")
_MISSING = re.compile(r"Object missing required field `(?P<field>.+)`$")
_WRONG_TYPE = re.compile(
    r"Expected `(?P<kind>[^`]+)`(?P<length> of length)?(?: (?P<sign>[<>]=?) (?P<bound>[\d.]+))?"
    r"(?: matching regex .*)?(?:, got `(?P<got>[^`]+)`)?$"
)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}
_SIGNS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
# sections whose keys are names that the operator chose: the type of their entries
_ENTRIES: Mapping[str, Any] = {
    "upstreams": UpstreamConfig,
    "engines": EngineConfig,
    "models": ModelConfig,
    "cards": Card,
    "auth.callers": CallerConfig,
}
# keys with a fixed set of values: the type that lists them; `section.key` comes before `key` alone
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
    "progress_in": ProgressIn,
    "start": Start,
    "distributed": Distributed,
    "reach": Reach,
    "priority": Priority,
    "limit": Literal["adaptive"],
    "concurrency": Literal["adaptive"],  # of `admission`, the old name
    "reasoning_format": ReasoningFormat,
    "thinking": Thinks,
    "reasoning_history": History,
    "structured_output": Structured,
}
# keys whose values are paths of URLs
_PATHS = frozenset({"health_path", "metrics_path", "sleep_path", "wake_path"})


def read_secret(kind: type, value: Any) -> Any:  # noqa: ANN401 - msgspec's signature
    """For `msgspec.convert`: return the `Secret` for a reference; raises `ValueError` for any other value."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("a secret is written env:NAME or file:PATH")


def explain(message: str, loaded: object) -> str:
    """Return path, fault and cure for msgspec's `message`; `loaded` is the content of the whole file."""
    at = _LOCATION.search(message)
    path = at["path"] if at else ""
    fault = message[: at.start()] if at else message
    if match := _UNKNOWN.match(fault):
        field = match["field"]
        full = f"{path}.{field}" if path else field
        return f"{_named(full, loaded)}: unknown key; {did_you_mean(field, _fields_at(path, loaded))}"
    if not path:
        return f"the whole file: {_describe(fault)}; a config is a mapping, see configs/tidegate.yaml"
    return f"{_named(path, loaded)}: {_describe(fault)}; {_cure(path, fault)}"


def _describe(fault: str) -> str:
    """Return the fault in plain words, without the terms of a schema."""
    if match := _MISSING.match(fault):
        return f"{match['field']} is missing"
    if match := _ENUM.match(fault):
        return f"'{match['value']}' is not a known value"
    if (match := _WRONG_TYPE.match(fault)) is None:
        return fault[0].lower() + fault[1:]
    kinds = " or ".join(_KINDS.get(kind, kind) for kind in match["kind"].split(" | ") if kind != "null")
    bound = ""
    if match["sign"]:
        number = f"{float(match['bound']):g}"
        bound = (
            f" with {_SIGNS[match['sign']]} {number} in it"
            if match["length"]
            else f", {_SIGNS[match['sign']]} {number}"
        )
    received = f", not {_KINDS.get(match['got'], match['got'])}" if match["got"] else ""
    pattern = " in another format" if "matching regex" in fault else ""
    return f"must be {kinds}{pattern}{bound}{received}"


def _cure(path: str, fault: str) -> str:
    section, field = path.partition("[")[0], path.rpartition(".")[2]
    choices = get_args(_CHOICES.get(f"{section}.{field}") or _CHOICES.get(field, Any))
    if match := _ENUM.match(fault):
        return did_you_mean(match["value"], choices)
    if choices:
        return did_you_mean("", choices)
    if field in _PATHS:
        return "begin it with /, as in /health"
    if field == "token_url":
        return "write it as https://HOST/PATH, without a user name or fragment"
    if field == "base_url":
        return "write it as https://HOST/v1, without a user name, query or fragment"
    return "configs/tidegate.yaml shows every key"


def _named(path: str, loaded: object) -> str:
    """Return the path `upstreams[...].x` with the entry's name in place of the dots; unchanged if it is not found."""
    section, dots, _ = path.partition("[...]")
    invalid = _find_invalid(section, _entries_at(loaded, section)) if dots else None
    return path if invalid is None else path.replace("[...]", f".{invalid[0]}", 1)


def _entries_at(loaded: object, path: str) -> object:
    for name in path.split("."):
        loaded = loaded.get(name) if isinstance(loaded, Mapping) else None
    return loaded


def _find_invalid(section: str, entries: object) -> tuple[str, object] | None:
    """Return name and value of the first invalid entry of a section; None: there is none, or no such section."""
    if section not in _ENTRIES or not isinstance(entries, Mapping):
        return None
    return next(((name, entry) for name, entry in entries.items() if not _is_good(section, entry)), None)


def _is_good(section: str, entry: object) -> bool:
    try:
        msgspec.convert(entry, _ENTRIES[section], dec_hook=read_secret)
    except msgspec.ValidationError:
        return False
    return True


def _fields_at(path: str, loaded: object) -> Sequence[str]:
    """Return the keys of the struct at `path`; of a union, those of the struct whose tag is in `kind`."""
    kind: Any = Config
    steps_before: list[str] = []
    for step in _STEP.findall(path):
        kind = _members(kind) if step.startswith("[") else get_type_hints(kind)[step]
        if step == "[...]":
            invalid = _find_invalid(".".join(steps_before), loaded)
            loaded = None if invalid is None else invalid[1]
        else:
            loaded = _at(loaded, step)
        steps_before.append(step)
        if get_origin(kind) in {Union, UnionType}:
            kind = _struct_in(kind, loaded.get("kind") if isinstance(loaded, Mapping) else None)
    fields: Sequence[str] = kind.__struct_fields__
    return fields


def _at(loaded: object, step: str) -> object:
    if isinstance(loaded, Mapping):
        return loaded.get(step)
    return loaded[int(step[1:-1])] if isinstance(loaded, list) and step[1:-1].isdigit() else None


def _members(kind: Any) -> Any:  # noqa: ANN401 - a type
    """Return the type of a mapping's values or a tuple's items."""
    arguments = get_args(kind)
    return arguments[0] if get_origin(kind) is tuple else arguments[-1]


def _struct_in(union: Any, tag: object) -> Any:  # noqa: ANN401 - a type
    """Return the struct of the union with that tag, or the first struct."""
    structs = [member for member in get_args(union) if isinstance(member, type) and issubclass(member, msgspec.Struct)]
    return next((member for member in structs if member.__struct_config__.tag == tag), structs[0])
