"""Content parts of requests: checks that host and model support them, joins texts, separates thinking."""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw

from tidegate.dialects.request_draft import Message, Note
from tidegate.errors import MalformedRequest, UnsupportedParameter
from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import json_type

_encode = msgspec.json.Encoder().encode
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})  # used by Mistral, Anthropic and the AI SDK
_TEXT_KEYS = frozenset({"type", "text", "refusal", "prompt_cache_breakpoint"})
_EMPTY = Raw(b'""')
_NULL = Raw(b"null")


def each(messages: list[Message]) -> Iterator[tuple[str, str, Mapping[str, Raw]]]:
    """Yield the path (`messages[0].content[1]`), the type and the fields of every content part.

    Raises:
        MalformedRequest: a part has no type.
    """
    for number, message in enumerate(messages):
        content = message.get("content")
        if content is None or json_type(content) != "array":
            continue
        for place, raw in enumerate(as_list(content)):
            at = f"messages[{number}].content[{place}]"
            part = as_object(raw)
            kind = as_text(part.get("type"))
            if kind is None:
                raise MalformedRequest(
                    f"Invalid '{at}': a content part must have a 'type'.", param=at, code="invalid_type"
                )
            yield at, kind, part


def check(messages: list[Message], *, known: frozenset[str], has_vision: bool | None) -> None:
    """Check that the host and the model support every content part.

    Args:
        messages: the messages.
        known: the types of parts that the host supports.
        has_vision: whether the model accepts images; None: not known, so images are sent.

    Raises:
        UnsupportedParameter: the host does not support the type of a part, or the model accepts no images.
        MalformedRequest: a part has no type.
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
    """Adapt the content parts of a message to a host, in place.

    Args:
        message: a message whose content is an array.
        note: is called for every field that is dropped.
        is_answer: whether it is an assistant message, whose parts may hold thinking.
        keeps_cache_control: whether Anthropic's `cache_control` stays.
        joins_text: whether an array of texts becomes a string (Q-TEXT).

    Returns:
        The thinking that was removed from the parts.
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
    """Return the joined texts; if not all parts are text, return the array without keys that only OpenAI supports."""
    is_text = [bytes(part.get("type", _EMPTY)) in {b'"text"', b'"refusal"'} for part in parts]
    if all(is_text) and not any("cache_control" in part for part in parts):
        for name in sorted({name for part in parts for name in part} - _TEXT_KEYS):
            note(f"content.{name}", "dropped")
        return Raw(_encode("".join(as_text(part.get("text") or part.get("refusal")) or "" for part in parts)))
    for part in parts:
        part.pop("prompt_cache_breakpoint", None)
    # an empty text is left out beside other parts, as Zhipu and Bedrock refuse it
    return Raw(_encode([part for part in parts if bytes(part.get("text", _NULL)) != b'""'] or parts))


def _thought_of(part: Mapping[str, Raw]) -> Raw:
    """Return the text of a thinking part, which is a string or a list of text parts (Mistral)."""
    found = next((part[name] for name in ("thinking", "text", "reasoning", "summary") if name in part), _EMPTY)
    return text_of(found) if json_type(found) == "array" else found


def text_of(details: Raw) -> Raw:
    """Return the joined texts of a list of parts, as JSON."""
    items = msgspec.json.decode(details)
    texts = [item.get("text") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return Raw(_encode("".join(text for text in texts if isinstance(text, str))))
