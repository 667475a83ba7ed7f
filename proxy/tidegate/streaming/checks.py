"""Cheap checks of an answer, for what is thought of the target: is it JSON where that was asked, does a call parse?

Only requests that ask for JSON or give tools are looked at: text says nothing of itself without being understood, and
costs nothing here. A verdict is about the target alone: an answer that the caller's own limit cut, a refusal or a
filtered one has none.
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
_ASKING = frozenset({"tools", "functions", "response_format"})
_LIMITS = ("max_tokens", "max_completion_tokens")
_FORMS: Mapping[str, Form] = {"json_object": "object", "json_schema": "value"}
_value = msgspec.json.Decoder().decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode


class Expected(Struct, frozen=True):
    """What an answer to a request must be.

    Attributes:
        json: its content is a JSON object, or any JSON value; empty: it may be text.
        names: of the tools that may be called.
        must_call: text is no answer.
        is_limited: the caller says how long it may be, so being cut is no fault.
    """

    json: Form = ""
    names: frozenset[str] = frozenset()
    must_call: bool = False
    is_limited: bool = False


class Said:
    """One choice, as far as a verdict needs it."""

    __slots__ = ("calls", "has_other", "has_text", "is_declined", "reason", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.calls: dict[int, tuple[ToolPiece, list[str]]] = {}
        self.has_text = False
        self.has_other = False
        self.is_declined = False
        self.reason: FinishReason | None = None


class Checking(Filter):
    """Notes what a verdict needs on its way to `sink`; owned by one attempt."""

    __slots__ = ("_allowance", "_fields", "_keeps_text", "_said")

    def __init__(self, sink: Sink, fields: Fields) -> None:
        super().__init__(sink)
        self._allowance = Allowance(_MAX_KEPT)
        self._fields = fields
        self._keeps_text = bool(_form(fields))
        self._said: list[Said] = []

    def verdict(self) -> float | None:
        """The share of choices that are as they were asked for; None: that cannot be told, or it has not ended."""
        if self._allowance.is_spent:
            return None
        expected = expect(self._fields)
        found = [judge(said, expected) for said in self._said]
        told = [share for share in found if share is not None]
        return sum(told) / len(told) if told else None

    def open(self, index: int) -> None:
        self._said.append(Said())
        self._sink.open(index)

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        said = self._said[index]
        said.has_text = said.has_text or bool(text)
        if self._keeps_text and self._allowance.take(len(text)):
            said.text.append(text)
        self._sink.content(index, text, logprobs)

    def refusal(self, index: int, text: str) -> None:
        self._said[index].is_declined = True
        self._sink.refusal(index, text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        if self._allowance.take(len(piece.arguments)):
            self._said[index].calls.setdefault(piece.index, (piece, []))[1].append(piece.arguments)
        self._sink.tool(index, piece)

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._said[index].has_other = True
        self._sink.extra(index, name, value)

    def finish(self, index: int, reason: FinishReason) -> None:
        self._said[index].reason = reason
        self._sink.finish(index, reason)


def check(sink: Sink, fields: Fields) -> Checking | None:
    """What notes an answer to this chat request on its way to `sink`; None where there is nothing to be checked."""
    if _ASKING.isdisjoint(fields):
        return None
    asks = as_list(fields.get("tools")) or as_list(fields.get("functions")) or _form(fields)
    return Checking(sink, fields) if asks else None


def expect(fields: Fields) -> Expected:
    """What an answer to a checked chat request must be."""
    choice = fields.get("tool_choice") or fields.get("function_call")
    return Expected(
        json=_form(fields),
        names=_names(fields),
        must_call=choice is not None and (json_type(choice) == "object" or as_text(choice) == "required"),
        is_limited=any((raw := fields.get(name)) is not None and json_type(raw) == "number" for name in _LIMITS),
    )


def judge(said: Said, expected: Expected) -> float | None:
    """1 for a choice that is as it was asked for, 0 for one that is not, None where that cannot be told."""
    if said.reason is None or said.reason == "content_filter" or said.is_declined:
        return None
    if said.reason == "length":
        return None if expected.is_limited else 0.0
    if said.calls:
        return float(all(_is_good_call(first, "".join(pieces), expected) for first, pieces in said.calls.values()))
    if said.has_other:
        return None
    if expected.must_call or not said.has_text:
        return 0.0
    return float(not expected.json or _parses("".join(said.text), expected.json))


def _is_good_call(first: ToolPiece, arguments: str, expected: Expected) -> bool:
    if first.custom is not UNSET:  # takes any text
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
    """Of all functions; nobody has checked what callers write here."""
    tools = [as_object(tool).get("function") for tool in as_list(fields.get("tools"))]
    names = [as_text(as_object(each).get("name")) for each in [*tools, *as_list(fields.get("functions"))]]
    return frozenset(name for name in names if name)
