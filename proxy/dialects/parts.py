"""Content parts: which a host and a model take, texts as one, thinking among them."""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw

from proxy.dialects.draft import Message, Note
from proxy.errors import MalformedRequest, UnsupportedParameter
from proxy.protocol.raw import as_list, as_object, as_text
from proxy.protocol.request import json_type

_encode = msgspec.json.Encoder().encode
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})  # of Mistral, Anthropic, the AI SDK
_TEXT_KEYS = frozenset({"type", "text", "refusal", "prompt_cache_breakpoint"})
_EMPTY = Raw(b'""')
_NULL = Raw(b"null")


def each(messages: list[Message]) -> Iterator[tuple[str, str, Mapping[str, Raw]]]:
    """Every content part: where it stands (`messages[0].content[1]`), its type, and itself."""
    for number, message in enumerate(messages):
        content = message.get("content")
        if content is None or json_type(content) != "array":
            continue
        for place, raw in enumerate(as_list(content)):
            at = f"messages[{number}].content[{place}]"
            part = as_object(raw)
            kind = as_text(part.get("type"))
            if kind is None:
                raise MalformedRequest(f"Invalid '{at}': a content part has a 'type'.", param=at, code="invalid_type")
            yield at, kind, part


def check(messages: list[Message], *, known: frozenset[str], has_vision: bool | None) -> None:
    """Whether the host and the model take every content part.

    Raises:
        UnsupportedParameter: a part is of a type that the host does not know or the model cannot see.
        MalformedRequest: a part is none.
    """
    for at, kind, _ in each(messages):
        if kind not in known:
            raise UnsupportedParameter(
                f"Invalid value: '{kind[:64]}' parts are not supported with this model.",
                param=f"{at}.type",
                code="unsupported_content",
            )
        if kind == "image_url" and has_vision is False:
            raise UnsupportedParameter(
                "This model does not take images.", param=f"{at}.image_url", code="unsupported_content"
            )


def adapt(message: Message, note: Note, *, is_answer: bool, keeps_cache_control: bool, joins_text: bool) -> list[Raw]:
    """Content parts as a host takes them.

    Args:
        message: whose content, an array, is changed.
        note: told what was left out.
        is_answer: whether it is the assistant's, where thinking may be among the parts.
        keeps_cache_control: whether Anthropic's marks of what is to be cached go.
        joins_text: whether texts alone become one (Q-TEXT).

    Returns:
        The thinking that was among them.
    """
    parts, thoughts = [as_object(part) for part in as_list(message["content"])], []
    if is_answer:
        thoughts = [_thought_of(part) for part in parts if as_text(part.get("type")) in _THOUGHTS]
        parts = [part for part in parts if as_text(part.get("type")) not in _THOUGHTS]
    if not keeps_cache_control:
        for part in parts:
            if part.pop("cache_control", None) is not None:
                note("cache_control", "dropped")
    if not parts:
        message["content"] = _NULL if "tool_calls" in message else _EMPTY
    else:
        message["content"] = _join_text(parts, note) if joins_text else Raw(_encode(parts))
    return thoughts


def _join_text(parts: list[Message], note: Note) -> Raw:
    """The texts end to end, or the array without what only OpenAI knows where not all is text."""
    is_text = [bytes(part.get("type", _EMPTY)) in {b'"text"', b'"refusal"'} for part in parts]
    if all(is_text) and not any("cache_control" in part for part in parts):
        for name in sorted({name for part in parts for name in part} - _TEXT_KEYS):
            note(f"content.{name}", "dropped")
        return Raw(_encode("".join(as_text(part.get("text") or part.get("refusal")) or "" for part in parts)))
    for part in parts:
        part.pop("prompt_cache_breakpoint", None)
    # an empty text says nothing, and Zhipu and Bedrock refuse it
    return Raw(_encode([part for part in parts if bytes(part.get("text", _NULL)) != b'""'] or parts))


def _thought_of(part: Mapping[str, Raw]) -> Raw:
    """The text of a thinking part: a string, or a list of text parts (Mistral)."""
    found = next((part[name] for name in ("thinking", "text", "reasoning", "summary") if name in part), _EMPTY)
    return text_of(found) if json_type(found) == "array" else found


def text_of(details: Raw) -> Raw:
    """The texts in a list of parts, end to end."""
    items = msgspec.json.decode(details)
    texts = [item.get("text") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return Raw(_encode("".join(text for text in texts if isinstance(text, str))))
