"""Emulates `response_format` if the host cannot enforce a schema: the schema is put into the prompt (Q-JSON).

The pipeline then validates the answer against `RequestDraft.schema`, and repeats the request once if it is invalid.
"""

import msgspec
from msgspec import Raw

from tidegate.config.cards import Structured
from tidegate.dialects import parts
from tidegate.dialects.messages import role_of, set_text, text_of
from tidegate.dialects.request_draft import Message, RequestDraft
from tidegate.protocol import json_schema
from tidegate.protocol.raw import as_object, as_text

_encode = msgspec.json.Encoder().encode
_LEVELS: dict[str, int] = {"none": 0, "json_object": 1, "json_schema": 2}
_ANY_OBJECT = Raw(b'{"type":"object"}')


def emulate(draft: RequestDraft, *, host_has: Structured) -> None:
    """Replace a `response_format` that the host or the model does not support by an instruction in the prompt.

    Args:
        draft: the request.
        host_has: the highest level of `response_format` that the host supports; the model's card can lower it.

    Raises:
        MalformedRequest: the schema is not a valid JSON schema.
    """
    if "response_format" not in draft.fields:
        return
    requested = as_object(draft.fields["response_format"])
    kind = as_text(requested.get("type"))
    has = min(host_has, draft.card.structured_output or host_has, key=_LEVELS.__getitem__)
    if kind == "text":  # the default; some hosts do not support the field
        del draft.fields["response_format"]
        return
    if kind not in ("json_object", "json_schema") or _LEVELS[has] >= _LEVELS[kind]:
        return
    settings = as_object(requested.get("json_schema"))
    schema = settings.get("schema", _ANY_OBJECT)
    json_schema.check(schema)
    draft.schema = schema
    instruct(draft, _instruction(settings, schema))
    if has == "json_object":
        draft.put("response_format", {"type": "json_object"})
    else:
        del draft.fields["response_format"]
    draft.note("response_format", "emulated")


def drop(draft: RequestDraft) -> None:
    """Drop `response_format` if the answer must be a tool call; report that unless its type is text, the default."""
    given = as_object(draft.fields.pop("response_format", None))
    if as_text(given.get("type")) not in (None, "text"):
        draft.note("response_format", "dropped")


def mention_json(draft: RequestDraft) -> None:
    """Row 8: add a message with the word JSON if no message has it, as DeepSeek refuses `json_object` without it."""
    if as_text(as_object(draft.fields.get("response_format")).get("type")) != "json_object":
        return
    texts = [text_of(message) or "" for message in draft.messages]
    texts += [as_text(part.get("text")) or "" for _, _, part in parts.each(draft.messages)]
    if not any("json" in text.lower() for text in texts):
        draft.messages.append(_system("Respond in JSON."))
        draft.note("response_format", "mentioned")


def instruct(draft: RequestDraft, instruction: str) -> None:
    """Append an instruction to the first message if it is a system message, else put a new system message first.

    A second system message is avoided, as some chat templates support only one.
    """
    first = draft.messages[0]
    if role_of(first) == "system" and (text := text_of(first)) is not None:
        set_text(first, f"{text}\n\n{instruction}")
    else:
        draft.messages.insert(0, _system(instruction))


def _instruction(settings: dict[str, Raw], schema: Raw) -> str:
    name, description = as_text(settings.get("name")), as_text(settings.get("description"))
    about = f" It is called {name!r}{f' ({description})' if description else ''}." if name else ""
    return (
        "Answer with one JSON value and nothing else: no explanation, no code fence."
        f"{about} It must be valid against this JSON schema:\n{bytes(schema).decode()}"
    )


def _system(text: str) -> Message:
    return {"role": Raw(b'"system"'), "content": Raw(_encode(text))}
