"""`StreamSplice`: joins an answer that broke off and its continuation by another target. Sans-I/O, owned by one answer.

It records the text that the caller has received, which is sent to the other target as the beginning of the answer. Of
the continuation it passes on what is new: the model may repeat the last words first. The repetition is the longest end
of the earlier text with which the continuation begins, and it is removed. This is a guess, so the overlap must be long
and varied enough: a continuation of `100` may rightly begin with `000`.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from tidegate.errors import StreamBroken
from tidegate.protocol.chat import TopLevel
from tidegate.protocol.usage import Usage, sum_usage
from tidegate.streaming.allowance import Allowance
from tidegate.streaming.finish import FinishReason
from tidegate.streaming.sinks import Extra, Sink, ToolPiece

MAX_OVERLAP = 64  # characters
# A repetition of fewer characters, or of fewer distinct ones (such as a row of zeros or dashes), may be a coincidence.
_MIN_OVERLAP = 8
_MIN_DISTINCT = 6
_MAX_TEXT = 4 * 1024 * 1024  # bytes, about; a longer answer cannot be continued
_BYTES_PER_TOKEN = 4  # an estimate, as a part that broke off has no usage


class StreamSplice:
    """A sink in front of `sink`, for one answer with one choice.

    A part is the text of one target. Parts that broke off come first; the last one ends the answer.

    Attributes:
        final_usage: the usage of all parts together, set when the last part ends; None until then.
    """

    __slots__ = (
        "_allowance",
        "_held",
        "_is_continued",
        "_is_finished",
        "_is_joining",
        "_is_only_text",
        "_is_open",
        "_is_thinking",
        "_part_tokens",
        "_sink",
        "_size",
        "_text",
        "final_usage",
    )

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._allowance = Allowance(_MAX_TEXT)
        self._text: list[str] = []
        self._size = 0  # bytes of text and reasoning in this part
        self._part_tokens: list[int] = []  # estimated tokens of each part that broke off
        self._held = ""  # the beginning of a continuation, while the overlap is not certain
        self._is_joining = False  # the overlap is still looked for
        self._is_continued = False
        self._is_open = False
        self._is_thinking = False  # the last text that was sent is reasoning
        self._is_only_text = True
        self._is_finished = False
        self.final_usage: Usage | None = None

    @property
    def text(self) -> str:
        """The text of the answer that was sent so far."""
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def tokens(self) -> int:
        """The estimated number of tokens of the answer so far, with those of the reasoning."""
        return sum(self._part_tokens) + self._tokens

    @property
    def can_continue(self) -> bool:
        """Whether another model can continue the answer.

        The answer must be plain text that is more than white space, must not have ended, must not be too long, and must
        not have broken off within the reasoning.
        """
        is_whole = self._is_only_text and not (self._is_finished or self._is_thinking or self._allowance.is_spent)
        return is_whole and bool(self.text.strip())

    def begin_rest(self) -> None:
        """Begin a part that continues the answer; text of the previous part that is still held back is dropped."""
        self._part_tokens.append(self._tokens)
        self._size, self._held = 0, ""
        self._is_joining = self._is_continued = True

    def top_level(self, name: TopLevel, value: Raw) -> None:
        """Pass on the fields of the first part only."""
        if not self._is_continued:
            self._sink.top_level(name, value)

    def open(self, index: int) -> None:
        """Open the choice once, although each part opens it again."""
        self._is_only_text = self._is_only_text and index == 0
        if not self._is_open or index:
            self._is_open = True
            self._sink.open(index)

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        self._is_only_text = self._is_only_text and logprobs is None
        self._size += len(text.encode())
        self._is_thinking = False
        if self._is_joining:
            text = self._join(text, is_all=False)
        if text or logprobs is not None:
            self._send(index, text, logprobs)

    def reasoning(self, index: int, text: str) -> None:
        """Pass on the reasoning of the first part only; that of a later part would be in the middle of the answer."""
        self._size += len(text.encode())
        if not self._is_continued:
            self._is_thinking = True
            self._sink.reasoning(index, text)

    def refusal(self, index: int, text: str) -> None:
        self._require_first_part()
        self._sink.refusal(index, text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        self._require_first_part()
        self._sink.tool(index, piece)

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._require_first_part()
        self._sink.extra(index, name, value)

    def finish(self, index: int, reason: FinishReason) -> None:
        if self._is_joining and (rest := self._join("", is_all=True)):
            self._send(index, rest, None)
        self._is_finished = True
        self._sink.finish(index, reason)

    def usage(self, usage: Usage) -> None:
        """Pass on the usage of all parts together, as every part costs tokens."""
        self.final_usage = with_earlier_parts(usage, self._part_tokens)
        self._sink.usage(self.final_usage)

    @property
    def _tokens(self) -> int:
        return -(-self._size // _BYTES_PER_TOKEN)

    def _require_first_part(self) -> None:
        """Accept output other than text in the first part only; a continuation must be text.

        Raises:
            StreamBroken: this part is a continuation.
        """
        if self._is_continued:
            raise StreamBroken("The continuation of the answer is not text.")
        self._is_only_text = False

    def _send(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        if self._allowance.take(len(text)):
            self._text.append(text)
        self._sink.content(index, text, logprobs)

    def _join(self, text: str, *, is_all: bool) -> str:
        """Return the new part of the text as soon as the overlap is certain; until then hold the text back."""
        self._held += text
        sent = self.text[-MAX_OVERLAP:]
        if not is_all and may_overlap_more(sent, self._held):
            return ""
        new, self._held, self._is_joining = self._held[overlap(sent, self._held) :], "", False
        return new


def overlap(sent: str, more: str) -> int:
    """Return how many characters of `more` repeat the end of `sent`; 0 if it may be a coincidence."""
    for size in range(min(len(sent), len(more), MAX_OVERLAP), _MIN_OVERLAP - 1, -1):
        if sent.endswith(more[:size]):
            return size if len(set(more[:size])) >= _MIN_DISTINCT else 0
    return 0


def may_overlap_more(sent: str, more: str) -> bool:
    """Whether `more`, which is not complete yet, may repeat a longer end of `sent` than it does so far."""
    longest = min(len(sent), MAX_OVERLAP)
    return any(sent.startswith(more, len(sent) - size) for size in range(max(len(more) + 1, _MIN_OVERLAP), longest + 1))


def with_earlier_parts(usage: Usage, parts: list[int]) -> Usage:
    """Return the usage of an answer of several parts.

    The prompt of each part was the caller's prompt and the text so far. So the prompt tokens of earlier parts can be
    computed from those of the last part.

    Args:
        usage: the usage of the last part.
        parts: the estimated completion tokens of each earlier part, in order.
    """
    prompt = usage.prompt_tokens
    for tokens in reversed(parts):
        prompt = max(0, prompt - tokens)
        usage = sum_usage(usage, Usage(prompt, tokens, prompt + tokens))
    return usage
