"""`StreamSplice`: where an answer that broke off and the one that goes on with it become one. Sans-I/O, owned by one answer.

It notes what has been told of the answer, as that is what another target is to go on from; and of what that one says it
tells what is new. A model may begin with the last words once more, and those are taken off: the longest end of what was
told that is a beginning of what comes. That is a guess, so it must be a sure one: `100` may well go on with `000`.
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
_SURE = 8  # so many characters, of ...
_KINDS = 6  # ... so many different ones, do not come twice by chance: rows of zeros and of dashes do
_MAX_TEXT = 4 * 1024 * 1024  # of one answer; a longer one cannot be gone on with
_BYTES_PER_TOKEN = 4  # about, where nobody has counted


class StreamSplice:
    """A sink that stands before another one, for one answer of one choice.

    Attributes:
        told_usage: of all parts together, as the last of them ended; None until then.
    """

    __slots__ = (
        "_allowance",
        "_has_more",
        "_held",
        "_is_finished",
        "_is_joining",
        "_is_open",
        "_is_plain",
        "_is_thinking",
        "_parts",
        "_sink",
        "_size",
        "_text",
        "told_usage",
    )

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._allowance = Allowance(_MAX_TEXT)
        self._text: list[str] = []
        self._size = 0  # bytes of text and thoughts in this part
        self._parts: list[int] = []  # tokens of those that broke
        self._held = ""
        self._is_joining = False
        self._has_more = False
        self._is_open = False
        self._is_thinking = False
        self._is_plain = True
        self._is_finished = False
        self.told_usage: Usage | None = None

    @property
    def text(self) -> str:
        """What has been told of the answer."""
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def tokens(self) -> int:
        """About how many the answer has taken so far; those of its thinking too."""
        return sum(self._parts) + self._tokens

    @property
    def can_go_on(self) -> bool:
        """Whether another model can take it up: plain text, of which something can be seen, and no open thought."""
        is_whole = self._is_plain and not (self._is_finished or self._is_thinking or self._allowance.is_spent)
        return is_whole and bool(self.text.strip())

    def join(self) -> None:
        """What is told from now on goes on with what was told; what was held back for its beginning is forgotten."""
        self._parts.append(self._tokens)
        self._size, self._held = 0, ""
        self._is_joining = self._has_more = True

    def top_level(self, name: TopLevel, value: Raw) -> None:
        """Pass on the fields of the first part only."""
        if not self._has_more:
            self._sink.top_level(name, value)

    def open(self, index: int) -> None:
        """Told once."""
        self._is_plain = self._is_plain and index == 0
        if not self._is_open or index:
            self._is_open = True
            self._sink.open(index)

    def content(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        self._is_plain = self._is_plain and logprobs is None
        self._size += len(text.encode())
        self._is_thinking = False
        if self._is_joining:
            text = self._join(text, is_all=False)
        if text or logprobs is not None:
            self._tell(index, text, logprobs)

    def reasoning(self, index: int, text: str) -> None:
        """Thinking over an answer that has begun is nobody's business: it would stand in the middle of it."""
        self._size += len(text.encode())
        if not self._has_more:
            self._is_thinking = True
            self._sink.reasoning(index, text)

    def refusal(self, index: int, text: str) -> None:
        self._leave_text()
        self._sink.refusal(index, text)

    def tool(self, index: int, piece: ToolPiece) -> None:
        self._leave_text()
        self._sink.tool(index, piece)

    def extra(self, index: int, name: Extra, value: Raw) -> None:
        self._leave_text()
        self._sink.extra(index, name, value)

    def finish(self, index: int, reason: FinishReason) -> None:
        if self._is_joining and (rest := self._join("", is_all=True)):
            self._tell(index, rest, None)
        self._is_finished = True
        self._sink.finish(index, reason)

    def usage(self, usage: Usage) -> None:
        """All parts together: they were all paid for."""
        self.told_usage = with_parts(usage, self._parts)
        self._sink.usage(self.told_usage)

    @property
    def _tokens(self) -> int:
        return -(-self._size // _BYTES_PER_TOKEN)

    def _leave_text(self) -> None:
        """Nobody asked for anything but text: a first part may be what it is, a further one would be another answer.

        Raises:
            StreamBroken: it is a further one.
        """
        if self._has_more:
            raise StreamBroken("What went on with the answer is no text.")
        self._is_plain = False

    def _tell(self, index: int, text: str, logprobs: Mapping[str, Any] | None) -> None:
        if self._allowance.take(len(text)):
            self._text.append(text)
        self._sink.content(index, text, logprobs)

    def _join(self, text: str, *, is_all: bool) -> str:
        """What of the text is new, as soon as that is certain; until then it is held back."""
        self._held += text
        told = self.text[-MAX_OVERLAP:]
        if not is_all and may_overlap_more(told, self._held):
            return ""
        new, self._held, self._is_joining = self._held[overlap(told, self._held) :], "", False
        return new


def overlap(told: str, more: str) -> int:
    """How many characters of `more` repeat the end of `told`, surely; 0 where it may be chance."""
    for size in range(min(len(told), len(more), MAX_OVERLAP), _SURE - 1, -1):
        if told.endswith(more[:size]):
            return size if len(set(more[:size])) >= _KINDS else 0
    return 0


def may_overlap_more(told: str, more: str) -> bool:
    """Whether `more`, which has only begun, may turn out to repeat a longer end of `told` than it does now."""
    longest = min(len(told), MAX_OVERLAP)
    return any(told.startswith(more, len(told) - size) for size in range(max(len(more) + 1, _SURE), longest + 1))


def with_parts(usage: Usage, parts: list[int]) -> Usage:
    """What an answer took whose last part took `usage`, and whose earlier ones said so many tokens each.

    The prompt of each part was the caller's and all that had been said, so that those of the earlier ones are known.
    """
    prompt = usage.prompt_tokens
    for said in reversed(parts):
        prompt = max(0, prompt - said)
        usage = sum_usage(usage, Usage(prompt, said, prompt + said))
    return usage
