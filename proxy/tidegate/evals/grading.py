"""Grades answers: exact comparison, after differences that do not matter have been removed. Pure functions."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tidegate.evals.items import ExpectedCall, Item

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_AROUND = " \t\r\n.,;:!?*_`'\"()[]"
_decode = msgspec.json.Decoder().decode


class ReceivedCall(Struct, frozen=True):
    """A tool call in a model's answer; `arguments` is the JSON text as received."""

    name: str
    arguments: str


class ModelAnswer(Struct, frozen=True):
    """The answer of a model: text, tool calls, or both."""

    text: str = ""
    calls: tuple[ReceivedCall, ...] = ()


def is_right(item: Item, answer: ModelAnswer) -> bool:
    """Whether `answer` is the right answer to `item`."""
    if item.call is not None:
        return _is_call(answer.calls, item.call)
    if answer.calls:
        return False
    if item.json is not None:
        return _same(_parsed(answer.text), item.json)
    if item.pattern is not None:
        return re.fullmatch(item.pattern, answer.text.strip()) is not None
    if item.number is not None:
        return [float(number.replace(",", "")) for number in _NUMBER.findall(answer.text)] == [item.number]
    return normalise(answer.text) in {normalise(word) for word in item.words or ()}


def normalise(text: str) -> str:
    """`text` without differences that do not matter: case, character width, surrounding spaces and punctuation."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)


def _is_call(calls: Sequence[ReceivedCall], expected: ExpectedCall) -> bool:
    return len(calls) == 1 and calls[0].name == expected.name and _same(_parsed(calls[0].arguments), expected.arguments)


def _parsed(text: str) -> Any:  # noqa: ANN401 - any JSON value; `...` if the text is not JSON
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return ...


def _same(actual: Any, expected: Any) -> bool:  # noqa: ANN401 - JSON values
    """Whether two JSON values are equal: 1 equals 1.0, but true does not equal 1; strings are normalised first."""
    if isinstance(expected, str) and isinstance(actual, str):
        return normalise(actual) == normalise(expected)
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(_same(actual[name], value) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(actual, list):
        return len(actual) == len(expected) and all(map(_same, actual, expected))
    return isinstance(actual, bool) == isinstance(expected, bool) and bool(actual == expected)
