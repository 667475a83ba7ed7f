"""Sinks for `/v1/chat/completions`.

They make `chat.completion.chunk` objects (contract A.3), or one whole `chat.completion` (contract A.2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tidegate.protocol.chat import TopLevel
from tidegate.protocol.reasoning import ReasoningFormat, reasoning_names
from tidegate.protocol.usage import Usage
from tidegate.streaming.finish import FinishReason
from tidegate.streaming.logprobs import canonical_logprobs
from tidegate.streaming.sinks import (
    Envelope,
    Extra,
    Sink,
    ToolPiece,
    answer_json,
    chunk_head,
    joined_logprobs,
    with_field,
)

_CHUNK = "chat.completion.chunk"
_TOP_LEVEL: tuple[TopLevel, ...] = get_args(TopLevel)
# extras that only accompany an answer; any other extra can be the whole answer
_BESIDE_CONTENT = frozenset({"annotations", "reasoning_details", "extra_content"})
_encode = msgspec.json.Encoder().encode


class ChatWriter:
    """Encodes `chat.completion.chunk` objects; `form` decides the names of the fields for reasoning."""

    __slots__ = (
        "_envelope",
        "_frames",
        "_head",
        "_reasoning_names",
        "_tail",
        "_top_level",
        "_wants_usage",
        "finish_field",
        "payloads",
    )

    def __init__(self, envelope: Envelope, *, wants_usage: bool, form: ReasoningFormat = "reasoning_content") -> None:
        self._reasoning_names = reasoning_names(form)
        self._envelope = envelope
        self._top_level: dict[str, Raw] = {}
        self._head = chunk_head(envelope, _CHUNK)
        # if the caller requested usage, every chunk but the last holds "usage":null (contract A.3, rule 5)
        self._tail = b"]" + (b',"usage":null}' if wants_usage else b"}")
        self._wants_usage = wants_usage
        self.finish_field = b""
        self._frames: dict[int, tuple[bytes, bytes]] = {}  # by index of the choice: the bytes before and after a delta
        self.payloads: list[bytes] = []

    def take(self) -> list[bytes]:
        payloads, self.payloads = self.payloads, []
        return payloads

    def heartbeat(self) -> bytes:
        before, after = self._frame_for(0)
        return before + after

    def top_level(self, name: TopLevel, value: Raw) -> None:
        """Send `moderation` in a chunk of its own; add any other field to every chunk from now on."""
        if name == "moderation":
            self.payloads.append(with_field(self._head + self._tail, b'"moderation":' + bytes(value)))
            return
        self._top_level[name] = value
        self._head = chunk_head(self._envelope, _CHUNK, self._top_level)
        self._frames.clear()

    def open(self, index: int) -> None:
        self._put(index, b'"role":"assistant","content":"","refusal":null')

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        if logprobs is None:
            before, after = self._frames.get(index) or self._frame_for(index)
            self.payloads.append(b"".join((before, b'"content":', _encode(text), after)))
            return
        delta = b'{"content":%b}' % _encode(text)
        self._put_choice(index, delta, _encode(canonical_logprobs(logprobs)), b"null", self._tail)

    def reasoning(self, index: int, text: str) -> None:
        encoded = _encode(text)
        self._put(index, b",".join(b'"%b":%b' % (name.encode(), encoded) for name in self._reasoning_names))

    def refusal(self, index: int, text: str) -> None:
        self._put(index, b'"refusal":' + _encode(text))

    def tool(self, index: int, piece: ToolPiece) -> None:
        self._put(index, b'"tool_calls":' + _encode([_tool_delta(piece)]))

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._put(index, b'"%b":%b' % (name.encode(), bytes(value)))

    def finish(self, index: int, reason: FinishReason) -> None:
        tail = with_field(self._tail, self.finish_field) if self.finish_field else self._tail
        self._put_choice(index, b"{}", b"null", _encode(reason), tail)

    def usage(self, usage: Usage) -> None:
        if self._wants_usage:
            self.payloads.append(b'%b],"usage":%b}' % (self._head, _encode(usage)))

    def _put(self, index: int, delta: bytes) -> None:
        before, after = self._frame_for(index)
        self.payloads.append(b"".join((before, delta, after)))

    def _put_choice(self, index: int, delta: bytes, logprobs: bytes, reason: bytes, tail: bytes) -> None:
        choice = b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}' % (
            index,
            delta,
            logprobs,
            reason,
        )
        self.payloads.append(b"".join((self._head, choice, tail)))

    def _frame_for(self, index: int) -> tuple[bytes, bytes]:
        frame = self._frames.get(index)
        if frame is None:
            before = b'%b{"index":%d,"delta":{' % (self._head, index)
            frame = self._frames[index] = before, b'},"logprobs":null,"finish_reason":null}' + self._tail
        return frame


class AssembledChoice:
    """The parts of one choice, collected in order."""

    __slots__ = ("extras", "logprobs", "reason", "reasoning", "refusal", "text", "tools")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.logprobs: list[Mapping[str, Any]] = []
        self.tools: list[list[ToolPiece]] = []
        self.extras: dict[Extra, list[Raw]] = {}
        self.reason: FinishReason = "stop"


class ChatAssembler:
    """Builds one `chat.completion`; `form` decides the names of the fields for reasoning."""

    __slots__ = ("_choices", "_envelope", "_reasoning_names", "_top_level", "_usage")

    def __init__(self, envelope: Envelope, *, form: ReasoningFormat = "reasoning_content") -> None:
        self._envelope = envelope
        self._reasoning_names = reasoning_names(form)
        self._choices: dict[int, AssembledChoice] = {}
        self._usage: Usage | UnsetType = UNSET
        self._top_level: dict[str, Raw] = {}

    def top_level(self, name: TopLevel, value: Raw) -> None:
        self._top_level[name] = value

    def open(self, index: int) -> None:
        self._choices[index] = AssembledChoice()

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        self._choices[index].text.append(text)
        if logprobs is not None:
            self._choices[index].logprobs.append(logprobs)

    def reasoning(self, index: int, text: str) -> None:
        self._choices[index].reasoning.append(text)

    def refusal(self, index: int, text: str) -> None:
        self._choices[index].refusal.append(text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        tools = self._choices[index].tools
        if piece.index == len(tools):
            tools.append([])
        tools[piece.index].append(piece)

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._choices[index].extras.setdefault(name, []).append(value)

    def finish(self, index: int, reason: FinishReason) -> None:
        self._choices[index].reason = reason

    def usage(self, usage: Usage) -> None:
        self._usage = usage

    @property
    def choices(self) -> list[AssembledChoice]:
        """The collected choices, ordered by index; code that reads them may change the texts."""
        return [choice for _, choice in sorted(self._choices.items())]

    @property
    def final_usage(self) -> Usage | None:
        """The usage of the answer; None if the host sent none."""
        return None if self._usage is UNSET else self._usage

    def replay(self, sink: Sink) -> None:
        """Send the whole answer to another sink."""
        for field in _TOP_LEVEL:
            if field in self._top_level:
                sink.top_level(field, self._top_level[field])
        for index, choice in sorted(self._choices.items()):
            sink.open(index)
            if choice.reasoning:
                sink.reasoning(index, "".join(choice.reasoning))
            if choice.text or choice.logprobs:
                sink.content(index, "".join(choice.text), joined_logprobs(choice.logprobs))
            if choice.refusal:
                sink.refusal(index, "".join(choice.refusal))
            for piece in (piece for pieces in choice.tools for piece in pieces):
                sink.tool(index, piece)
            for name, values in choice.extras.items():
                sink.extra(index, name, Raw(_encode(_joined(values))))
            sink.finish(index, choice.reason)
        if self._usage is not UNSET:
            sink.usage(self._usage)

    def to_json(self) -> bytes:
        names = self._reasoning_names
        choices = [_chat_choice(index, choice, names) for index, choice in sorted(self._choices.items())]
        return answer_json(self._envelope, "chat.completion", choices, self._usage, self._top_level)


def _tool_delta(piece: ToolPiece) -> dict[str, Any]:
    delta: dict[str, Any] = {"index": piece.index}
    if piece.extra_content is not UNSET:
        delta["extra_content"] = piece.extra_content
    is_custom = piece.custom is not UNSET
    if piece.id is not None:
        delta |= {"id": piece.id, "type": "custom" if is_custom else "function"}
    if is_custom:
        return delta | {"custom": piece.custom}
    function = (
        {"arguments": piece.arguments} if piece.id is None else {"name": piece.name, "arguments": piece.arguments}
    )
    return delta | {"function": function}


def _tool_call(pieces: list[ToolPiece]) -> dict[str, Any]:
    first = pieces[0]
    extra = next(({"extra_content": piece.extra_content} for piece in pieces if piece.extra_content is not UNSET), {})
    if first.custom is not UNSET:
        custom = _joined([piece.custom for piece in pieces if piece.custom is not UNSET])
        return {"id": first.id, "type": "custom", "custom": custom} | extra
    function = {"name": first.name, "arguments": "".join(piece.arguments for piece in pieces)}
    return {"id": first.id, "type": "function", "function": function} | extra


def _joined(values: list[Raw]) -> object:
    """Join the fragments of one value.

    Objects are merged: their strings are concatenated by field, as clients do, and of other fields the last value
    counts. If a fragment is not an object, the last fragment is returned.
    """
    decoded = [msgspec.json.decode(value) for value in values]
    if not all(isinstance(value, dict) for value in decoded):
        return decoded[-1]
    joined: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    for piece in decoded:
        for name, value in piece.items():
            joined[name] = value
            if isinstance(value, str):
                texts.setdefault(name, []).append(value)
            else:
                texts.pop(name, None)
    return joined | {name: "".join(pieces) for name, pieces in texts.items()}


def _chat_choice(index: int, choice: AssembledChoice, reasoning_names: Sequence[str]) -> dict[str, Any]:
    text = "".join(choice.text)
    has_other_answer = choice.tools or choice.refusal or choice.extras.keys() - _BESIDE_CONTENT
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if has_other_answer and not text else text,  # like OpenAI
        "refusal": "".join(choice.refusal) or None,
        "annotations": [],
    }
    if choice.reasoning:
        message |= dict.fromkeys(reasoning_names, "".join(choice.reasoning))
    if choice.tools:
        message["tool_calls"] = [_tool_call(pieces) for pieces in choice.tools]
    message |= {str(name): _joined(values) for name, values in choice.extras.items()}
    logprobs = joined_logprobs([canonical_logprobs(entry) for entry in choice.logprobs])
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.reason}
