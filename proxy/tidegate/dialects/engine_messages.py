"""Rebuilds messages for an engine from an allow-list of message keys and content parts (see `engine_fields`)."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from tidegate.dialects.allowlist_rules import (
    Rule,
    address,
    base64_text,
    fields,
    has_address,
    items,
    keep_known,
    not_inline,
    scalar,
    text,
    unchanged_if,
    word,
)
from tidegate.dialects.request_draft import RequestDraft
from tidegate.errors import MalformedRequest
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import json_type, wrong_type

_encode = msgspec.json.Encoder().encode
_NULL = Raw(b"null")


class _Called(Struct, forbid_unknown_fields=True):
    name: str | None = None
    arguments: str | None = None


class _CommonCall(Struct, forbid_unknown_fields=True):
    """A tool call with only common fields, which is kept unchanged (see `unchanged_if`)."""

    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None
    function: _Called | None = None


_CALL = fields(
    id=text,
    type=word,
    index=scalar,
    function=fields(name=text, arguments=text),
    custom=fields(name=text, input=text),
)
_MESSAGE_KEYS: Mapping[str, Rule] = {
    "role": text,
    "name": text,
    "tool_call_id": text,
    "tool_calls": unchanged_if(msgspec.json.Decoder(list[_CommonCall]), items(_CALL)),
    "function_call": fields(name=text, arguments=text),
    "refusal": text,
    "reasoning": text,
    "reasoning_content": text,
}


def _file(raw: Raw, at: str, dropped: set[str]) -> Raw:
    """A rule for a file that is given by its bytes, never by id or URL.

    Raises:
        MalformedRequest: the bytes are missing, or an id, URL or path is given.
    """
    given = as_object(raw)
    if "file_data" not in given or "file_id" in given or "file_url" in given:
        raise not_inline(at)
    kept = keep_known(given, {"file_data": address, "filename": text}, at, dropped)
    kept["file_data"] = as_object(kept["file_data"])["url"]
    if has_address(as_text(kept.get("filename"))):
        raise not_inline(at)
    return Raw(_encode(kept))


_BYTES = fields(data=base64_text, format=word)
_PARTS: Mapping[str, Mapping[str, Rule]] = {
    kind: {"type": word, "modalities": word, kind: rule}  # `modalities` is a field of SGLang
    for kind, rule in {
        "text": text,
        "refusal": text,
        "image_url": address,
        "audio_url": address,
        "video_url": address,
        "input_audio": _BYTES,
        "input_video": _BYTES,
        "file": _file,
    }.items()
}


_TEXTS = frozenset({"text", "refusal"})


def restrict(draft: RequestDraft) -> None:
    """Rebuild every message from its allowed keys and content parts.

    Raises:
        MalformedRequest: a part holds a URL or path in place of bytes, or is of an unknown type.
    """
    dropped_keys: set[str] = set()
    dropped_in_parts: set[str] = set()
    for number, message in enumerate(draft.messages):
        content = message.get("content")
        if len(message) == 2 and content is not None and json_type(content) == "string":
            continue
        at = f"messages[{number}]"
        kept = keep_known(
            {name: raw for name, raw in message.items() if name != "content"}, _MESSAGE_KEYS, at, dropped_keys
        )
        if content is not None:
            kept["content"] = _content(content, f"{at}.content", dropped_in_parts)
        draft.messages[number] = kept
    draft.note_dropped("messages", dropped_keys)
    draft.note_dropped("content", dropped_in_parts)


def _content(raw: Raw, at: str, dropped: set[str]) -> Raw:
    if json_type(raw) != "array":
        return raw
    return Raw(_encode([_part(part, f"{at}[{place}]", dropped) for place, part in enumerate(as_list(raw))]))


def _part(raw: Raw, at: str, dropped: set[str]) -> Raw:
    given = as_object(raw)
    kind = as_text(given.get("type")) or ""
    known = _PARTS.get(kind)
    if known is None:  # `parts.check` has already refused the types that the host does not support
        raise MalformedRequest(f"Invalid '{at}': this model takes no such parts.", param=f"{at}.type")
    kept = keep_known(given, known, at, dropped)
    if kind not in kept:
        if kind in _TEXTS:
            raise wrong_type(f"{at}.{kind}", "a string", json_type(given.get(kind, _NULL)))
        raise not_inline(f"{at}.{kind}")
    return Raw(_encode(kept))
