"""The state machine: whatever an upstream sends becomes the one sequence that OpenAI's SDKs accept.

For each choice: opened once, then content, reasoning and tool-call pieces, then one finish reason; usage last. A finish
reason is the end only when nothing follows (some hosts repeat it on every chunk), so that all choices finish when the
upstream's answer has ended. The rule ids (R-…) are those of the contract, section B.0.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.errors import StreamBroken, ToolCallUnparsable, UpstreamFailed
from proxy.protocol.chat import UNCLEAR, Choice, Chunk, Delta, Function, Reading, ToolCall, TopLevel
from proxy.protocol.usage import Usage, counts_anything, parse_usage
from proxy.streaming import extras
from proxy.streaming.allowance import Allowance
from proxy.streaming.calls import Slot, arguments_of, custom_of, is_repeated, says_nothing, slot_of
from proxy.streaming.finish import FinishReason, canonical, failure_of
from proxy.streaming.markup import Call
from proxy.streaming.sinks import Extra, Sink, ToolPiece
from proxy.streaming.state import ChoiceState
from proxy.streaming.thoughts import Piece
from proxy.streaming.values import is_given, on_one_line

_MAX_CHOICES = 4096  # 128 may be asked for, for each of the prompts of a completion
_MAX_CALLS = 128  # in one choice; a bound on what an upstream can make us keep and look through
_MAX_KEPT = 32 * 1024 * 1024  # bytes of tool calls, annotations, pictures and details of the reasoning
_MAX_THOUGHTS = 8 * 1024 * 1024  # bytes of thoughts that may turn out to be the answer
_MAX_REREAD = 64 * 1024 * 1024  # bytes of arguments, to see whether they are complete
_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_PLAIN = Reading()

_encode = msgspec.json.Encoder().encode


class ChoiceStream:
    """Reads the chunks of one answer and tells `sink` the canonical sequence; one instance per upstream attempt.

    `has_content` turns true with the first thing that a caller waits for; `heard` counts the chunks that said anything,
    also what is not passed on yet.
    """

    __slots__ = (
        "_calls_index",
        "_first_index",
        "_for_thoughts",
        "_ids",
        "_joins_halves",
        "_moderation",
        "_passed",
        "_passes",
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
        self._states: list[ChoiceState] = []
        self._passes = reading.passes
        self._first_index = 0
        self._joins_halves = False  # once a chunk was mended, as its halves may end any text
        self._calls_index: int | None = None
        self._ids: set[str] = set()
        self._to_keep = Allowance(_MAX_KEPT)
        self._for_thoughts = Allowance(_MAX_THOUGHTS)
        self._rereads = Allowance(_MAX_REREAD)
        self._usage: dict[str, Any] | None = None
        self._passed: set[TopLevel] = set()
        self._moderation: Raw | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every choice seen has its finish reason."""
        return bool(self._states) and all(state.reason for state in self._states)

    @property
    def _has_reached_limit(self) -> bool:
        """Whether the answer took all the tokens that were allowed."""
        limit = self._reading.max_tokens
        return limit is not None and self._usage is not None and parse_usage(self._usage).completion_tokens >= limit

    @property
    def has_begun(self) -> bool:
        """Whether a choice was seen."""
        return bool(self._states)

    def accept(self, chunk: Chunk) -> None:
        """Read one chunk.

        Raises:
            UpstreamFailed: the host gave up in the guise of a finish reason, or sent what cannot be read.
            ToolCallUnparsable: the host says that it cannot read its model's call.
        """
        if chunk.usage:
            self._take_usage(chunk.usage)
        if self._passes:
            self._pass_on(chunk)
        if chunk.is_mended:
            self._joins_halves = True
        try:
            for place, choice in enumerate(chunk.choices or ()):
                given = place if choice.index is None else choice.index
                index = self._index_of(given) if given or self._first_index else 0
                if index < 0:
                    self._read_further(choice, given)
                    continue
                state = self._states[index] if index < len(self._states) else self._open(index)
                self._read(choice, index, state)
        except (RecursionError, ValueError, msgspec.MsgspecError) as error:
            raise _unreadable(error) from error

    def close(self, *, has_said_end: bool = False) -> Usage | None:
        """The upstream has ended: its usage, if it told.

        Args:
            has_said_end: by `[DONE]`, or as the end of a JSON body; then an unclear finish reason is one.

        Raises:
            UpstreamFailed: nothing came.
            StreamBroken: a choice has no finish reason, so the answer is not whole (R-TAIL).
            ToolCallUnparsable: the answer is said to be a tool call, and holds none.
        """
        if not self._states:
            raise UpstreamFailed("The upstream's answer holds no choices.")
        if not all(state.reason or (state.is_unclear and has_said_end) for state in self._states):
            raise StreamBroken("The upstream's answer ended before it was complete.")
        try:
            for index, state in enumerate(self._states):
                self._finish(index, state)
        except (RecursionError, ValueError, msgspec.MsgspecError) as error:
            raise _unreadable(error) from error
        if self._moderation is not None:
            self._sink.top_level("moderation", self._moderation)
        if self._usage is None:
            return None
        usage = parse_usage(self._usage, has_reasoned=any(state.has_reasoned for state in self._states))
        self._sink.usage(usage)
        return usage

    def _take_usage(self, usage: dict[str, Any]) -> None:
        """R-USAGE: the last one that counts anything wins, nothing is summed."""
        if self._usage is None or counts_anything(usage):
            self._usage = usage

    def _pass_on(self, chunk: Chunk) -> None:
        """What the caller gets beside the choices; the moderation at the end, as hosts send it in any chunk."""
        wanted = self._passes - self._passed
        if "moderation" in wanted and is_given(chunk.moderation, "object"):
            self._moderation = on_one_line(chunk.moderation)
        if "service_tier" in wanted and chunk.service_tier in _TIERS:
            self._tell_top_level("service_tier", chunk.service_tier)
        if "system_fingerprint" in wanted and chunk.system_fingerprint:
            self._tell_top_level("system_fingerprint", chunk.system_fingerprint)

    def _tell_top_level(self, name: TopLevel, value: str | None) -> None:
        self._passed.add(name)
        self._sink.top_level(name, Raw(_encode(value)))

    def _index_of(self, index: int) -> int:
        """The caller's index of a choice, -1 where it did not ask for it; some hosts number the only one from 1.

        Raises:
            UpstreamFailed: no choice can have that index.
        """
        most = self._reading.choices
        if most == 1:
            if not self._states:
                self._first_index = index
            return 0 if index == self._first_index else -1
        if most is not None and index >= most:
            return -1
        if not 0 <= index < _MAX_CHOICES:
            raise UpstreamFailed(f"The upstream sent a choice numbered {index}.")
        return index

    def _read_further(self, choice: Choice, given: int) -> None:
        """A choice that nobody asked for: GitHub Copilot puts the calls of the only answer into one of their own."""
        said = choice.message or choice.delta
        if self._reading.choices != 1 or said is None or not said.tool_calls:
            return
        state = self._states[0]
        if state.slots and given != self._calls_index:
            return
        self._calls_index = given
        delta = Delta(tool_calls=said.tool_calls)
        self._read_delta(delta, Choice(delta=choice.delta), 0, state)

    def _open(self, index: int) -> ChoiceState:
        """Choices begin in their order: OpenAI's accumulator puts each new one at the end of its list."""
        while len(self._states) <= index:
            self._sink.open(len(self._states))
            self._states.append(ChoiceState(self._reading))
        return self._states[index]

    def _read(self, choice: Choice, index: int, state: ChoiceState) -> None:
        delta = choice.delta
        if choice.message is not None and (delta is None or not state.has_said_anything):
            # a stream may end with the whole message once more
            delta = None if state.has_said_anything else choice.message
            state.is_whole = choice.delta is None
        if choice.logprobs is not None and not self._reading.wants_logprobs:
            choice.logprobs = None
        if self._joins_halves:
            self._join_halves(delta, choice, state)
        if delta is not None:
            self._read_delta(delta, choice, index, state)
        elif choice.text or choice.logprobs:
            self.has_content = True
            self.heard += 1
            self._sink.content(index, choice.text or "", choice.logprobs or None)
        if choice.usage:
            self._take_usage(choice.usage)
        if choice.finish_reason:
            self._take_reason(choice.finish_reason, state)

    def _join_halves(self, delta: Delta | None, choice: Choice, state: ChoiceState) -> None:
        if choice.text:
            choice.text = state.halves.join("content", choice.text)
        if delta is not None:
            state.halves.join_delta(delta)

    def _take_reason(self, reason: str, state: ChoiceState) -> None:
        """R-FR: the last one counts, but a mere `stop` does not take back what was said before.

        Raises:
            UpstreamFailed, ToolCallUnparsable: it stands for an error.
        """
        if (failure := failure_of(reason)) is not None:
            raise failure
        if reason == UNCLEAR:
            state.is_unclear = True
        elif not state.reason or canonical(reason) != "stop":
            state.reason = reason

    def _read_delta(self, delta: Delta, choice: Choice, index: int, state: ChoiceState) -> None:
        sink = self._sink
        if thought := delta.reasoning_content or delta.reasoning or delta.thinking or delta.reasoning_text:
            self._read_plain_thought(thought, delta.content, index, state)
        if delta.reasoning_details is not UNSET:
            self._read_details(delta.reasoning_details, index, state)
        content = delta.content or choice.text  # the old frames of some hosts hold both forms (row 144)
        if content and self._reading.pads_answer and state.has_reasoned and not state.has_answered:
            content = content.lstrip("\n")
        if content or choice.logprobs:
            self.heard += 1
            markup = state.markup
            if not (content and state.has_answered) or state.is_tagged:
                self._read_content(content or "", choice.logprobs or None, index, state)
            elif markup is None or (markup.is_inside_line and "\n" not in content):  # nearly every chunk of a text
                sink.content(index, content, choice.logprobs or None)
            else:
                self._read_content(content, choice.logprobs or None, index, state)
        if delta.refusal:
            self.heard += 1
            self._answer(state)
            sink.refusal(index, delta.refusal)
        for call in delta.tool_calls or ():
            self.heard += 1
            self.has_content = True
            self._read_host_call(call, index, state, is_whole=choice.delta is None)
        if not (
            delta.function_call is UNSET
            and delta.audio is UNSET
            and delta.annotations is UNSET
            and delta.extra_content is UNSET
            and delta.images is UNSET
        ):
            self._read_extras(delta, index, state)

    def _read_plain_thought(self, thought: str, content: str | None, index: int, state: ChoiceState) -> None:
        """In a field of its own; some hosts say it between tags as well."""
        state.has_plain_thoughts = True
        if not state.tells(thought, content):
            self._read_thought(thought, index, state)

    def _read_thought(self, thought: str, index: int, state: ChoiceState) -> None:
        """Thinking that the host has taken apart."""
        self.heard += 1
        if state.is_tagged and state.tags is not None:
            self._tell_pieces(state.tags.stop(), index, state)
        if state.end_of_sentence is not None:
            thought = state.end_of_sentence.read(thought)
        if thought:
            self._tell_thought(thought, index, state)

    def _read_content(self, content: str, logprobs: Mapping[str, Any] | None, index: int, state: ChoiceState) -> None:
        """Content that may hold thinking, or tool calls."""
        pieces: list[Piece]
        if state.is_tagged:
            pieces = self._through_markup(state.read_tags(content), state)
        else:
            told = content if state.markup is None else state.markup.read(content)
            if told == content:
                self.has_content = True
                if content and not state.has_answered:
                    state.begin_answer()
                self._sink.content(index, content, logprobs)
                return
            pieces = [("content", told)] if told else []
        if logprobs:  # told of all of it, as they came
            self._sink.content(index, "", logprobs)
        self._tell(pieces, index, state)

    def _through_markup(self, pieces: list[Piece], state: ChoiceState) -> list[Piece]:
        """The same with what may be tool calls held back."""
        if state.markup is None:
            return pieces
        read = [(kind, state.markup.read(text) if kind == "content" else text) for kind, text in pieces]
        return [(kind, text) for kind, text in read if text]

    def _tell_pieces(self, pieces: list[Piece], index: int, state: ChoiceState) -> None:
        self._tell(self._through_markup(pieces, state), index, state)

    def _tell(self, pieces: list[Piece], index: int, state: ChoiceState) -> None:
        for kind, text in pieces:
            if kind == "reasoning":
                self._tell_thought(text, index, state)
            else:
                self._answer(state)
                self._sink.content(index, text, None)

    def _answer(self, state: ChoiceState) -> None:
        self.has_content = True
        if not state.has_answered:
            state.begin_answer()

    def _tell_thought(self, thought: str, index: int, state: ChoiceState) -> None:
        state.has_reasoned = self.has_content = True
        if state.may_be_answer and self._for_thoughts.take(len(thought)):
            state.thoughts.append(thought)
        self._sink.reasoning(index, thought)

    def _read_extras(self, delta: Delta, index: int, state: ChoiceState) -> None:
        if extras.is_call(delta.function_call) and not state.slots:  # row 112: some hosts say a call both ways
            state.has_function_call = self.has_content = True
            self.heard += 1
            self._sink.extra(index, "function_call", on_one_line(delta.function_call))
        if is_given(delta.audio, "object") and bytes(audio := on_one_line(delta.audio)) != b"{}":
            self.heard += 1
            self.has_content = True
            self._sink.extra(index, "audio", audio)
        self._gather("annotations", delta.annotations, state)
        if self._gather("images", delta.images, state):
            self.heard += 1
            self._answer(state)
        if is_given(delta.extra_content, "object"):
            self._keep(len(bytes(delta.extra_content)))
            state.extra_content = extras.merged(state.extra_content, on_one_line(delta.extra_content))

    def _read_details(self, details: Raw | UnsetType, index: int, state: ChoiceState) -> None:
        """OpenRouter's own form of the reasoning: it travels, and is read where no other form has come."""
        items = self._gather("reasoning_details", details, state)
        if not state.has_plain_thoughts and (thought := extras.thought_in(items)):
            self._read_thought(thought, index, state)

    def _gather(self, name: Extra, value: Raw | UnsetType, state: ChoiceState) -> list[Raw]:
        """The objects in a list, which is told at once at the end.

        Accumulators join lists by an `index` that not all items have, and add up numbers and booleans.
        """
        if not is_given(value, "array"):
            return []
        items = extras.objects_in(on_one_line(value))
        for item in items:
            self._keep(len(bytes(item)))
            state.lists.setdefault(name, []).append(item)
        return items

    def _read_host_call(self, call: ToolCall, index: int, state: ChoiceState, *, is_whole: bool) -> None:
        """A call that the host itself has read: what looks like markup is text."""
        if state.markup is not None:
            held, _ = state.markup.close(may_convert=False)
            state.markup = None
            self._tell([("content", held)] if held else [], index, state)
        self._read_call(call, index, state, is_whole=is_whole)

    def _read_call(self, call: ToolCall, index: int, state: ChoiceState, *, is_whole: bool) -> None:
        """R-TOOL: dense indexes; id, type and name once; arguments always a string.

        One that is whole continues none, whatever its id.
        """
        name = call.function.name if call.function else call.name
        arguments = arguments_of(call)
        slot = None if is_whole else slot_of(call, name, arguments, state.slots, self._rereads)
        if slot is None:
            if says_nothing(call, name, arguments) or is_repeated(call, name, arguments, state.slots):
                return
            if len(state.slots) >= _MAX_CALLS:
                raise UpstreamFailed("The upstream called too many tools.")
            slot = Slot(call, name, is_unwanted=self._reading.one_call and bool(state.slots))
            state.slots.append(slot)
        if slot.is_unwanted:
            return
        slot.name = slot.name or name
        arguments = slot.take(arguments, strips_tag=self._reading.repairs_markup)
        self._keep(len(arguments))
        slot.arguments.append(arguments)
        slot.size += len(arguments)
        is_function = slot.is_told and slot.custom is UNSET
        custom = UNSET if is_function else custom_of(call.custom, is_first=not slot.is_told)
        extra = self._extra_content_of(call, slot)
        if not slot.is_told:
            slot.custom = custom
            if slot.name or custom is not UNSET:
                self._tell_call(slot, index, state)
        elif custom is not UNSET or (arguments and slot.custom is UNSET) or extra is not UNSET:
            self._sink.tool(index, ToolPiece(slot.index, arguments, custom=custom, extra_content=extra))

    def _extra_content_of(self, call: ToolCall, slot: Slot) -> Raw | UnsetType:
        """What the host attached to the call, the first time that it comes."""
        if slot.extra_content is not UNSET or not is_given(call.extra_content, "object"):
            return UNSET
        slot.extra_content = on_one_line(call.extra_content)
        self._keep(len(bytes(slot.extra_content)))
        return slot.extra_content

    def _keep(self, size: int) -> None:
        if not self._to_keep.take(size):
            raise UpstreamFailed("The upstream's answer holds more than can be kept.")

    def _tell_call(self, slot: Slot, index: int, state: ChoiceState) -> None:
        slot.index = sum(other.is_told for other in state.slots)
        is_good = slot.id and slot.id not in self._ids and not self._reading.numbers_calls
        call_id = slot.id if slot.id and is_good else f"call_{secrets.token_hex(12)}"
        self._ids.add(call_id)
        slot.is_told = True
        piece = ToolPiece(
            slot.index, "".join(slot.arguments), call_id, slot.name or "", slot.custom, slot.extra_content
        )
        self._sink.tool(index, piece)

    def _end_call(self, slot: Slot, index: int, state: ChoiceState) -> None:
        rest = slot.take_rest()
        slot.arguments.append(rest)
        if not slot.is_told:
            self._tell_call(slot, index, state)
        elif rest and slot.custom is UNSET:
            self._sink.tool(index, ToolPiece(slot.index, rest))

    def _finish(self, index: int, state: ChoiceState) -> None:
        """Tell what has waited for the end, and the finish reason that fits what was told."""
        mapped = canonical(state.reason)
        was_thinking = state.tags is not None and state.tags.is_thinking
        self._end_texts(index, state, may_convert=mapped != "content_filter")
        mapped = self._reason(mapped, state)
        for slot in state.slots:
            if not slot.is_unwanted:
                self._end_call(slot, index, state)
        is_silent = mapped == "stop" and not state.has_answered
        if state.end_of_sentence is not None and (rest := state.end_of_sentence.take_rest(is_answer=is_silent)):
            self._tell_thought(rest, index, state)
        if is_silent and state.thoughts:
            self._repair_silence(index, state, was_thinking=was_thinking)
        for name, items in state.lists.items():
            is_in_pieces = name == "reasoning_details" and not state.is_whole
            value = extras.joined(items) if is_in_pieces else Raw(_encode(items))
            self._sink.extra(index, name, value)
        if state.extra_content is not None:
            self._sink.extra(index, "extra_content", state.extra_content)
        self._sink.finish(index, mapped)

    def _end_texts(self, index: int, state: ChoiceState, *, may_convert: bool) -> None:
        """Half characters, half tags and half blocks of calls: what they are is certain now."""
        if state.halves.waiting:
            self._end_halves(index, state)
        if state.tags is not None:
            self._tell_pieces(state.tags.close(), index, state)
        if state.markup is not None:
            held, calls = state.markup.close(may_convert=may_convert and not state.has_function_call)
            self._tell([("content", held)] if held else [], index, state)
            for call in calls:
                self._make_call(call, index, state)

    def _end_halves(self, index: int, state: ChoiceState) -> None:
        for name in ("reasoning_content", "reasoning", "thinking", "reasoning_text"):
            if rest := state.halves.take_rest(name):
                self._read_thought(rest, index, state)
        if rest := state.halves.take_rest("refusal"):
            self._sink.refusal(index, rest)
        if rest := state.halves.take_rest("content"):
            self._read_content(rest, None, index, state)

    def _make_call(self, call: Call, index: int, state: ChoiceState) -> None:
        self.has_content = True
        function = Function(name=call.name, arguments=Raw(_encode(call.arguments)))
        self._read_call(ToolCall(function=function), index, state, is_whole=True)

    def _reason(self, mapped: FinishReason, state: ChoiceState) -> FinishReason:
        """R-FR: from the calls that were really made.

        Raises:
            ToolCallUnparsable: the host says that there are calls, and its parser lost them (row 76j).
        """
        if mapped == "function_call" and state.has_function_call:
            return mapped
        if mapped not in {"stop", "tool_calls", "function_call"}:
            return mapped
        if state.slots:
            return "length" if self._has_reached_limit and state.slots[-1].is_cut else "tool_calls"
        if mapped == "tool_calls" and not state.has_answered:
            raise ToolCallUnparsable("The upstream says that its model called a tool, but sent no call.")
        return "stop"

    def _repair_silence(self, index: int, state: ChoiceState, *, was_thinking: bool) -> None:
        """Rows 68 and 76i: what was taken for thinking is the answer."""
        is_kept_whole = not self._for_thoughts.is_spent
        if is_kept_whole and (self._reading.repairs_silence or was_thinking):
            self._sink.content(index, "".join(state.thoughts), None)


def _unreadable(error: Exception) -> UpstreamFailed:
    return UpstreamFailed(f"The upstream sent what cannot be read: {type(error).__name__}.")
