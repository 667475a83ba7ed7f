"""Checks for a host's raw JSON values that are passed on to the caller unchanged."""

from typing import TypeGuard

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tidegate.errors import UpstreamFailed
from tidegate.protocol.request import MAX_DEPTH, is_deeper_than, json_type


def is_given(value: Raw | UnsetType, kind: str) -> TypeGuard[Raw]:
    """Whether the value is set and has the JSON type `kind`."""
    return value is not UNSET and json_type(value) == kind


def on_one_line(value: Raw) -> Raw:
    """Return the value on one line and in valid UTF-8, ready to be spliced into an event.

    A raw value keeps the newlines and the invalid bytes of its source, and a newline would end the event.

    Raises:
        UpstreamFailed: the value nests deeper than `MAX_DEPTH`.
    """
    data = bytes(value)
    if is_deeper_than(data, MAX_DEPTH):
        raise UpstreamFailed("The upstream sent JSON that is nested too deeply.")
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    return Raw(msgspec.json.format(data, indent=-1))
