"""From our own headers to `RequestOptions`."""

from collections.abc import Mapping
from typing import TypeVar

from tidegate.errors import MalformedRequest
from tidegate.pipeline.context import RequestOptions
from tidegate.protocol.reasoning import read_format
from tidegate.protocol.routing import PRIORITIES, REACH_HEADER, REACHES, Priority, Reach

_DROP, _REASONING = "x-tidegate-drop-params", "x-tidegate-reasoning"
_PRIORITY, _SESSION = "x-tidegate-priority", "x-tidegate-session"
_ALL = [name.encode() for name in (_DROP, _REASONING, REACH_HEADER, _PRIORITY, _SESSION)]
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_REACHES: Mapping[str, Reach] = {word: word for word in REACHES}
_PRIORITIES: Mapping[str, Priority] = {word: word for word in PRIORITIES}
_MAX_SESSION = 256
_NONE = RequestOptions()

T = TypeVar("T")


def read_options(headers: Mapping[bytes, bytes]) -> RequestOptions:
    """What the headers `x-tidegate-…` say.

    Raises:
        MalformedRequest: one of them means nothing.
    """
    if headers.keys().isdisjoint(_ALL):
        return _NONE
    form = _read(headers, _REASONING)
    return RequestOptions(
        drop_params=_choose(headers, _DROP, _TRUTH, "true, false"),
        reasoning_format=None if form is None else read_format(form, _REASONING),
        reach=_choose(headers, REACH_HEADER, _REACHES),
        priority=_choose(headers, _PRIORITY, _PRIORITIES),
        session=headers.get(_SESSION.encode(), b"").decode("latin-1").strip()[:_MAX_SESSION],
    )


def _choose(headers: Mapping[bytes, bytes], name: str, choices: Mapping[str, T], shown: str = "") -> T | None:
    word = _read(headers, name)
    if word is None:
        return None
    if word not in choices:
        raise MalformedRequest(
            f"Invalid value for '{name}': '{word[:64]}'. Supported values are: {shown or ', '.join(choices)}.",
            param=name,
            code="invalid_value",
        )
    return choices[word]


def _read(headers: Mapping[bytes, bytes], name: str) -> str | None:
    value = headers.get(name.encode())
    return None if value is None else value.decode("latin-1").strip().lower()
