"""The state machine: whatever an upstream sends becomes the one sequence that OpenAI's SDKs accept.

For each choice: opened once, then content, reasoning and tool-call pieces, then one finish reason; usage last. Some
hosts send a finish reason on every chunk, so it does not finish a choice: all choices finish when the upstream's answer
has ended. The rule ids (R-…) are those of the contract, section B.0.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tidegate.errors import StreamBroken, ToolCallUnparsable, UpstreamFailed
from tidegate.protocol.chat import UNCLEAR_REASON, Choice, Chunk, Delta, Function, Reading, ToolCall, TopLevel
from tidegate.protocol.usage import Usage, counts_anything, parse_usage
from tidegate.streaming import extras
from tidegate.streaming.allowance import Allowance
from tidegate.streaming.calls import CallReader
from tidegate.streaming.finish import FinishReason, canonical, failure_of
from tidegate.streaming.markup import MarkupCall
from tidegate.streaming.sinks import Extra, Sink
from tidegate.streaming.state import ChoiceState
from tidegate.streaming.thoughts import Piece
from tidegate.streaming.values import is_given, on_one_line

_MAX_CHOICES = 4096  # 128 may be asked for, for each of the prompts of a completion
_MAX_KEPT = 32 * 1024 * 1024  # bytes of tool calls, annotations, images, `reasoning_details` and `extra_content`
_MAX_THOUGHTS = 8 * 1024 * 1024  # bytes of thoughts that may turn out to be the answer
_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_PLAIN = Reading()

_encode = msgspec.json.Encoder().encode


class ChoiceStream:
    """Reads the chunks of one answer and tells `sink` the canonical sequence; one instance per upstream attempt.

    `has_content` turns true with the first thing that a caller waits for; `heard` counts the chunks that said anything,
    also what is not passed on yet.
    """

    __slots__ = (
        "_calls",
        "_calls_index",
        "_first_index",
        "_for_thoughts",
        "_joins_surrogates",
        "_moderation",
        "_reading",
        "_sink",
        "_states",
        "_to_keep",
        "_top_level",
        "_top_level_sent",
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
        self._top_level = reading.top_level
        self._first_index = 0
        self._joins_surrogates = False  # true once a text may end in half a surrogate pair
        self._calls_index: int | None = None
        self._to_keep = Allowance(_MAX_KEPT)
        self._calls = CallReader(sink, reading, self._to_keep)
        self._for_thoughts = Allowance(_MAX_THOUGHTS)
        self._usage: dict[str, Any] | None = None
        self._top_level_sent: set[TopLevel] = set()
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
            UpstreamFailed: the finish reason is an error, or the chunk cannot be read.
            ToolCallUnparsable: the finish reason says that the host could not parse its model's tool call.
        """
        if chunk.usage:
            self._take_usage(chunk.usage)
        if self._top_level:
            self._read_top_level(chunk)
        if chunk.is_mended:
            self._joins_surrogates = True
        try:
            for place, choice in enumerate(chunk.choices or ()):
                given = place if choice.index is None else choice.index
                index = self._index_of(given) if given or self._first_index else 0
                if index < 0:
                    self._read_unrequested(choice, given)
                    continue
                state = self._states[index] if index < len(self._states) else self._open(index)
                self._read(choice, index, state)
        except (RecursionError, ValueError, msgspec.MsgspecError) as error:
            raise _unreadable(error) from error

    def close(self, *, has_said_end: bool = False) -> Usage | None:
        """The upstream's answer has ended: finish every choice, and return the usage if the host sent one.

        Args:
            has_said_end: the host marked the end, by `[DONE]` or as the end of a JSON body; then a finish reason
                that is no string is accepted.

        Raises:
            UpstreamFailed: the answer holds no choice.
            StreamBroken: a choice has no finish reason, so the answer is not whole (R-TAIL).
            ToolCallUnparsable: the finish reason promises a tool call that was allowed, and the host sent none.
        """
        if not self._states:
            raise UpstreamFailed("The upstream's answer holds no choices.")
        if not all(state.reason or (state.has_unclear_reason and has_said_end) for state in self._states):
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
        """R-USAGE: the last usage with a count other than 0 is used; nothing is summed."""
        if self._usage is None or counts_anything(usage):
            self._usage = usage

    def _read_top_level(self, chunk: Chunk) -> None:
        """Pass on the requested top-level fields; `moderation` is kept for the end, as any chunk may hold it."""
        wanted = self._top_level - self._top_level_sent
        if "moderation" in wanted and is_given(chunk.moderation, "object"):
            self._moderation = on_one_line(chunk.moderation)
        if "service_tier" in wanted and chunk.service_tier in _SERVICE_TIERS:
            self._send_top_level("service_tier", chunk.service_tier)
        if "system_fingerprint" in wanted and chunk.system_fingerprint:
            self._send_top_level("system_fingerprint", chunk.system_fingerprint)

    def _send_top_level(self, name: TopLevel, value: str | None) -> None:
        self._top_level_sent.add(name)
        self._sink.top_level(name, Raw(_encode(value)))

    def _index_of(self, index: int) -> int:
        """The index of a choice for the caller; -1 if it is beyond those requested. Some hosts count from 1.

        Raises:
            UpstreamFailed: the index is out of any range.
        """
        most = self._reading.choices
        if most == 1 and self._states:
            return 0 if index == self._first_index else -1
        if most is not None and 1 < most <= index:
            return -1
        if not 0 <= index < _MAX_CHOICES:
            raise UpstreamFailed(f"The upstream sent a choice numbered {index}.")
        if most == 1:
            self._first_index = index
            return 0
        return index

    def _read_unrequested(self, choice: Choice, given: int) -> None:
        """Read the tool calls of a choice that was not requested: GitHub Copilot sends calls in a second choice."""
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
        """Open all choices up to `index` in order: OpenAI's accumulator appends each new choice to its list."""
        while len(self._states) <= index:
            self._sink.open(len(self._states))
            self._states.append(ChoiceState(self._reading))
        return self._states[index]

    def _read(self, choice: Choice, index: int, state: ChoiceState) -> None:
        delta = choice.delta
        if choice.message is not None and (delta is None or not state.has_begun):
            # some streams repeat the whole message at the end
            delta = None if state.has_begun else choice.message
            state.is_whole = choice.delta is None
        if choice.logprobs is not None and not self._reading.wants_logprobs:
            choice.logprobs = None
        if self._joins_surrogates:
            self._join_surrogates(delta, choice, state)
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

    def _join_surrogates(self, delta: Delta | None, choice: Choice, state: ChoiceState) -> None:
        if choice.text:
            choice.text = state.surrogates.join("content", choice.text)
        if delta is not None:
            state.surrogates.join_delta(delta)

    def _take_reason(self, reason: str, state: ChoiceState) -> None:
        """R-FR: the first finish reason holds, unless more of the answer followed it; then the last one but `stop`.

        Raises:
            UpstreamFailed, ToolCallUnparsable: the finish reason means an error.
        """
        if (failure := failure_of(reason)) is not None:
            raise failure
        if reason == UNCLEAR_REASON:
            state.has_unclear_reason = True
        elif not state.reason or (self.heard != state.heard_at_reason and canonical(reason) != "stop"):
            state.reason, state.heard_at_reason = reason, self.heard

    def _read_delta(self, delta: Delta, choice: Choice, index: int, state: ChoiceState) -> None:
        sink = self._sink
        if thought := delta.reasoning_content or delta.reasoning or delta.thinking or delta.reasoning_text:
            self._read_thought_field(thought, delta.content, index, state)
        if delta.reasoning_details is not UNSET:
            self._read_details(delta.reasoning_details, index, state)
        content = delta.content or choice.text  # some hosts send `text` beside `delta` (row 144)
        if content and self._reading.pads_answer and state.has_reasoned and not state.has_answered:
            content = content.lstrip("\n")
        if content or choice.logprobs:
            self.heard += 1
            markup = state.markup
            if not (content and state.has_answered) or state.is_tagged:
                self._read_content(content or "", choice.logprobs or None, index, state)
            elif markup is None or (markup.is_inside_line and "\n" not in content):  # most chunks take this path
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

    def _read_thought_field(self, thought: str, content: str | None, index: int, state: ChoiceState) -> None:
        """Read thinking from a field of its own, unless the content repeats it between tags."""
        state.has_plain_thoughts = True
        if not state.repeats(thought, content):
            self._read_thought(thought, index, state)

    def _read_thought(self, thought: str, index: int, state: ChoiceState) -> None:
        """Read thinking that the host has separated from the content."""
        self.heard += 1
        if state.is_tagged and state.tags is not None:
            self._tell_pieces(state.tags.stop(), index, state)
        if state.eos is not None:
            thought = state.eos.read(thought)
        if thought:
            self._tell_thought(thought, index, state)

    def _read_content(self, content: str, logprobs: Mapping[str, Any] | None, index: int, state: ChoiceState) -> None:
        """Read content that may hold thinking between tags, or tool calls as markup."""
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
        if logprobs:  # those of the whole piece, also of text that is held back
            self._sink.content(index, "", logprobs)
        self._tell(pieces, index, state)

    def _through_markup(self, pieces: list[Piece], state: ChoiceState) -> list[Piece]:
        """The pieces without text that may be tool calls, which is held back."""
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
        if extras.is_call(delta.function_call) and not state.slots:  # row 112: some hosts send a call in both forms
            state.has_function_call = self.has_content = True
            self.heard += 1
            self._sink.extra(index, "function_call", on_one_line(delta.function_call))
        if is_given(delta.audio, "object") and bytes(audio := on_one_line(delta.audio)) != b"{}":
            self.heard += 1
            self.has_content = True
            self._sink.extra(index, "audio", audio)
        self._collect("annotations", delta.annotations, state)
        if self._collect("images", delta.images, state):
            self.heard += 1
            self._answer(state)
        if is_given(delta.extra_content, "object"):
            self._to_keep.require(len(bytes(delta.extra_content)))
            state.extra_contents.append(on_one_line(delta.extra_content))

    def _read_details(self, details: Raw | UnsetType, index: int, state: ChoiceState) -> None:
        """Keep OpenRouter's `reasoning_details`; their text is the reasoning if the host sent no other form."""
        items = self._collect("reasoning_details", details, state)
        if not state.has_plain_thoughts and (thought := extras.thought_in(items)):
            self._read_thought(thought, index, state)

    def _collect(self, name: Extra, value: Raw | UnsetType, state: ChoiceState) -> list[Raw]:
        """Keep the objects in a list; the sink gets the whole list at the end.

        Accumulators of SDKs join lists by an `index` that not all items have, and add up numbers and booleans.
        """
        if not is_given(value, "array"):
            return []
        items = extras.objects_in(on_one_line(value))
        for item in items:
            self._to_keep.require(len(bytes(item)))
            state.lists.setdefault(name, []).append(item)
        return items

    def _read_host_call(self, call: ToolCall, index: int, state: ChoiceState, *, is_whole: bool) -> None:
        """Read a tool call that the host sent as such; from now on, markup in the content is text."""
        if state.markup is not None:
            held, _ = state.markup.close(may_convert=False)
            state.markup = None
            self._tell([("content", held)] if held else [], index, state)
        self._calls.read(call, index, state.slots, is_whole=is_whole)

    def _finish(self, index: int, state: ChoiceState) -> None:
        """Pass on what was held back, then the finish reason that fits the content."""
        mapped = canonical(state.reason)
        was_thinking = state.tags is not None and state.tags.is_thinking
        self._end_texts(index, state, may_convert=mapped != "content_filter")
        mapped = self._reason(mapped, state)
        self._calls.close(index, state.slots)
        is_silent = mapped == "stop" and not state.has_answered
        if state.eos is not None and (rest := state.eos.take_rest(is_answer=is_silent)):
            self._tell_thought(rest, index, state)
        if is_silent and state.thoughts:
            self._repair_silence(index, state, was_thinking=was_thinking)
        for name, items in state.lists.items():
            is_in_pieces = name == "reasoning_details" and not state.is_whole
            value = extras.joined(items) if is_in_pieces else Raw(_encode(items))
            self._sink.extra(index, name, value)
        if state.extra_contents:
            self._sink.extra(index, "extra_content", extras.merged(state.extra_contents))
        self._sink.finish(index, mapped)

    def _end_texts(self, index: int, state: ChoiceState, *, may_convert: bool) -> None:
        """The texts have ended: pass on the beginnings of characters, tags and markup that were held back."""
        if state.surrogates.waiting:
            self._end_surrogates(index, state)
        if state.tags is not None:
            self._tell_pieces(state.tags.close(), index, state)
        if state.markup is not None:
            held, calls = state.markup.close(may_convert=may_convert and not state.has_function_call)
            self._tell([("content", held)] if held else [], index, state)
            for call in calls:
                self._make_call(call, index, state)

    def _end_surrogates(self, index: int, state: ChoiceState) -> None:
        for name in ("reasoning_content", "reasoning", "thinking", "reasoning_text"):
            if rest := state.surrogates.take_rest(name):
                self._read_thought(rest, index, state)
        if rest := state.surrogates.take_rest("refusal"):
            self._sink.refusal(index, rest)
        if rest := state.surrogates.take_rest("content"):
            self._read_content(rest, None, index, state)

    def _make_call(self, call: MarkupCall, index: int, state: ChoiceState) -> None:
        self.has_content = True
        function = Function(name=call.name, arguments=Raw(_encode(call.arguments)))
        self._calls.read(ToolCall(function=function), index, state.slots, is_whole=True)

    def _reason(self, mapped: FinishReason, state: ChoiceState) -> FinishReason:
        """R-FR: the finish reason by the tool calls that were passed on.

        Raises:
            ToolCallUnparsable: the host's finish reason says tool calls, which were allowed, and the host sent none
                (row 76j).
        """
        if mapped == "function_call" and state.has_function_call:
            return mapped
        if mapped not in {"stop", "tool_calls", "function_call"}:
            return mapped
        if state.slots:
            return "length" if self._has_reached_limit and state.slots[-1].is_cut else "tool_calls"
        if mapped == "tool_calls" and not state.has_answered and self._reading.may_call:
            raise ToolCallUnparsable("The upstream says that its model called a tool, but sent no call.")
        return "stop"

    def _repair_silence(self, index: int, state: ChoiceState, *, was_thinking: bool) -> None:
        """Rows 68 and 76i: where the host sent thinking alone, it is the answer."""
        is_kept_whole = not self._for_thoughts.is_spent
        if is_kept_whole and (self._reading.repairs_silence or was_thinking):
            self._sink.content(index, "".join(state.thoughts), None)


def _unreadable(error: Exception) -> UpstreamFailed:
    return UpstreamFailed(f"The upstream sent what cannot be read: {type(error).__name__}.")
