"""Messages as an engine gets them: rebuilt from what roles and the types of parts say (see `allowlist`)."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from proxy.dialects.draft import Draft
from proxy.dialects.rebuilding import (
    Take,
    address,
    base64_text,
    fields,
    fitting,
    has_address,
    items,
    keep,
    no_address,
    plain,
    text,
    word,
)
from proxy.errors import MalformedRequest
from proxy.protocol.raw import as_list, as_object, as_text
from proxy.protocol.request import json_type, wrong_type

_encode = msgspec.json.Encoder().encode
_NULL = Raw(b"null")


class _Called(Struct, forbid_unknown_fields=True):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct, forbid_unknown_fields=True):
    """Most calls fit into it, which is seen in one step."""

    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None
    function: _Called | None = None


_CALL = fields(
    id=text,
    type=word,
    index=plain,
    function=fields(name=text, arguments=text),
    custom=fields(name=text, input=text),
)
_MESSAGE_KEYS: Mapping[str, Take] = {
    "role": text,
    "name": text,
    "tool_call_id": text,
    "tool_calls": fitting(msgspec.json.Decoder(list[_Call]), items(_CALL)),
    "function_call": fields(name=text, arguments=text),
    "refusal": text,
    "reasoning": text,
    "reasoning_content": text,
}


def _file(raw: Raw, at: str, lost: set[str]) -> Raw:
    """Its bytes, never its id or place.

    Raises:
        MalformedRequest: it has none.
    """
    given = as_object(raw)
    if "file_data" not in given or "file_id" in given or "file_url" in given:
        raise no_address(at)
    kept = keep(given, {"file_data": address, "filename": text}, at, lost)
    kept["file_data"] = as_object(kept["file_data"])["url"]
    if has_address(as_text(kept.get("filename"))):
        raise no_address(at)
    return Raw(_encode(kept))


_BYTES = fields(data=base64_text, format=word)
_PARTS: Mapping[str, Mapping[str, Take]] = {
    kind: {"type": word, "modalities": word, kind: take}  # the second one is SGLang's
    for kind, take in {
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


def restrict(draft: Draft) -> None:
    """Rebuild every message from what its role and the types of its parts say.

    Raises:
        MalformedRequest: a part holds an address in place of bytes.
    """
    lost_keys: set[str] = set()
    lost_in_parts: set[str] = set()
    for number, message in enumerate(draft.messages):
        content = message.get("content")
        if len(message) == 2 and content is not None and json_type(content) == "string":
            continue
        at = f"messages[{number}]"
        kept = keep({name: raw for name, raw in message.items() if name != "content"}, _MESSAGE_KEYS, at, lost_keys)
        if content is not None:
            kept["content"] = _content(content, f"{at}.content", lost_in_parts)
        draft.messages[number] = kept
    draft.note_dropped("messages", lost_keys)
    draft.note_dropped("content", lost_in_parts)


def _content(raw: Raw, at: str, lost: set[str]) -> Raw:
    if json_type(raw) != "array":
        return raw
    return Raw(_encode([_part(part, f"{at}[{place}]", lost) for place, part in enumerate(as_list(raw))]))


def _part(raw: Raw, at: str, lost: set[str]) -> Raw:
    given = as_object(raw)
    kind = as_text(given.get("type")) or ""
    known = _PARTS.get(kind)
    if known is None:  # what the host knows was checked before
        raise MalformedRequest(f"Invalid '{at}': this model takes no such parts.", param=f"{at}.type")
    kept = keep(given, known, at, lost)
    if kind not in kept:
        if kind in _TEXTS:
            raise wrong_type(f"{at}.{kind}", "a string", json_type(given.get(kind, _NULL)))
        raise no_address(f"{at}.{kind}")
    return Raw(_encode(kept))
