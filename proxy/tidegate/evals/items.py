"""`Item`: something to ask, and what is right; the set that is shipped."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from tidegate.protocol.routing import Task


class ExpectedCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool and its arguments."""

    name: str
    arguments: Mapping[str, Any]


class Item(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question. Just one of the last five says what is right.

    Attributes:
        words: one of these, whatever the case and the punctuation around it.
        number: this one alone, however it is written.
        pattern: a regular expression for the whole answer but for the spaces around it.
        json: this value; the order of keys does not matter.
        call: this call alone.
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
    """The items, the tools that those of task `tools` may use, and the version that names both."""

    version: str
    tools: tuple[Mapping[str, Any], ...]
    items: tuple[Item, ...]


@cache
def shipped() -> ItemSet:
    """The set that comes with Tidegate."""
    text = Path(__file__).with_name("set.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.safe_load(text), ItemSet)
