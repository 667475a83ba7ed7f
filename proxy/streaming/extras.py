"""What travels beside the text of a message: lists and objects of the host's, joined from its chunks.

`reasoning_details` (OpenRouter and its kin) and `extra_content` (Gemini) must come back with the next turn as they
were, so that a caller who streams gets each as one value, like one who does not.
"""

from typing import Any, TypeGuard

import msgspec
from msgspec import Raw, UnsetType

from proxy.protocol.raw import as_object, as_text
from proxy.protocol.request import json_type
from proxy.streaming.values import is_given

_raw_list = msgspec.json.Decoder(list[Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_TEXTS = ("text", "summary")  # of a detail that comes in pieces
_WHOLE = "data"  # of one that is encrypted, in pieces too


def is_call(value: Raw | UnsetType) -> TypeGuard[Raw]:
    """Whether a `function_call` says anything: `{}` stands for none at some hosts."""
    return is_given(value, "object") and not as_object(value).keys().isdisjoint({"name", "arguments"})


def objects_in(value: Raw) -> list[Raw]:
    """The objects of a list; what else is in it is left out."""
    return [item for item in _raw_list(value) if json_type(item) == "object"]


def thought_in(details: list[Raw]) -> str:
    """The reasoning that can be read in them."""
    fields = map(as_object, details)
    return "".join(text for each in fields for name in _TEXTS if (text := as_text(each.get(name))))


def joined(details: list[Raw]) -> Raw:
    """One list of details: pieces of the same type, index and id become one, their texts end to end."""
    whole: list[dict[str, Any]] = []
    for piece in map(_decode, details):
        last = whole[-1] if whole else None
        if last is None or not _continues(piece, last):
            whole.append(piece)
            continue
        for name, value in piece.items():
            is_text = name in {*_TEXTS, _WHOLE} and isinstance(value, str) and isinstance(last.get(name), str)
            if is_text:
                last[name] += value
            elif value is not None:
                last[name] = value
    return Raw(_encode(whole))


def merged(old: Raw | None, new: Raw) -> Raw:
    """Two objects as one, name by name; the newer value holds."""
    return new if old is None else Raw(_encode(_merge(_decode(old), _decode(new))))


def _continues(piece: dict[str, Any], last: dict[str, Any]) -> bool:
    is_alike = all(piece.get(name) == last.get(name) for name in ("type", "index"))
    is_next = bool(last.get("signature")) and any(piece.get(name) for name in _TEXTS)  # a signature ends its text
    return is_alike and not is_next and (piece.get("id") in (None, last.get("id")) or last.get("id") is None)


def _merge(old: Any, new: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {name: _merge(old.get(name), value) for name, value in new.items()}
