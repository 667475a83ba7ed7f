"""Sinks for `/v1/completions`: they make `text_completion` chunks, or one whole `text_completion` (contract A.8)."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tidegate.protocol.chat import TopLevel
from tidegate.protocol.usage import Usage
from tidegate.streaming.chat import AssembledChoice, ChatAssembler
from tidegate.streaming.finish import FinishReason
from tidegate.streaming.logprobs import character_count, legacy_logprobs
from tidegate.streaming.sinks import Envelope, Extra, ToolPiece, answer_json, chunk_head, joined_logprobs, with_field

_encode = msgspec.json.Encoder().encode


class CompletionWriter:
    """Encodes `text_completion` chunks, a format without reasoning, refusals and tool calls."""

    __slots__ = ("_envelope", "_head", "_offsets", "_tail", "_wants_usage", "finish_field", "payloads")

    def __init__(self, envelope: Envelope, *, wants_usage: bool) -> None:
        self._envelope = envelope
        self._head = chunk_head(envelope, "text_completion")
        self._tail = b"]" + (b',"usage":null}' if wants_usage else b"}")
        self._wants_usage = wants_usage
        self.finish_field = b""
        self._offsets: dict[int, int] = {}  # by index of the choice: the text offset of its next token
        self.payloads: list[bytes] = []

    def take(self) -> list[bytes]:
        payloads, self.payloads = self.payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        return self._chunk(0, b'""', b"null", b"null")

    def top_level(self, name: TopLevel, value: Raw) -> None:
        if name == "system_fingerprint":
            self._head = chunk_head(self._envelope, "text_completion", {name: value})

    def open(self, index: int) -> None:
        """Do nothing: a legacy stream has no opening chunk."""

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        encoded = b"null" if logprobs is None else _encode(self._legacy(index, logprobs))
        self.payloads.append(self._chunk(index, _encode(text), encoded, b"null"))

    def reasoning(self, index: int, text: str) -> None:
        """Drop it: the format has no such field."""

    def refusal(self, index: int, text: str) -> None:
        """Drop it: the format has no such field."""

    def tool(self, index: int, piece: ToolPiece) -> None:
        """Drop it: the format has no such field."""

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        """Drop it: the format has no such field."""

    def finish(self, index: int, reason: FinishReason) -> None:
        payload = self._chunk(index, b'""', b"null", _encode(reason))
        self.payloads.append(with_field(payload, self.finish_field) if self.finish_field else payload)

    def usage(self, usage: Usage) -> None:
        if self._wants_usage:
            self.payloads.append(b'%b],"usage":%b}' % (self._head, _encode(usage)))

    def _legacy(self, index: int, logprobs: Mapping[str, Any]) -> dict[str, Any]:
        offset = self._offsets.get(index, 0)
        legacy = legacy_logprobs(logprobs, offset=offset)
        self._offsets[index] = offset + character_count(legacy)
        return legacy

    def _chunk(self, index: int, text: bytes, logprobs: bytes, reason: bytes) -> bytes:
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}' % (index, text, logprobs, reason)
        return b"".join((self._head, choice, self._tail))


class CompletionAssembler(ChatAssembler):
    """Builds one `text_completion`; the parts are collected as for a chat completion and encoded differently."""

    __slots__ = ()

    def to_json(self) -> bytes:
        choices = [_completion_choice(index, choice) for index, choice in sorted(self._choices.items())]
        return answer_json(self._envelope, "text_completion", choices, self._usage, self._top_level)


def _completion_choice(index: int, choice: AssembledChoice) -> dict[str, Any]:
    return {
        "index": index,
        "text": "".join(choice.text),
        "logprobs": joined_logprobs(_legacy_entries(choice.logprobs)),
        "finish_reason": choice.reason,
    }


def _legacy_entries(logprobs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    entries: list[Mapping[str, Any]] = []
    offset = 0
    for given in logprobs:
        entries.append(legacy_logprobs(given, offset=offset))
        offset += character_count(entries[-1])
    return entries
