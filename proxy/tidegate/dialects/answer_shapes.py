"""Puts decoded answers of other shapes into OpenAI's shape (contract E.4, step 5).

The content may be a list of parts, some of them thinking (Mistral). A tool call may lack the `function` level, or its
function may be a string (Fireworks, row 161). A log probability may be a bare number (Together, row 140). Values that
still have a wrong type are dropped later, by `protocol.lenient`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tidegate.protocol.chat import UNCLEAR_REASON

_MESSAGES = ("delta", "message")
_THINKING = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "thought", "summary_text"})
_TEXTS = ("text", "thinking", "reasoning", "content", "summary", "thought", "value")
Channel = Literal["content", "reasoning_content", "refusal", "images"]


def reshape(value: dict[str, Any]) -> None:
    """Put a chunk, or an answer that is not streamed, into OpenAI's shape, in place."""
    for choice in _objects_in(value, "choices"):
        _reshape_choice(choice)


def _objects_in(owner: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects in the list `name`; a single object in its place is put into a list, an empty one removed."""
    value = owner.get(name)
    if isinstance(value, dict):
        value = owner[name] = [value] if value else []
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _reshape_choice(choice: dict[str, Any]) -> None:
    if "text" in choice:
        choice["text"] = text_in(choice["text"])
    if not isinstance(reason := choice.get("finish_reason"), str | None):
        choice["finish_reason"] = next(_strings(reason), UNCLEAR_REASON)
    if type(choice.get("logprobs")) in (int, float):
        choice["logprobs"] = _logprobs_of(choice)
    for name in _MESSAGES:
        message = choice.get(name)
        if isinstance(message, str):
            choice[name] = {"content": message}
        elif isinstance(message, dict):
            _reshape_message(message)


def _reshape_message(message: dict[str, Any]) -> None:
    for name in _THINKING:
        if isinstance(message.get(name), list | dict):
            message[name] = text_in(message[name])
    if isinstance(message.get("refusal"), list | dict):
        message["refusal"] = text_in(message["refusal"])
    content = message.get("content")
    if isinstance(content, list | dict):
        del message["content"]
        _split_parts(message, content if isinstance(content, list) else [content])
    for call in _objects_in(message, "tool_calls"):
        reshape_call(call)


def _split_parts(message: dict[str, Any], parts: Sequence[Any]) -> None:
    """Put text, thinking, refusal and images of a content list into the message fields that clients read."""
    found: dict[Channel, list[Any]] = {}
    for part in parts:
        channel, value = _read_part(part)
        if value:
            found.setdefault(channel, []).append(value)
    for channel, values in found.items():
        if channel == "images":
            message.setdefault("images", values)
        elif channel != "reasoning_content" or not any(message.get(name) for name in _THINKING):
            message[channel] = "".join(values)


def _read_part(part: Any) -> tuple[Channel, Any]:  # noqa: ANN401 - JSON of any shape
    if not isinstance(part, dict):
        return "content", part if isinstance(part, str) else ""
    kind = part.get("type")
    if kind in _THOUGHT_PARTS or part.get("thought") is True:
        return "reasoning_content", text_in(part)
    if kind == "refusal":
        return "refusal", text_in(part.get("refusal"))
    if kind == "image_url":
        return "images", part
    if isinstance(kind, str) or "text" in part:
        return "content", text_in(part.get("text"))
    return "content", json.dumps(part)  # an answer that is JSON, which the host has sent as an object


def text_in(value: Any) -> str:  # noqa: ANN401 - JSON of any shape
    """Return the text in a string, a part, or a list of these; empty if there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(text_in, value))
    if isinstance(value, dict):
        return next((text for name in _TEXTS if (text := text_in(value.get(name)))), "")
    return ""


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON of any shape
    """Return the strings at the first level of a list or a dict."""
    items = value.values() if isinstance(value, dict) else value
    return (item for item in items if isinstance(item, str)) if isinstance(value, dict | list) else iter(())


def reshape_call(call: dict[str, Any]) -> None:
    """Put a tool call into OpenAI's shape, in place: its function may be a string, or that level may be missing."""
    function = call.get("function")
    if isinstance(function, str):
        call["function"] = _function_of(function)
    elif function is None and isinstance(call.get("name"), str):
        call["function"] = {"name": call["name"], "arguments": call.get("arguments", call.get("parameters"))}


def _function_of(text: str) -> dict[str, Any]:
    """Return the function that the host sent as a string, which is JSON or only the function's name."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"name": text}
    return value if isinstance(value, dict) else {"name": text}


def _logprobs_of(choice: dict[str, Any]) -> dict[str, Any]:
    """Return `logprobs` in OpenAI's form for a chunk with one token and a bare number."""
    delta = choice.get("delta")
    token = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return {"content": [{"token": token, "logprob": choice["logprobs"]}]}
