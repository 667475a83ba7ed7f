"""Who is told of the canonical sequence: writers make chunks as JSON, assemblers make one answer.

A writer's payloads are complete JSON objects without newlines, ready for any framing. The envelope of a stream (id,
created, model) is encoded once, and a text chunk is the join of prebuilt pieces around one encoded string (contract
E.4).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from proxy.protocol.usage import Usage
from proxy.streaming.choices import Sink

_encode = msgspec.json.Encoder().encode


class Envelope(Struct, frozen=True, gc=False):
    """What every chunk of an answer says alike: our own id, the time of the request, the public model name."""

    id: str
    created: int
    model: str


class Writer(Sink, Protocol):
    """A sink that makes payloads.

    Attributes:
        mark: what the last chunk of the choice says beside, as a field in JSON (`"name":value`).
    """

    mark: bytes

    def take(self) -> list[bytes]:
        """The payloads since the last call; the caller owns the list."""

    def heartbeat(self) -> bytes:
        """A chunk that says nothing, for silences in which a client would lose patience."""


class Assembler(Sink, Protocol):
    """A sink that makes one answer."""

    def to_json(self) -> bytes:
        """The whole answer."""


def head(envelope: Envelope, kind: str) -> bytes:
    """The beginning of every chunk, up to the bracket that opens the choices."""
    fields = {"id": envelope.id, "object": kind, "created": envelope.created, "model": envelope.model}
    return _encode(fields)[:-1] + b',"choices":['


def marked(payload: bytes, mark: bytes) -> bytes:
    """A payload, or the end of one, with a field more."""
    return b"%b,%b}" % (payload[:-1], mark)


def whole(envelope: Envelope, kind: str, choices: list[dict[str, Any]], usage: Usage | UnsetType) -> bytes:
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
    return _encode(fields)


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
