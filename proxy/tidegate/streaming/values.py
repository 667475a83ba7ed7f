"""Raw values of a host's that go out as they came."""

from typing import TypeGuard

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tidegate.errors import UpstreamFailed
from tidegate.protocol.request import MAX_DEPTH, is_deeper_than, json_type


def is_given(value: Raw | UnsetType, kind: str) -> TypeGuard[Raw]:
    """Whether there is a value, and of this JSON type."""
    return value is not UNSET and json_type(value) == kind


def on_one_line(value: Raw) -> Raw:
    """A raw value keeps the newlines and the broken characters of its source; a newline would end our event."""
    data = bytes(value)
    if is_deeper_than(data, MAX_DEPTH):
        raise UpstreamFailed("The upstream sent JSON that is nested too deeply.")
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    return Raw(msgspec.json.format(data, indent=-1))
