"""The message rules of the contract's B.0, on raw messages: roles, text arrays, past reasoning, nulls."""

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.request import json_type

Message = dict[str, Raw]

_decode = msgspec.json.Decoder(list[Message]).decode
_encode = msgspec.json.Encoder().encode
_REASONING_NAMES = ("reasoning_content", "reasoning")


class _Part(Struct):
    type: str
    text: str | None = None


_parts = msgspec.json.Decoder(list[_Part])


def adapt(raw: Raw, *, system_role: str | None, joins_text: bool, reasoning_name: str | None) -> Raw:
    """The messages as a host takes them; unknown keys stay, duplicate keys are gone."""
    adapted = _decode(raw)
    for message in adapted:
        _drop_nulls(message)
        role = msgspec.json.decode(message["role"])  # its bytes may be escaped
        if system_role is not None and role == "developer":
            message["role"] = Raw(_encode(system_role))
        if joins_text and (content := message.get("content")) is not None and json_type(content) == "array":
            message["content"] = _join_text(content)
        if role == "assistant":
            _rename_reasoning(message, reasoning_name)
    return Raw(_encode(adapted))


def _drop_nulls(message: Message) -> None:
    for name in [name for name, value in message.items() if name != "content" and bytes(value) == b"null"]:
        del message[name]


def _join_text(content: Raw) -> Raw:
    try:
        parts = _parts.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content
    if any(part.type != "text" for part in parts):
        return content
    return Raw(_encode("".join(part.text or "" for part in parts)))


def _rename_reasoning(message: Message, name: str | None) -> None:
    given = [message.pop(old) for old in _REASONING_NAMES if old in message]
    found = [value for value in given if bytes(value) != b'""']  # DeepSeek takes "" for missing (row 31)
    if name is not None and found:
        message[name] = found[0]
