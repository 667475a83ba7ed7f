"""Whether an answer is right: exact, after what does not matter has been taken off. Pure."""

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


class Made(Struct, frozen=True):
    """A tool call as it came."""

    name: str
    arguments: str


class ModelAnswer(Struct, frozen=True):
    """What a model said: text, calls, or both."""

    text: str = ""
    calls: tuple[Made, ...] = ()


def is_right(item: Item, answer: ModelAnswer) -> bool:
    """Whether `answer` is what `item` wants."""
    if item.call is not None:
        return _is_call(answer.calls, item.call)
    if answer.calls:
        return False
    if item.json is not None:
        return _same(_parsed(answer.text), item.json)
    if item.pattern is not None:
        return re.fullmatch(item.pattern, answer.text.strip()) is not None
    if item.number is not None:
        return [float(found.replace(",", "")) for found in _NUMBER.findall(answer.text)] == [item.number]
    return normalise(answer.text) in {normalise(word) for word in item.words or ()}


def normalise(text: str) -> str:
    """`text` without what does not matter: case, width, the spaces and the punctuation around it."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)


def _is_call(calls: Sequence[Made], wanted: ExpectedCall) -> bool:
    return len(calls) == 1 and calls[0].name == wanted.name and _same(_parsed(calls[0].arguments), wanted.arguments)


def _parsed(text: str) -> Any:  # noqa: ANN401 - any JSON value; `...` is none
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return ...


def _same(found: Any, wanted: Any) -> bool:  # noqa: ANN401 - JSON values
    """Equal as JSON: 1 is 1.0, but true is not 1; texts without the spaces around them, whatever their case."""
    if isinstance(wanted, str) and isinstance(found, str):
        return normalise(found) == normalise(wanted)
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(_same(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
