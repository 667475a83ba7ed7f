"""Shapes of answers that OpenAI does not have, put into the one that it has (contract E.4, step 5). On decoded JSON.

A message may be made of parts, with the thinking among them (Mistral); a call may be flat, or its function a string
(Fireworks, row 161); a log probability may be a bare number (Together, row 140). What stays odd is left out later, by
`protocol.lenient`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from proxy.protocol.chat import UNCLEAR_REASON

_MESSAGES = ("delta", "message")
_THINKING = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "thought", "summary_text"})
_TEXTS = ("text", "thinking", "reasoning", "content", "summary", "thought", "value")
Channel = Literal["content", "reasoning_content", "refusal", "images"]


def mend(value: dict[str, Any]) -> None:
    """Mend a chunk or a unary answer in place."""
    choices = value.get("choices")
    if isinstance(choices, dict):
        choices = value["choices"] = [choices] if choices else []
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            _mend_choice(choice)


def _mend_choice(choice: dict[str, Any]) -> None:
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
            _mend_message(message)


def _mend_message(message: dict[str, Any]) -> None:
    for name in _THINKING:
        if isinstance(message.get(name), list | dict):
            message[name] = text_in(message[name])
    if isinstance(message.get("refusal"), list | dict):
        message["refusal"] = text_in(message["refusal"])
    content = message.get("content")
    if isinstance(content, list | dict):
        del message["content"]
        _put_parts(message, content if isinstance(content, list) else [content])
    calls = message.get("tool_calls")
    if isinstance(calls, dict):
        calls = message["tool_calls"] = [calls] if calls else []
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            mend_call(call)


def _put_parts(message: dict[str, Any], parts: Sequence[Any]) -> None:
    """A content of parts: text, thinking, a refusal and pictures, each where OpenAI's clients look for it."""
    found: dict[Channel, list[Any]] = {}
    for part in parts:
        channel, piece = _read_part(part)
        if piece:
            found.setdefault(channel, []).append(piece)
    for channel, pieces in found.items():
        if channel == "images":
            message.setdefault("images", pieces)
        elif channel != "reasoning_content" or not any(message.get(name) for name in _THINKING):
            message[channel] = "".join(pieces)


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
    return "content", json.dumps(part)  # an answer in JSON that the host has decoded


def text_in(value: Any) -> str:  # noqa: ANN401 - JSON of any shape
    """The text in a string, a part, or a list of such; empty where there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(text_in, value))
    if isinstance(value, dict):
        return next((text for name in _TEXTS if (text := text_in(value.get(name)))), "")
    return ""


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON of any shape
    """The strings in a list or a dict, at its first level."""
    items = value.values() if isinstance(value, dict) else value
    return (item for item in items if isinstance(item, str)) if isinstance(value, dict | list) else iter(())


def mend_call(call: dict[str, Any]) -> None:
    """Mend a tool call in place: its function as a string, or its name and arguments without one."""
    function = call.get("function")
    if isinstance(function, str):
        call["function"] = _function_of(function)
    elif function is None and isinstance(call.get("name"), str):  # flat
        call["function"] = {"name": call["name"], "arguments": call.get("arguments", call.get("parameters"))}


def _function_of(text: str) -> dict[str, Any]:
    """A function given as a string: its JSON, or its name."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"name": text}
    return value if isinstance(value, dict) else {"name": text}


def _logprobs_of(choice: dict[str, Any]) -> dict[str, Any]:
    """Of a chunk that holds one token, and its log probability as a bare number."""
    delta = choice.get("delta")
    token = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return {"content": [{"token": token, "logprob": choice["logprobs"]}]}
