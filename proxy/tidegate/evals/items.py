"""`Item`: a question and its right answer; and the set of items that comes with Tidegate."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from tidegate.protocol.routing import Task


class ExpectedCall(Struct, frozen=True, forbid_unknown_fields=True):
    """The tool call that is the right answer."""

    name: str
    arguments: Mapping[str, Any]


class Item(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question and its right answer, which is in exactly one of the last five fields.

    Attributes:
        id: a unique name.
        task: the kind of work that it tests.
        ask: the text of the question.
        words: the right answers; case and surrounding punctuation do not matter.
        number: the only number in the right answer; 1000, 1,000 and 1000.0 are the same.
        pattern: a regular expression that matches the whole answer without surrounding spaces.
        json: the JSON value of the right answer; the order of keys does not matter.
        call: the only tool call of the right answer.
    """

    id: str
    task: Task
    ask: str
    words: tuple[str, ...] | None = None
    number: float | None = None
    pattern: str | None = None
    json: Mapping[str, Any] | None = None
    call: ExpectedCall | None = None


class ItemSet(Struct, frozen=True, forbid_unknown_fields=True):
    """The items, the tools for the items of task `tools`, and the version of both."""

    version: str
    tools: tuple[Mapping[str, Any], ...]
    items: tuple[Item, ...]


@cache
def shipped() -> ItemSet:
    """The set of items that comes with Tidegate."""
    text = Path(__file__).with_name("set.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.safe_load(text), ItemSet)
