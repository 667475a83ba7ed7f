"""Cheap checks of an answer, for the quality score of its target: JSON is valid if requested, and tool calls parse.

Only answers to requests for JSON or with tools are checked; plain text cannot be judged without understanding it. The
verdict is about the target alone. So an answer that was cut at the caller's own limit, a refusal and a filtered answer
have no verdict.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from tidegate.protocol.raw import as_list, as_object, as_text
from tidegate.protocol.request import Fields, json_type
from tidegate.streaming.allowance import Allowance
from tidegate.streaming.filters import Filter
from tidegate.streaming.finish import FinishReason
from tidegate.streaming.sinks import Extra, Sink, ToolPiece

Form = Literal["", "object", "value"]

_MAX_KEPT = 1024 * 1024  # bytes; a longer answer has no verdict
_CHECKED_FIELDS = frozenset({"tools", "functions", "response_format"})
_LIMITS = ("max_tokens", "max_completion_tokens")
_FORMS: Mapping[str, Form] = {"json_object": "object", "json_schema": "value"}
_value = msgspec.json.Decoder().decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode


class Expected(Struct, frozen=True):
    """The properties that an answer to a request must have.

    Attributes:
        json: `object`: the content must be a JSON object; `value`: any JSON value; empty: any text.
        names: the names of the tools that may be called.
        must_call: the answer must be a tool call.
        is_limited: the caller set a token limit, so an answer that was cut is not the target's fault.
    """

    json: Form = ""
    names: frozenset[str] = frozenset()
    must_call: bool = False
    is_limited: bool = False


class ObservedChoice:
    """The properties of one choice that a verdict needs.

    Attributes:
        text: the fragments of the content; kept only if the content must be JSON.
        calls: by index of the call: its first fragment, and the fragments of its arguments.
        has_text: the content is not empty.
        has_other: the choice holds an extra field, such as audio.
        is_declined: the choice holds a refusal.
        reason: the finish reason; None: the choice has not ended.
    """

    __slots__ = ("calls", "has_other", "has_text", "is_declined", "reason", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: dict[int, tuple[ToolPiece, list[str]]] = {}
        self.has_text = False
        self.has_other = False
        self.is_declined = False
        self.reason: FinishReason | None = None


class AnswerCheck(Filter):
    """Records what a verdict needs and passes everything on to `sink`; owned by one attempt."""

    __slots__ = ("_allowance", "_choices", "_fields", "_keeps_text")

    def __init__(self, sink: Sink, fields: Fields) -> None:
        super().__init__(sink)
        self._allowance = Allowance(_MAX_KEPT)
        self._fields = fields
        self._keeps_text = bool(_form(fields))
        self._choices: list[ObservedChoice] = []

    def verdict(self) -> float | None:
        """Return the share of choices that are as requested; None: it cannot be judged, or the answer has not ended."""
        if self._allowance.is_spent:
            return None
        expected = expect(self._fields)
        found = [judge(choice, expected) for choice in self._choices]
        scores = [share for share in found if share is not None]
        return sum(scores) / len(scores) if scores else None

    def open(self, index: int) -> None:
        self._choices.append(ObservedChoice())
        self._sink.open(index)

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        choice = self._choices[index]
        choice.has_text = choice.has_text or bool(text)
        if self._keeps_text and self._allowance.take(len(text)):
            choice.text.append(text)
        self._sink.content(index, text, logprobs)

    def refusal(self, index: int, text: str) -> None:
        self._choices[index].is_declined = True
        self._sink.refusal(index, text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        if self._allowance.take(len(piece.arguments)):
            self._choices[index].calls.setdefault(piece.index, (piece, []))[1].append(piece.arguments)
        self._sink.tool(index, piece)

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._choices[index].has_other = True
        self._sink.extra(index, name, value)

    def finish(self, index: int, reason: FinishReason) -> None:
        self._choices[index].reason = reason
        self._sink.finish(index, reason)


def check(sink: Sink, fields: Fields) -> AnswerCheck | None:
    """Return an `AnswerCheck` in front of `sink` for the answer to a chat request; None if nothing can be checked."""
    if _CHECKED_FIELDS.isdisjoint(fields):
        return None
    has_something_to_check = as_list(fields.get("tools")) or as_list(fields.get("functions")) or _form(fields)
    return AnswerCheck(sink, fields) if has_something_to_check else None


def expect(fields: Fields) -> Expected:
    """Return the properties that an answer to a chat request must have; the request must have been validated."""
    choice = fields.get("tool_choice") or fields.get("function_call")
    return Expected(
        json=_form(fields),
        names=_names(fields),
        must_call=choice is not None and (json_type(choice) == "object" or as_text(choice) == "required"),
        is_limited=any((raw := fields.get(name)) is not None and json_type(raw) == "number" for name in _LIMITS),
    )


def judge(choice: ObservedChoice, expected: Expected) -> float | None:
    """Return 1 for a choice that is as requested, 0 for one that is not, None if that cannot be judged."""
    if choice.reason is None or choice.reason == "content_filter" or choice.is_declined:
        return None
    if choice.reason == "length":
        return None if expected.is_limited else 0.0
    if choice.calls:
        return float(all(_is_good_call(first, "".join(pieces), expected) for first, pieces in choice.calls.values()))
    if choice.has_other:
        return None
    if expected.must_call or not choice.has_text:
        return 0.0
    return float(not expected.json or _parses("".join(choice.text), expected.json))


def _is_good_call(first: ToolPiece, arguments: str, expected: Expected) -> bool:
    if first.custom is not UNSET:  # the input of a custom tool is any text
        return True
    return first.name in expected.names and (not arguments.strip() or _parses(arguments, "object"))


def _parses(text: str, form: Form) -> bool:
    decode = _object if form == "object" else _value
    try:
        decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return False
    return True


def _form(fields: Fields) -> Form:
    return _FORMS.get(as_text(as_object(fields.get("response_format")).get("type")) or "", "")


def _names(fields: Fields) -> frozenset[str]:
    """Return the names of all functions; entries of a wrong type are skipped, as validation lets them pass."""
    tools = [as_object(tool).get("function") for tool in as_list(fields.get("tools"))]
    names = [as_text(as_object(each).get("name")) for each in [*tools, *as_list(fields.get("functions"))]]
    return frozenset(name for name in names if name)
