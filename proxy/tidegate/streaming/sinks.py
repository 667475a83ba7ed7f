"""Sinks receive the canonical sequence: writers make chunks as JSON, assemblers make one answer.

A writer's payloads are complete JSON objects without newlines, ready for any framing. The envelope of a stream (id,
created, model) is encoded once, and a text chunk is the join of prebuilt pieces around one encoded string (contract
E.4).
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tidegate.protocol.chat import TopLevel
from tidegate.protocol.usage import Usage
from tidegate.streaming.finish import FinishReason

Extra = Literal["annotations", "audio", "function_call", "reasoning_details", "extra_content", "images"]

_encode = msgspec.json.Encoder().encode


class ToolPiece(Struct, gc=False):
    """A piece of a tool call; `id` and `name` in its first piece only, `arguments` or `custom` in any.

    `extra_content` is an object of the host's that a client must send back with the call; in one piece only.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    custom: Raw | UnsetType = UNSET
    extra_content: Raw | UnsetType = UNSET


class Sink(Protocol):
    """Receives the canonical sequence.

    Calls come in order: `open` first, `finish` once, nothing for a choice after its `finish`.
    """

    def top_level(self, name: TopLevel, value: Raw) -> None:
        """A field beside the choices, as JSON on one line; at most once for each name."""

    def open(self, index: int) -> None:
        """A choice begins."""

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        """Text of the answer; may be empty only beside `logprobs`."""

    def reasoning(self, index: int, text: str) -> None:
        """Text of the thinking; never empty."""

    def refusal(self, index: int, text: str) -> None:
        """Text of a refusal; never empty."""

    def tool(self, index: int, piece: ToolPiece) -> None:
        """A piece of a tool call."""

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        """A field of the message that is passed on unchanged, as JSON on one line; never null."""

    def finish(self, index: int, reason: FinishReason) -> None:
        """The choice is complete."""

    def usage(self, usage: Usage) -> None:
        """All choices are complete, and this is what they took."""


class Envelope(Struct, frozen=True, gc=False):
    """What every chunk of an answer says alike: our own id, the time of the request, the public model name."""

    id: str
    created: int
    model: str


class Writer(Sink, Protocol):
    """A sink that makes payloads.

    Attributes:
        mark: what the last chunk of the choice says beside, as a field in JSON (`"name":value`).
        payloads: the payloads since the last `take`.
    """

    mark: bytes
    payloads: list[bytes]

    def take(self) -> list[bytes]:
        """The payloads since the last call; the caller owns the list."""

    def heartbeat(self) -> bytes:
        """A chunk that says nothing, for silences in which a client would lose patience."""


class Assembler(Sink, Protocol):
    """A sink that makes one answer."""

    def to_json(self) -> bytes:
        """The whole answer."""


def head(envelope: Envelope, kind: str, top_level: Mapping[str, Raw] | None = None) -> bytes:
    """The beginning of every chunk, up to the bracket that opens the choices."""
    fields = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    return _encode({**fields, **(top_level or {})})[:-1] + b',"choices":['


def marked(payload: bytes, mark: bytes) -> bytes:
    """A payload, or the end of one, with a field more."""
    return b"%b,%b}" % (payload[:-1], mark)


def whole(
    envelope: Envelope,
    kind: str,
    choices: list[dict[str, Any]],
    usage: Usage | UnsetType,
    top_level: Mapping[str, Raw],
) -> bytes:
    """A whole answer in OpenAI's field order."""
    fields: dict[str, Any] = {
        "id": envelope.id,
        "object": kind,
        "created": envelope.created,
        "model": envelope.model,
        "choices": choices,
    }
    if usage is not UNSET:
        fields["usage"] = usage
    return _encode({**fields, **top_level})


def joined_logprobs(entries: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The lists of all entries, end to end."""
    joined: dict[str, Any] = {}
    for entry in entries:
        for name, value in entry.items():
            if isinstance(value, list) and isinstance(joined.get(name), list):
                joined[name].extend(value)
            elif value is not None or name not in joined:
                joined[name] = list(value) if isinstance(value, list) else value
    return joined or None
