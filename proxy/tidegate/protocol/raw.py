"""Decodes raw JSON values by one level; a value of another JSON type gives an empty result, not an error."""

import msgspec
from msgspec import Raw

from tidegate.protocol.request import json_type

_text = msgspec.json.Decoder(str).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode


def as_text(raw: Raw | None) -> str | None:
    """Decode a JSON string; None if `raw` is None or of another JSON type."""
    return _text(raw) if raw is not None and json_type(raw) == "string" else None


def as_list(raw: Raw | None) -> list[Raw]:
    """Decode the items of a JSON array; an empty list if `raw` is None or of another JSON type."""
    return _list(raw) if raw is not None and json_type(raw) == "array" else []


def as_object(raw: Raw | None) -> dict[str, Raw]:
    """Decode the fields of a JSON object; an empty dict if `raw` is None or of another JSON type."""
    return _object(raw) if raw is not None and json_type(raw) == "object" else {}
