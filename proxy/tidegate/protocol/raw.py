"""Looking one level into raw JSON values, without an error where they are of another type."""

import msgspec
from msgspec import Raw

from tidegate.protocol.request import json_type

_text = msgspec.json.Decoder(str).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode


def as_text(raw: Raw | None) -> str | None:
    """The string that `raw` is, or None."""
    return _text(raw) if raw is not None and json_type(raw) == "string" else None


def as_list(raw: Raw | None) -> list[Raw]:
    """The items of the array that `raw` is, or none."""
    return _list(raw) if raw is not None and json_type(raw) == "array" else []


def as_object(raw: Raw | None) -> dict[str, Raw]:
    """The fields of the object that `raw` is, or none."""
    return _object(raw) if raw is not None and json_type(raw) == "object" else {}
