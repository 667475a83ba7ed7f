"""Sinks in front of another sink: they change or record the sequence (contract C: formats and memory of reasoning)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from tidegate.protocol.chat import TopLevel
from tidegate.protocol.reasoning import ReasoningFormat
from tidegate.protocol.usage import Usage
from tidegate.streaming.allowance import Allowance
from tidegate.streaming.finish import FinishReason
from tidegate.streaming.sinks import Extra, Sink, ToolPiece

_encode = msgspec.json.Encoder().encode
_MAX_THOUGHTS = 8 * 1024 * 1024  # bytes; longer reasoning is not recorded


def in_format(sink: Sink, form: ReasoningFormat) -> Sink:
    """Return `sink` with the filter that `form` needs in front.

    The formats that differ only in the field's name need none: writers and assemblers choose the name themselves.
    """
    if form == "think_tags":
        return TaggedReasoning(sink)
    return HiddenReasoning(sink) if form == "hidden" else sink


class Filter:
    """Passes every call on to `sink`; the base class of filters."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def top_level(self, name: TopLevel, value: Raw) -> None:
        self._sink.top_level(name, value)

    def open(self, index: int) -> None:
        self._sink.open(index)

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        self._sink.content(index, text, logprobs)

    def reasoning(self, index: int, text: str) -> None:
        self._sink.reasoning(index, text)

    def refusal(self, index: int, text: str) -> None:
        self._sink.refusal(index, text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        self._sink.tool(index, piece)

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._sink.extra(index, name, value)

    def finish(self, index: int, reason: FinishReason) -> None:
        self._sink.finish(index, reason)

    def usage(self, usage: Usage) -> None:
        self._sink.usage(usage)


class HiddenReasoning(Filter):
    """Drops the reasoning. The usage still counts its tokens."""

    __slots__ = ()

    def reasoning(self, index: int, text: str) -> None:
        """Drop the text."""


class TaggedReasoning(Filter):
    """Passes the reasoning on in the content, in `<think>` tags, for clients that read no field for reasoning."""

    __slots__ = ("_thinking",)

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._thinking: set[int] = set()  # the indexes of choices whose tag is open

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        if text and index in self._thinking:
            self._thinking.remove(index)
            text = "</think>\n\n" + text
        self._sink.content(index, text, logprobs)

    def reasoning(self, index: int, text: str) -> None:
        if index not in self._thinking:
            self._thinking.add(index)
            text = "<think>" + text
        self._sink.content(index, text, None)

    def tool(self, index: int, piece: ToolPiece) -> None:
        self._close_tag(index)
        self._sink.tool(index, piece)

    def finish(self, index: int, reason: FinishReason) -> None:
        self._close_tag(index)
        self._sink.finish(index, reason)

    def _close_tag(self, index: int) -> None:
        if index in self._thinking:
            self._thinking.remove(index)
            self._sink.content(index, "</think>\n\n", None)


class FunctionCallFilter(Filter):
    """Converts the tool call (one: `HostAnswerFormat.one_call`) to `function_call`, if the caller sent `functions`."""

    __slots__ = ()

    def tool(self, index: int, piece: ToolPiece) -> None:
        if piece.id is not None:
            self._send(index, {"name": piece.name, "arguments": ""})
        if piece.arguments:
            self._send(index, {"arguments": piece.arguments})

    def finish(self, index: int, reason: FinishReason) -> None:
        self._sink.finish(index, "function_call" if reason == "tool_calls" else reason)

    def _send(self, index: int, piece: Mapping[str, str | None]) -> None:
        self._sink.extra(index, "function_call", Raw(_encode(piece)))


class Turn(Struct, frozen=True):
    """The reasoning of a model before it called tools, and the ids of those calls."""

    call_ids: list[str]
    reasoning: str


class ReasoningRecorder(Filter):
    """Records the reasoning of turns that call tools; `take` returns the complete turns."""

    __slots__ = ("_allowance", "_call_ids", "_thoughts", "_turns")

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._allowance = Allowance(_MAX_THOUGHTS)
        self._thoughts: dict[int, list[str]] = {}
        self._call_ids: dict[int, list[str]] = {}
        self._turns: list[Turn] = []

    def take(self) -> list[Turn]:
        """Return the turns since the last call; the recorder does not use the list again."""
        turns, self._turns = self._turns, []
        return turns

    def reasoning(self, index: int, text: str) -> None:
        if self._allowance.take(len(text)):
            self._thoughts.setdefault(index, []).append(text)
        self._sink.reasoning(index, text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        if piece.id is not None:
            self._call_ids.setdefault(index, []).append(piece.id)
        self._sink.tool(index, piece)

    def finish(self, index: int, reason: FinishReason) -> None:
        thoughts, call_ids = self._thoughts.pop(index, []), self._call_ids.pop(index, [])
        if thoughts and call_ids and not self._allowance.is_spent:
            self._turns.append(Turn(call_ids, "".join(thoughts)))
        self._sink.finish(index, reason)
