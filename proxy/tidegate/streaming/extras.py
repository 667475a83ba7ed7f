"""Joins lists and objects that hosts send beside the text of a message, in fragments over the chunks of a stream.

A client must send `reasoning_details` (OpenRouter) and `extra_content` (Gemini) back unchanged in the next turn. The
accumulators of SDKs do not join their chunks correctly. So a stream sends each as one value, like a unary answer.
"""

from collections.abc import Iterable
from typing import Any, TypeGuard

import msgspec
from msgspec import Raw, UnsetType

from tidegate.protocol.raw import as_object, as_text
from tidegate.protocol.request import json_type
from tidegate.streaming.values import is_given

_raw_list = msgspec.json.Decoder(list[Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_TEXTS = ("text", "summary")  # fields of a detail with readable text
_JOINED = frozenset({*_TEXTS, "data"})  # fields whose fragments are concatenated; `data` is encrypted text


def is_call(value: Raw | UnsetType) -> TypeGuard[Raw]:
    """Whether a `function_call` is a call. Some hosts send `{}` if there is none."""
    return is_given(value, "object") and not as_object(value).keys().isdisjoint({"name", "arguments"})


def objects_in(value: Raw) -> list[Raw]:
    """Return the objects in a list; other items are left out."""
    return [item for item in _raw_list(value) if json_type(item) == "object"]


def thought_in(details: list[Raw]) -> str:
    """Return the readable text in `reasoning_details`."""
    fields = map(as_object, details)
    return "".join(text for each in fields for name in _TEXTS if (text := as_text(each.get(name))))


def joined(details: list[Raw]) -> Raw:
    """Join the fragments of `reasoning_details`: successive ones with the same type, index and id are one item."""
    whole: list[dict[str, Any]] = []
    texts: list[dict[str, list[str]]] = []  # for each item, by field, the fragments of its text
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
    """Merge objects recursively; a newer value overrides an older one."""
    whole: dict[str, Any] = {}
    for each in map(_decode, objects):
        _merge(whole, each)
    return Raw(_encode(whole))


def _continues(piece: dict[str, Any], last: dict[str, Any]) -> bool:
    is_alike = all(piece.get(name) == last.get(name) for name in ("type", "index"))
    # text after a signature begins a new item
    is_next = bool(last.get("signature")) and any(piece.get(name) for name in _TEXTS)
    return is_alike and not is_next and (piece.get("id") in (None, last.get("id")) or last.get("id") is None)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        else:
            old[name] = value
