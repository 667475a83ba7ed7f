"""What travels beside the text of a message: lists and objects of the host's, joined from its chunks.

`reasoning_details` (OpenRouter and its kin) and `extra_content` (Gemini) must come back with the next turn as they
were, so that a caller who streams gets each as one value, like one who does not.
"""

from collections.abc import Iterable
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
_JOINED = frozenset({*_TEXTS, "data"})  # the last one is encrypted


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
    texts: list[dict[str, list[str]]] = []  # of each, in pieces
    for piece in map(_decode, details):
        if not whole or not _continues(piece, whole[-1]):
            whole.append({})
            texts.append({})
        last, last_texts = whole[-1], texts[-1]
        for name, value in piece.items():
            if name in _JOINED and isinstance(value, str):
                last_texts.setdefault(name, []).append(value)
                last[name] = value
            elif value is not None or name not in last:
                last_texts.pop(name, None)
                last[name] = value
    for detail, pieces in zip(whole, texts, strict=True):
        detail.update({name: "".join(each) for name, each in pieces.items()})
    return Raw(_encode(whole))


def merged(objects: Iterable[Raw]) -> Raw:
    """Objects as one, name by name; the newer value holds."""
    whole: dict[str, Any] = {}
    for each in map(_decode, objects):
        _merge(whole, each)
    return Raw(_encode(whole))


def _continues(piece: dict[str, Any], last: dict[str, Any]) -> bool:
    is_alike = all(piece.get(name) == last.get(name) for name in ("type", "index"))
    is_next = bool(last.get("signature")) and any(piece.get(name) for name in _TEXTS)  # a signature ends its text
    return is_alike and not is_next and (piece.get("id") in (None, last.get("id")) or last.get("id") is None)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        else:
            old[name] = value
