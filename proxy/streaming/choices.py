"""The state machine: whatever an upstream sends becomes the one sequence that OpenAI's SDKs accept.

For each choice: opened once, then content, reasoning and tool-call pieces, then one finish reason; usage last. The rule
ids (R-…) are those of the contract, section B.0.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Literal, Protocol, get_args

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.errors import StreamBroken, UpstreamFailed
from proxy.protocol.chat import Choice, Chunk, Delta, Function, Reading, ToolCall
from proxy.protocol.usage import Usage, parse_usage
from proxy.streaming.allowance import Allowance
from proxy.streaming.calls import Slot, arguments_of, custom_of, is_json, slot_of
from proxy.streaming.markup import Call, Piece, TextReader
from proxy.streaming.values import is_given, on_one_line

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
Extra = Literal["annotations", "audio", "function_call"]

_FINISH: Mapping[str, FinishReason] = {  # contract B.15
    **{reason: reason for reason in get_args(FinishReason)},
    **dict.fromkeys(
        ("max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded", "repetition"), "length"
    ),
    **dict.fromkeys(("tool_use", "tool_call"), "tool_calls"),
    **dict.fromkeys(("SAFETY", "RECITATION", "guardrail_intervened", "refusal", "content_filtered"), "content_filter"),
}
_NOT_A_FINISH = frozenset(
    {
        "error",
        "abort",
        "insufficient_system_resource",
        "load",
        "unload",
        "network_error",
        "time_limit",
        "cancelled",
    }
)
_MAX_CHOICES = 4096  # 128 may be asked for, for each of the prompts of a completion
_MAX_CALLS = 128  # in one choice; a bound on what an upstream can make us keep and look through
_MAX_KEPT = 32 * 1024 * 1024  # bytes of tool calls and annotations
_MAX_THOUGHTS = 8 * 1024 * 1024  # bytes of thoughts that may turn out to be the answer
_MAX_REREAD = 64 * 1024 * 1024  # bytes of arguments, to see whether they are complete
_PLAIN = Reading()

_raw_list = msgspec.json.Decoder(list[Raw])
_encode = msgspec.json.Encoder().encode


class ToolPiece(Struct, gc=False):
    """A piece of a tool call; `id` and `name` in its first piece only, `arguments` or `custom` in any."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    custom: Raw | UnsetType = UNSET


class Sink(Protocol):
    """Who is told. Calls come in order: `open` first, `finish` once, nothing for a choice after its `finish`."""

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
        """What is passed on as it is; one line, never null."""

    def finish(self, index: int, reason: FinishReason) -> None:
        """The choice is complete."""

    def usage(self, usage: Usage) -> None:
        """All choices are complete, and this is what they took."""


class _State:
    """What is known of one choice; owned by its `ChoiceStream`."""

    __slots__ = (
        "annotations",
        "has_answered",
        "has_function_call",
        "has_reasoned",
        "is_finished",
        "reader",
        "slots",
        "thoughts",
    )

    def __init__(self, reading: Reading) -> None:
        looks = reading.looks_for_calls or reading.thought_tags
        self.reader = TextReader(reading) if looks else None
        self.thoughts: list[str] = []  # as long as they are all there is
        self.has_answered = False
        self.annotations: list[Raw] = []
        self.slots: list[Slot] = []
        self.is_finished = False
        self.has_reasoned = False
        self.has_function_call = False


class ChoiceStream:
    """Reads the chunks of one answer and tells `sink` the canonical sequence; one instance per upstream attempt.

    `has_content` turns true with the first thing that a caller waits for; `heard` counts the chunks that said anything,
    also what is not passed on yet.
    """

    __slots__ = (
        "_for_thoughts",
        "_ids",
        "_reading",
        "_rereads",
        "_sink",
        "_states",
        "_to_keep",
        "_usage",
        "has_content",
        "heard",
    )

    def __init__(self, sink: Sink, reading: Reading = _PLAIN) -> None:
        self.has_content = False
        self.heard = 0
        self._sink = sink
        self._reading = reading
        self._states: list[_State] = []
        self._ids: set[str] = set()
        self._to_keep = Allowance(_MAX_KEPT)
        self._for_thoughts = Allowance(_MAX_THOUGHTS)
        self._rereads = Allowance(_MAX_REREAD)
        self._usage: dict[str, Any] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every choice seen has its finish reason."""
        return bool(self._states) and all(state.is_finished for state in self._states)

    @property
    def has_begun(self) -> bool:
        """Whether a choice was seen."""
        return bool(self._states)

    def accept(self, chunk: Chunk) -> None:
        """Read one chunk.

        Raises:
            UpstreamFailed: the host gave up in the guise of a finish reason, or sent what cannot be read.
        """
        if chunk.usage is not None:
            self._usage = chunk.usage  # R-USAGE: the last one wins, nothing is summed
        most = self._reading.choices
        try:
            for choice in chunk.choices or ():
                index = choice.index
                if most is not None and index >= most:
                    continue
                state = self._states[index] if 0 <= index < len(self._states) else self._open(index)
                if not state.is_finished:
                    self._read(choice, state)
        except (RecursionError, ValueError, msgspec.MsgspecError) as error:
            raise UpstreamFailed(f"The upstream sent what cannot be read: {type(error).__name__}.") from error

    def close(self) -> Usage | None:
        """The upstream has ended: its usage, if it told.

        Raises:
            UpstreamFailed: nothing came.
            StreamBroken: a choice has no finish reason, so the answer is not whole (R-TAIL).
        """
        if not self._states:
            raise UpstreamFailed("The upstream's answer holds no choices.")
        if not self.is_complete:
            raise StreamBroken("The upstream's answer ended before it was complete.")
        if self._usage is None:
            return None
        usage = parse_usage(self._usage, has_reasoned=any(state.has_reasoned for state in self._states))
        self._sink.usage(usage)
        return usage

    def _open(self, index: int) -> _State:
        """Choices begin in their order: OpenAI's accumulator puts each new one at the end of its list."""
        if not 0 <= index < _MAX_CHOICES:
            raise UpstreamFailed(f"The upstream sent a choice numbered {index}.")
        while len(self._states) <= index:
            self._sink.open(len(self._states))
            self._states.append(_State(self._reading))
        return self._states[index]

    def _read(self, choice: Choice, state: _State) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            self._read_delta(delta, choice, state)
        elif choice.text or choice.logprobs:
            self.has_content = True
            self.heard += 1
            self._sink.content(choice.index, choice.text or "", choice.logprobs)
        if choice.finish_reason:
            self._finish(choice.finish_reason, choice.index, state)

    def _read_delta(self, delta: Delta, choice: Choice, state: _State) -> None:
        index, sink, reader = choice.index, self._sink, state.reader
        if thought := delta.reasoning_content or delta.reasoning:
            self.heard += 1
            if reader is None or (reader.passes_thoughts and "<" not in thought):
                self._tell_thought(thought, index, state)
            else:
                self._tell_pieces(reader.read(thought, "reasoning"), index, state)
        content = delta.content or choice.text  # the old frames of some hosts hold both forms (row 144)
        if content and self._reading.pads_answer and state.has_reasoned and not state.has_answered:
            content = content.lstrip("\n")
        if content or choice.logprobs:
            self.heard += 1
            if content is None or reader is None or (reader.passes_content and "<" not in content):
                self.has_content = True
                if content:
                    state.has_answered = True
                sink.content(index, content or "", choice.logprobs)
            else:
                self._split(reader, content, choice, state)
        if delta.refusal:
            self.heard += 1
            self.has_content = state.has_answered = True
            sink.refusal(index, delta.refusal)
        for call in delta.tool_calls or ():
            self.heard += 1
            self.has_content = True
            self._read_call(call, index, state, is_whole=choice.delta is None)
        if not (delta.function_call is UNSET and delta.audio is UNSET and delta.annotations is UNSET):
            self._read_extras(delta, index, state)

    def _split(self, reader: TextReader, content: str, choice: Choice, state: _State) -> None:
        """A content that may hold tags; log probabilities are told of all of it, as they came."""
        if choice.logprobs:
            self._sink.content(choice.index, "", choice.logprobs)
        self._tell_pieces(reader.read(content, "content"), choice.index, state)

    def _tell_pieces(self, pieces: list[Piece], index: int, state: _State) -> None:
        for piece in pieces:
            if isinstance(piece, Call):
                self.has_content = True
                function = Function(name=piece.name, arguments=Raw(_encode(piece.arguments)))
                self._read_call(ToolCall(function=function), index, state, is_whole=True)
            elif piece[0] == "reasoning":
                self._tell_thought(piece[1], index, state)
            else:
                self.has_content = state.has_answered = True
                self._sink.content(index, piece[1], None)

    def _tell_thought(self, thought: str, index: int, state: _State) -> None:
        state.has_reasoned = self.has_content = True
        if not state.has_answered and self._for_thoughts.take(len(thought)):
            state.thoughts.append(thought)
        self._sink.reasoning(index, thought)

    def _read_extras(self, delta: Delta, index: int, state: _State) -> None:
        if is_given(delta.function_call, "object") and not state.slots:  # row 112: some hosts say a call both ways
            state.has_function_call = self.has_content = True
            self.heard += 1
            self._sink.extra(index, "function_call", on_one_line(delta.function_call))
        if is_given(delta.audio, "object"):
            self.heard += 1
            self.has_content = True
            self._sink.extra(index, "audio", on_one_line(delta.audio))
        if is_given(delta.annotations, "array"):
            # told at once at the end: accumulators join lists by an `index` that annotations do not have
            for annotation in _raw_list.decode(on_one_line(delta.annotations)):
                self._keep(len(bytes(annotation)))
                state.annotations.append(annotation)

    def _read_call(self, call: ToolCall, index: int, state: _State, *, is_whole: bool) -> None:
        """R-TOOL: dense indexes; id, type and name once; arguments always a string.

        One that is whole continues none, whatever its id.
        """
        name = call.function.name if call.function else None
        arguments = arguments_of(call)
        slot = None if is_whole else slot_of(call, name, arguments, state.slots, self._rereads)
        if slot is None:
            if len(state.slots) >= _MAX_CALLS:
                raise UpstreamFailed("The upstream called too many tools.")
            slot = Slot(call, name, is_unwanted=self._reading.one_call and bool(state.slots))
            state.slots.append(slot)
        if slot.is_unwanted:
            return
        slot.name = slot.name or name
        arguments = slot.take(arguments)
        self._keep(len(arguments))
        slot.arguments.append(arguments)
        slot.size += len(arguments)
        is_function = slot.is_told and slot.custom is UNSET
        custom = UNSET if is_function else custom_of(call.custom, is_first=not slot.is_told)
        if not slot.is_told:
            slot.custom = custom
            if slot.name or custom is not UNSET:
                self._tell_call(slot, index, state)
        elif custom is not UNSET or (arguments and slot.custom is UNSET):
            self._sink.tool(index, ToolPiece(slot.index, arguments, custom=custom))

    def _keep(self, size: int) -> None:
        if not self._to_keep.take(size):
            raise UpstreamFailed("The upstream's answer holds more than can be kept.")

    def _tell_call(self, slot: Slot, index: int, state: _State) -> None:
        slot.index = sum(other.is_told for other in state.slots)
        is_good = slot.id and slot.id not in self._ids and not self._reading.numbers_calls
        call_id = slot.id if slot.id and is_good else f"call_{secrets.token_hex(12)}"
        self._ids.add(call_id)
        slot.is_told = True
        piece = ToolPiece(slot.index, "".join(slot.arguments), call_id, slot.name or "", slot.custom)
        self._sink.tool(index, piece)

    def _end_call(self, slot: Slot, index: int, state: _State, *, is_cut: bool) -> None:
        rest = slot.take_rest()
        slot.arguments.append(rest)
        if not slot.is_told:
            self._tell_call(slot, index, state)
        elif rest:
            self._sink.tool(index, ToolPiece(slot.index, rest))
        if slot.had_markup and not is_cut and not is_json("".join(slot.arguments)):
            raise UpstreamFailed("The upstream mixed up the arguments of a tool call.", code="tool_call_unparsable")

    def _finish(self, reason: str, index: int, state: _State) -> None:
        """R-FR: from the calls that were really made, exactly once."""
        if reason in _NOT_A_FINISH:
            raise UpstreamFailed(f"The upstream gave up: {reason}.", status=503)
        mapped = _FINISH.get(reason, "stop")
        was_thinking = False
        if state.reader is not None:
            was_thinking = state.reader.is_thinking
            self._tell_pieces(state.reader.close(is_cut=mapped == "length"), index, state)
        mapped = self._reason(mapped, state)
        for slot in state.slots:
            if not slot.is_unwanted:
                self._end_call(slot, index, state, is_cut=mapped == "length")
        if mapped == "stop" and state.thoughts and not state.has_answered:
            self._repair_silence(index, state, was_thinking=was_thinking)
        if state.annotations:
            self._sink.extra(index, "annotations", Raw(_encode(state.annotations)))
        state.is_finished = True
        self._sink.finish(index, mapped)

    def _reason(self, mapped: FinishReason, state: _State) -> FinishReason:
        if mapped == "function_call" and state.has_function_call:
            return mapped
        if mapped in {"stop", "tool_calls", "function_call"}:
            if state.slots:
                return "tool_calls"
            if mapped == "tool_calls" and not state.has_answered:
                # row 76j: the host's parser lost them
                raise UpstreamFailed("The upstream's answer is a tool call, but holds none.")
            return "stop"
        return mapped

    def _repair_silence(self, index: int, state: _State, *, was_thinking: bool) -> None:
        """Rows 68 and 76i: what was taken for thinking is the answer."""
        is_whole = not self._for_thoughts.is_spent
        if is_whole and (self._reading.repairs_silence or was_thinking):
            self._sink.content(index, "".join(state.thoughts), None)
