"""Sinks receive the canonical sequence (see `choices`): a writer encodes it as chunks, an assembler as one answer.

A writer's payloads are complete JSON objects without newlines, ready for any framing. The envelope of a stream (id,
created, model) is encoded once, and a text chunk is one encoded string between two prepared byte strings (contract
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
    """A fragment of a tool call.

    Attributes:
        index: the position of the call among the calls of its choice.
        arguments, custom: the fragment of a function's arguments, or of a custom tool's call.
        id, name: set in the first fragment of a call only.
        extra_content: an object of the host's that a client must send back with the call; in one fragment only.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    custom: Raw | UnsetType = UNSET
    extra_content: Raw | UnsetType = UNSET


class Sink(Protocol):
    """Receives the canonical sequence.

    For each choice `open` is called first, and `finish` once, as the last call.
    """

    def top_level(self, name: TopLevel, value: Raw) -> None:
        """Receive a field next to the choices, as JSON on one line; at most once for each name."""

    def open(self, index: int) -> None:
        """Begin a choice."""

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        """Receive text of the answer; it is empty only if there are `logprobs`."""

    def reasoning(self, index: int, text: str) -> None:
        """Receive text of the reasoning; never empty."""

    def refusal(self, index: int, text: str) -> None:
        """Receive text of a refusal; never empty."""

    def tool(self, index: int, piece: ToolPiece) -> None:
        """Receive a fragment of a tool call."""

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        """Receive a field of the message that is passed on unchanged, as JSON on one line; never null."""

    def finish(self, index: int, reason: FinishReason) -> None:
        """End a choice, which is complete."""

    def usage(self, usage: Usage) -> None:
        """Receive the usage of the whole answer, after all choices are complete."""


class Envelope(Struct, frozen=True, gc=False):
    """The fields that are the same in every chunk of an answer.

    Attributes:
        id: the id that Tidegate gave the answer.
        created: the time of the request, a Unix time in seconds.
        model: the public name of the model.
    """

    id: str
    created: int
    model: str


class Writer(Sink, Protocol):
    """A sink that encodes the sequence as payloads of a stream.

    Attributes:
        finish_field: a field that is added to the last chunk of a choice, as JSON (`"name":value`); empty: none.
        payloads: the payloads since the last `take`.
    """

    finish_field: bytes
    payloads: list[bytes]

    def take(self) -> list[bytes]:
        """Return the payloads since the last call; the writer does not use the list again."""

    def heartbeat(self) -> bytes:
        """Return a chunk without content, to be sent while the upstream is silent, so that clients do not time out."""


class Assembler(Sink, Protocol):
    """A sink that builds one whole answer."""

    def to_json(self) -> bytes:
        """Return the whole answer."""


def chunk_head(envelope: Envelope, kind: str, top_level: Mapping[str, Raw] | None = None) -> bytes:
    """Return the beginning of every chunk, up to the bracket that opens the choices."""
    fields = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    return _encode({**fields, **(top_level or {})})[:-1] + b',"choices":['


def with_field(payload: bytes, mark: bytes) -> bytes:
    """Add the field `mark` (`"name":value`) at the end of an encoded object; `payload` may be only its last bytes."""
    return b"%b,%b}" % (payload[:-1], mark)


def answer_json(
    envelope: Envelope,
    kind: str,
    choices: list[dict[str, Any]],
    usage: Usage | UnsetType,
    top_level: Mapping[str, Raw],
) -> bytes:
    """Encode a whole answer in OpenAI's field order."""
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
    """Join log probabilities: the lists of all entries are concatenated by field; None if there is nothing."""
    joined: dict[str, Any] = {}
    for entry in entries:
        for name, value in entry.items():
            if isinstance(value, list) and isinstance(joined.get(name), list):
                joined[name].extend(value)
            elif value is not None or name not in joined:
                joined[name] = list(value) if isinstance(value, list) else value
    return joined or None
