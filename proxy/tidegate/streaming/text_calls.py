"""Reads tool calls that a model writes as JSON text.

Used where the model's chat template does not support tools, so that the prompt describes them (see
`dialects.emulated_tools`).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tidegate.protocol.text_calls import TextCalls
from tidegate.streaming.calls import new_call_id
from tidegate.streaming.filters import Filter
from tidegate.streaming.finish import FinishReason
from tidegate.streaming.sinks import Sink, ToolPiece

_MAX_HELD = 64 * 1024  # characters; longer text is passed on as text
# the beginning of a call, up to its arguments
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*', re.DOTALL)
_BEGIN = re.compile(r"[ \t\r\n]*(?:\{|\Z)")  # text that may become a call
_SPACE = " \t\r\n"
_END = _SPACE + "}"  # characters that may belong to the object around the arguments

_scan = json.JSONDecoder().raw_decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class _ChoiceState:
    """The state of one choice.

    Attributes:
        held: text that was not passed on yet.
        parts: the same text as it arrived, each fragment with its log probabilities.
        arguments: the fragments of arguments that were passed on for the call that has begun; None: no call has begun.
        is_text: the content is not a call, so it is passed on as it arrives.
    """

    __slots__ = ("arguments", "held", "is_text", "parts")

    def __init__(self) -> None:
        self.held = ""
        self.parts: list[tuple[str, Mapping[str, Any] | None]] = []
        self.arguments: list[str] | None = None
        self.is_text = False


class TextCallReader(Filter):
    """Converts content that consists only of tool calls; passes on other content unchanged; owned by one attempt."""

    __slots__ = ("_choices", "_form")

    def __init__(self, sink: Sink, form: TextCalls) -> None:
        super().__init__(sink)
        self._form = form
        self._choices: dict[int, _ChoiceState] = {}

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        choice = self._choices.setdefault(index, _ChoiceState())
        if choice.is_text:
            self._sink.content(index, text, logprobs)
            return
        choice.held += text
        if choice.arguments is None:
            choice.parts.append((text, logprobs))
            self._check_beginning(index, choice)
        else:
            self._pass_arguments(index, choice, choice.arguments)

    def finish(self, index: int, reason: FinishReason) -> None:
        choice = self._choices.pop(index, None) or _ChoiceState()
        if choice.arguments is not None:
            self._end_arguments(index, choice.arguments, choice.held)
            reason = "tool_calls" if reason == "stop" else reason
        elif choice.held and (calls := _calls(choice.held, self._form.names)):
            for number, (name, arguments) in enumerate(calls[:1] if self._form.one_call else calls):
                self._sink.tool(index, ToolPiece(number, arguments, new_call_id(), name))
            reason = "tool_calls" if reason == "stop" else reason
        else:
            self._release_text(index, choice)
        self._sink.finish(index, reason)

    def _check_beginning(self, index: int, choice: _ChoiceState) -> None:
        """Begin a call if the text so far is the beginning of one; stop holding back text if it cannot be a call."""
        if self._form.is_forced and (head := _HEAD.match(choice.held)) and (name := _name(head[1])) in self._form.names:
            choice.arguments, choice.held = [], choice.held[head.end() :]
            self._sink.tool(index, ToolPiece(0, "", new_call_id(), name))
            self._pass_arguments(index, choice, choice.arguments)
        elif not _BEGIN.match(choice.held) or len(choice.held) > _MAX_HELD:
            self._release_text(index, choice)

    def _pass_arguments(self, index: int, choice: _ChoiceState, sent: list[str]) -> None:
        """Pass on the arguments, but hold back braces at the end: one may close the object around the arguments."""
        passed = choice.held.rstrip(_END)
        if passed:
            choice.held = choice.held[len(passed) :]
            self._send_arguments(index, sent, passed)

    def _end_arguments(self, index: int, sent: list[str], held: str) -> None:
        rest = held.rstrip(_SPACE)
        inner = rest.removesuffix("}").rstrip(_SPACE)
        # in a truncated answer the last brace may belong to the arguments
        self._send_arguments(index, sent, inner if _is_json("".join(sent) + inner) else rest)

    def _send_arguments(self, index: int, sent: list[str], text: str) -> None:
        if text := text if sent else text.lstrip(_SPACE):
            sent.append(text)
            self._sink.tool(index, ToolPiece(0, text))

    def _release_text(self, index: int, choice: _ChoiceState) -> None:
        choice.is_text = True
        for text, logprobs in choice.parts:
            self._sink.content(index, text, logprobs)
        choice.parts.clear()


def _calls(text: str, names: frozenset[str]) -> list[tuple[str, str]]:
    """Return the name and the arguments of each call, if the text is nothing but calls; otherwise an empty list."""
    found, rest = [], text.lstrip(_SPACE)
    while rest:
        try:
            value, size = _scan(rest)
            fields = _fields(rest[:size])
        except (ValueError, RecursionError, msgspec.DecodeError):
            return []
        name, arguments = value.get("name"), bytes(fields.get("arguments", b"")).decode()
        if len(fields) != 2 or not isinstance(name, str) or name not in names or not arguments.startswith("{"):
            return []
        found.append((name, arguments))
        rest = rest[size:].lstrip(_SPACE)
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _name(literal: str) -> str:
    try:
        name: str = json.loads(literal)
    except ValueError:
        return ""
    return name
