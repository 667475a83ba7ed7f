"""Reads `RequestOptions` from Tidegate's own request headers (`x-tidegate-…`)."""

from collections.abc import Mapping
from typing import TypeVar

from tidegate.errors import MalformedRequest
from tidegate.pipeline.context import RequestOptions
from tidegate.protocol.reasoning import read_format
from tidegate.protocol.routing import PRIORITIES, REACH_HEADER, REACHES, Priority, Reach

_DROP, _REASONING = "x-tidegate-drop-params", "x-tidegate-reasoning"
_PRIORITY, _SESSION = "x-tidegate-priority", "x-tidegate-session"
_ALL = [name.encode() for name in (_DROP, _REASONING, REACH_HEADER, _PRIORITY, _SESSION)]
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_REACHES: Mapping[str, Reach] = {value: value for value in REACHES}
_PRIORITIES: Mapping[str, Priority] = {value: value for value in PRIORITIES}
_MAX_SESSION = 256
_NO_OPTIONS = RequestOptions()

T = TypeVar("T")


def read_options(headers: Mapping[bytes, bytes]) -> RequestOptions:
    """The options in the headers `x-tidegate-…`.

    Raises:
        MalformedRequest: a header has an unknown value.
    """
    if headers.keys().isdisjoint(_ALL):
        return _NO_OPTIONS
    reasoning = _read(headers, _REASONING)
    return RequestOptions(
        drop_params=_choose(headers, _DROP, _BOOLEANS, "true, false"),
        reasoning_format=None if reasoning is None else read_format(reasoning, _REASONING),
        reach=_choose(headers, REACH_HEADER, _REACHES),
        priority=_choose(headers, _PRIORITY, _PRIORITIES),
        session=headers.get(_SESSION.encode(), b"").decode("latin-1").strip()[:_MAX_SESSION],
    )


def _choose(headers: Mapping[bytes, bytes], name: str, choices: Mapping[str, T], shown_choices: str = "") -> T | None:
    value = _read(headers, name)
    if value is None:
        return None
    if value not in choices:
        raise MalformedRequest(
            f"Invalid value for '{name}': '{value[:64]}'. Supported values are: {shown_choices or ', '.join(choices)}.",
            param=name,
            code="invalid_value",
        )
    return choices[value]


def _read(headers: Mapping[bytes, bytes], name: str) -> str | None:
    value = headers.get(name.encode())
    return None if value is None else value.decode("latin-1").strip().lower()
