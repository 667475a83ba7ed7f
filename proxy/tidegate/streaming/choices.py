"""The state machine: it converts any upstream's answer to the one sequence that OpenAI's SDKs accept.

Each choice is opened once, then come content, reasoning and fragments of tool calls, then one finish reason. The usage
comes last. Some hosts send a finish reason with every chunk, so a finish reason does not end a choice: all choices end
when the upstream's answer has ended. The rule ids (R-…) and the row numbers are those of the contract, section B.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tidegate.errors import StreamBroken, ToolCallUnparsable, UpstreamFailed
from tidegate.protocol.chat import UNCLEAR_REASON, Choice, Chunk, Delta, Function, HostAnswerFormat, ToolCall, TopLevel
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

_MAX_CHOICES = 4096  # a completion can request 128 choices for each of its prompts
_MAX_KEPT = 32 * 1024 * 1024  # bytes of tool calls, annotations, images, `reasoning_details` and `extra_content`
_MAX_THOUGHTS = 8 * 1024 * 1024  # bytes of reasoning that may become the answer
_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_DEFAULT_FORMAT = HostAnswerFormat()

_encode = msgspec.json.Encoder().encode


class ChoiceStream:
    """Reads the chunks of one answer and sends `sink` the canonical sequence; one instance per upstream attempt.

    Attributes:
        has_content: content was read that a caller waits for: text, reasoning, a refusal, a tool call, audio or an
            image.
        parts_read: the number of parts of the answer that were read, including those that are still held back. A part
            is the content, the reasoning, the refusal or a tool call of one chunk, for example. An increase shows that
            the upstream makes progress.
    """

    __slots__ = (
        "_answer_format",
        "_calls",
        "_calls_choice_index",
        "_first_index",
        "_joins_surrogates",
        "_kept_allowance",
        "_moderation",
        "_reasoning_allowance",
        "_sink",
        "_states",
        "_top_level",
        "_top_level_sent",
        "_usage",
        "has_content",
        "parts_read",
    )

    def __init__(self, sink: Sink, answer_format: HostAnswerFormat = _DEFAULT_FORMAT) -> None:
        self.has_content = False
        self.parts_read = 0
        self._sink = sink
        self._answer_format = answer_format
        self._states: list[ChoiceState] = []
        self._top_level = answer_format.top_level
        self._first_index = 0  # the host's index of the only requested choice
        self._joins_surrogates = False  # true once a text may end after the first half of a surrogate pair
        self._calls_choice_index: int | None = None  # of the unrequested choice whose tool calls are read
        self._kept_allowance = Allowance(_MAX_KEPT)
        self._calls = CallReader(sink, answer_format, self._kept_allowance)
        self._reasoning_allowance = Allowance(_MAX_THOUGHTS)
        self._usage: dict[str, Any] | None = None
        self._top_level_sent: set[TopLevel] = set()
        self._moderation: Raw | None = None

    @property
    def is_complete(self) -> bool:
        """Whether at least one choice was read, and each has a finish reason."""
        return bool(self._states) and all(state.reason for state in self._states)

    @property
    def _has_reached_limit(self) -> bool:
        """Whether the answer used all tokens of the caller's limit."""
        limit = self._answer_format.max_tokens
        return limit is not None and self._usage is not None and parse_usage(self._usage).completion_tokens >= limit

    @property
    def has_begun(self) -> bool:
        """Whether a choice was read."""
        return bool(self._states)

    def accept(self, chunk: Chunk) -> None:
        """Read one chunk.

        Raises:
            UpstreamFailed: the finish reason is an error, or the chunk cannot be read.
            ToolCallUnparsable: the finish reason means that the host could not parse its model's tool call.
        """
        if chunk.usage:
            self._take_usage(chunk.usage)
        if self._top_level:
            self._read_top_level(chunk)
        if chunk.was_read_leniently:
            self._joins_surrogates = True  # the strict decoder refuses lone surrogates
        try:
            for place, choice in enumerate(chunk.choices or ()):
                host_index = place if choice.index is None else choice.index
                # the short cut: index 0 is always the first choice, unless the host counts from another index
                index = self._index_of(host_index) if host_index or self._first_index else 0
                if index < 0:
                    self._read_unrequested(choice, host_index)
                    continue
                state = self._states[index] if index < len(self._states) else self._open(index)
                self._read(choice, index, state)
        except (RecursionError, ValueError, msgspec.MsgspecError) as error:
            raise _unreadable(error) from error

    def close(self, *, has_end_marker: bool = False) -> Usage | None:
        """Finish every choice, as the upstream's answer has ended; return the usage if the host sent one.

        Args:
            has_end_marker: the host marked the end, by `[DONE]` or by the end of a JSON body. Then a finish reason that
                is not a string is accepted.

        Raises:
            UpstreamFailed: the answer holds no choice.
            StreamBroken: a choice has no finish reason, so the answer is not complete (R-TAIL).
            ToolCallUnparsable: the finish reason is tool calls, which were allowed, and the host sent none.
        """
        if not self._states:
            raise UpstreamFailed("The upstream's answer holds no choices.")
        if not all(state.reason or (state.has_unclear_reason and has_end_marker) for state in self._states):
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
        """Store the usage: the last one with a count other than 0 is used; nothing is summed (R-USAGE)."""
        if self._usage is None or counts_anything(usage):
            self._usage = usage

    def _read_top_level(self, chunk: Chunk) -> None:
        """Pass on the requested top-level fields; `moderation` is sent at the end, as any chunk may hold it."""
        unsent = self._top_level - self._top_level_sent
        if "moderation" in unsent and is_given(chunk.moderation, "object"):
            self._moderation = on_one_line(chunk.moderation)
        if "service_tier" in unsent and chunk.service_tier in _SERVICE_TIERS:
            self._send_top_level("service_tier", chunk.service_tier)
        if "system_fingerprint" in unsent and chunk.system_fingerprint:
            self._send_top_level("system_fingerprint", chunk.system_fingerprint)

    def _send_top_level(self, name: TopLevel, value: str | None) -> None:
        self._top_level_sent.add(name)
        self._sink.top_level(name, Raw(_encode(value)))

    def _index_of(self, index: int) -> int:
        """Return the index of a choice for the caller; -1 for a choice that was not requested.

        If one choice was requested, its index becomes 0, as some hosts count from 1.

        Raises:
            UpstreamFailed: the index is negative or too large.
        """
        requested = self._answer_format.choices
        if requested == 1 and self._states:
            return 0 if index == self._first_index else -1
        if requested is not None and 1 < requested <= index:
            return -1
        if not 0 <= index < _MAX_CHOICES:
            raise UpstreamFailed(f"The upstream sent a choice numbered {index}.")
        if requested == 1:
            self._first_index = index
            return 0
        return index

    def _read_unrequested(self, choice: Choice, host_index: int) -> None:
        """Read the tool calls of a choice that was not requested, as calls of the only requested choice.

        GitHub Copilot sends calls in a second choice. They are dropped if the first choice has calls of its own.
        """
        message = choice.message or choice.delta
        if self._answer_format.choices != 1 or message is None or not message.tool_calls:
            return
        state = self._states[0]
        if state.slots and host_index != self._calls_choice_index:
            return
        self._calls_choice_index = host_index
        delta = Delta(tool_calls=message.tool_calls)
        # in a choice without `delta` each call is complete
        self._read_delta(delta, Choice(delta=choice.delta), 0, state)

    def _open(self, index: int) -> ChoiceState:
        """Open all choices up to `index` in order, as OpenAI's accumulator appends each new choice to its list."""
        while len(self._states) <= index:
            self._sink.open(len(self._states))
            self._states.append(ChoiceState(self._answer_format))
        return self._states[index]

    def _read(self, choice: Choice, index: int, state: ChoiceState) -> None:
        delta = choice.delta
        if choice.message is not None and (delta is None or not state.has_begun):
            # some hosts repeat the whole message at the end of a stream; then it is ignored
            delta = None if state.has_begun else choice.message
            state.is_whole = choice.delta is None
        if choice.logprobs is not None and not self._answer_format.wants_logprobs:
            choice.logprobs = None
        if self._joins_surrogates:
            self._join_surrogates(delta, choice, state)
        if delta is not None:
            self._read_delta(delta, choice, index, state)
        elif choice.text or choice.logprobs:
            self.has_content = True
            self.parts_read += 1
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
        """Store the finish reason (R-FR).

        The first one counts. A later one replaces it only if more of the answer was read in between, and if it is not
        `stop`.

        Raises:
            UpstreamFailed, ToolCallUnparsable: the finish reason means an error.
        """
        if (failure := failure_of(reason)) is not None:
            raise failure
        if reason == UNCLEAR_REASON:
            state.has_unclear_reason = True
        elif not state.reason or (self.parts_read != state.parts_read_at_reason and canonical(reason) != "stop"):
            state.reason, state.parts_read_at_reason = reason, self.parts_read

    def _read_delta(self, delta: Delta, choice: Choice, index: int, state: ChoiceState) -> None:
        sink = self._sink
        if thought := delta.reasoning_content or delta.reasoning or delta.thinking or delta.reasoning_text:
            self._read_reasoning_field(thought, delta.content, index, state)
        if delta.reasoning_details is not UNSET:
            self._read_details(delta.reasoning_details, index, state)
        content = delta.content or choice.text  # some hosts send `text` next to `delta` (row 144)
        if content and self._answer_format.newlines_before_answer and state.has_reasoned and not state.has_answered:
            content = content.lstrip("\n")
        if content or choice.logprobs:
            self.parts_read += 1
            markup = state.markup
            if not (content and state.has_answered) or state.reads_tags:
                self._read_content(content or "", choice.logprobs or None, index, state)
            elif markup is None or (markup.is_inside_line and "\n" not in content):  # most chunks take this path
                sink.content(index, content, choice.logprobs or None)
            else:
                self._read_content(content, choice.logprobs or None, index, state)
        if delta.refusal:
            self.parts_read += 1
            self._begin_answer(state)
            sink.refusal(index, delta.refusal)
        for call in delta.tool_calls or ():
            self.parts_read += 1
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

    def _read_reasoning_field(self, thought: str, content: str | None, index: int, state: ChoiceState) -> None:
        """Read reasoning from its own field, unless the content of the same chunk repeats it between tags."""
        state.has_text_reasoning = True
        if not state.repeats(thought, content):
            self._read_reasoning(thought, index, state)

    def _read_reasoning(self, thought: str, index: int, state: ChoiceState) -> None:
        """Read reasoning that the host has separated from the content."""
        self.parts_read += 1
        if state.reads_tags and state.tags is not None:
            self._send_through_markup(state.tags.stop(), index, state)
        if state.eos is not None:
            thought = state.eos.read(thought)
        if thought:
            self._send_reasoning(thought, index, state)

    def _read_content(self, content: str, logprobs: Mapping[str, Any] | None, index: int, state: ChoiceState) -> None:
        """Read content that may hold reasoning between tags, or tool calls as markup."""
        pieces: list[Piece]
        if state.reads_tags:
            pieces = self._hold_back_markup(state.read_tags(content), state)
        else:
            text = content if state.markup is None else state.markup.read(content)
            if text == content:
                self.has_content = True
                if content and not state.has_answered:
                    state.begin_answer()
                self._sink.content(index, content, logprobs)
                return
            pieces = [("content", text)] if text else []
        if logprobs:  # they cover the whole fragment, including text that is held back
            self._sink.content(index, "", logprobs)
        self._send_pieces(pieces, index, state)

    def _hold_back_markup(self, pieces: list[Piece], state: ChoiceState) -> list[Piece]:
        """Return the pieces without text that may be tool calls; that text is held back."""
        if state.markup is None:
            return pieces
        read = [(kind, state.markup.read(text) if kind == "content" else text) for kind, text in pieces]
        return [(kind, text) for kind, text in read if text]

    def _send_through_markup(self, pieces: list[Piece], index: int, state: ChoiceState) -> None:
        self._send_pieces(self._hold_back_markup(pieces, state), index, state)

    def _send_pieces(self, pieces: list[Piece], index: int, state: ChoiceState) -> None:
        for kind, text in pieces:
            if kind == "reasoning":
                self._send_reasoning(text, index, state)
            else:
                self._begin_answer(state)
                self._sink.content(index, text, None)

    def _begin_answer(self, state: ChoiceState) -> None:
        self.has_content = True
        if not state.has_answered:
            state.begin_answer()

    def _send_reasoning(self, thought: str, index: int, state: ChoiceState) -> None:
        state.has_reasoned = self.has_content = True
        if state.may_be_answer and self._reasoning_allowance.take(len(thought)):
            state.thoughts.append(thought)
        self._sink.reasoning(index, thought)

    def _read_extras(self, delta: Delta, index: int, state: ChoiceState) -> None:
        if extras.is_call(delta.function_call) and not state.slots:  # some hosts send a call in both forms (row 112)
            state.has_function_call = self.has_content = True
            self.parts_read += 1
            self._sink.extra(index, "function_call", on_one_line(delta.function_call))
        if is_given(delta.audio, "object") and bytes(audio := on_one_line(delta.audio)) != b"{}":
            self.parts_read += 1
            self.has_content = True
            self._sink.extra(index, "audio", audio)
        self._collect("annotations", delta.annotations, state)
        if self._collect("images", delta.images, state):
            self.parts_read += 1
            self._begin_answer(state)
        if is_given(delta.extra_content, "object"):
            self._kept_allowance.require(len(bytes(delta.extra_content)))
            state.extra_contents.append(on_one_line(delta.extra_content))

    def _read_details(self, details: Raw | UnsetType, index: int, state: ChoiceState) -> None:
        """Collect OpenRouter's `reasoning_details`; their text is the reasoning if the host sends no text field."""
        items = self._collect("reasoning_details", details, state)
        if not state.has_text_reasoning and (thought := extras.thought_in(items)):
            self._read_reasoning(thought, index, state)

    def _collect(self, name: Extra, value: Raw | UnsetType, state: ChoiceState) -> list[Raw]:
        """Collect the objects in a list; the sink receives the whole list at the end.

        It must be sent once: accumulators of SDKs join lists by an `index` that not all items have, and add up numbers
        and booleans.
        """
        if not is_given(value, "array"):
            return []
        items = extras.objects_in(on_one_line(value))
        for item in items:
            self._kept_allowance.require(len(bytes(item)))
            state.lists.setdefault(name, []).append(item)
        return items

    def _read_host_call(self, call: ToolCall, index: int, state: ChoiceState, *, is_whole: bool) -> None:
        """Read a tool call that the host itself has parsed; from now on, markup in the content is text."""
        if state.markup is not None:
            held, _ = state.markup.close(may_convert=False)
            state.markup = None
            self._send_pieces([("content", held)] if held else [], index, state)
        self._calls.read(call, index, state.slots, is_whole=is_whole)

    def _finish(self, index: int, state: ChoiceState) -> None:
        """Pass on what was held back of a choice, and then the finish reason that fits what was sent."""
        mapped = canonical(state.reason)
        was_thinking = state.tags is not None and state.tags.is_thinking
        self._flush_held_text(index, state, may_convert=mapped != "content_filter")
        mapped = self._final_reason(mapped, state)
        self._calls.close(index, state.slots)
        has_no_content = mapped == "stop" and not state.has_answered
        if state.eos is not None and (rest := state.eos.take_rest(is_answer=has_no_content)):
            self._send_reasoning(rest, index, state)
        if has_no_content and state.thoughts:
            self._send_reasoning_as_content(index, state, was_thinking=was_thinking)
        for name, items in state.lists.items():
            is_in_pieces = name == "reasoning_details" and not state.is_whole
            value = extras.joined(items) if is_in_pieces else Raw(_encode(items))
            self._sink.extra(index, name, value)
        if state.extra_contents:
            self._sink.extra(index, "extra_content", extras.merged(state.extra_contents))
        self._sink.finish(index, mapped)

    def _flush_held_text(self, index: int, state: ChoiceState, *, may_convert: bool) -> None:
        """Pass on, at the end of the texts, what was held back as a possible part of a character, tag or markup."""
        if state.surrogates.waiting:
            self._end_surrogates(index, state)
        if state.tags is not None:
            self._send_through_markup(state.tags.close(), index, state)
        if state.markup is not None:
            held, calls = state.markup.close(may_convert=may_convert and not state.has_function_call)
            self._send_pieces([("content", held)] if held else [], index, state)
            for call in calls:
                self._make_call(call, index, state)

    def _end_surrogates(self, index: int, state: ChoiceState) -> None:
        for name in ("reasoning_content", "reasoning", "thinking", "reasoning_text"):
            if rest := state.surrogates.take_rest(name):
                self._read_reasoning(rest, index, state)
        if rest := state.surrogates.take_rest("refusal"):
            self._sink.refusal(index, rest)
        if rest := state.surrogates.take_rest("content"):
            self._read_content(rest, None, index, state)

    def _make_call(self, call: MarkupCall, index: int, state: ChoiceState) -> None:
        self.has_content = True
        function = Function(name=call.name, arguments=Raw(_encode(call.arguments)))
        self._calls.read(ToolCall(function=function), index, state.slots, is_whole=True)

    def _final_reason(self, mapped: FinishReason, state: ChoiceState) -> FinishReason:
        """Return the finish reason that fits the tool calls that were passed on (R-FR).

        Raises:
            ToolCallUnparsable: the host's finish reason is tool calls, which were allowed, and the host sent none
                (row 76j).
        """
        if mapped == "function_call" and state.has_function_call:
            return mapped
        if mapped not in {"stop", "tool_calls", "function_call"}:
            return mapped
        if state.slots:
            return "length" if self._has_reached_limit and state.slots[-1].is_cut else "tool_calls"
        if mapped == "tool_calls" and not state.has_answered and self._answer_format.may_call:
            raise ToolCallUnparsable("The upstream says that its model called a tool, but sent no call.")
        return "stop"

    def _send_reasoning_as_content(self, index: int, state: ChoiceState, *, was_thinking: bool) -> None:
        """Send the reasoning as the content, as the host sent nothing else (rows 68 and 76i).

        This is done if the dialect allows it (`HostAnswerFormat.reasoning_may_be_answer`), or if a tag was not closed.
        Reasoning that was too long to be kept whole is not sent.
        """
        is_kept_whole = not self._reasoning_allowance.is_spent
        if is_kept_whole and (self._answer_format.reasoning_may_be_answer or was_thinking):
            self._sink.content(index, "".join(state.thoughts), None)


def _unreadable(error: Exception) -> UpstreamFailed:
    return UpstreamFailed(f"The upstream sent a chunk that cannot be read: {type(error).__name__}.")
