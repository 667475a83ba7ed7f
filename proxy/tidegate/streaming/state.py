"""What a `ChoiceStream` keeps of one choice while its chunks arrive."""

from msgspec import Raw

from tidegate.protocol.chat import Reading
from tidegate.streaming.calls import CallSlot
from tidegate.streaming.markup import MarkupReader
from tidegate.streaming.sinks import Extra
from tidegate.streaming.surrogates import SurrogateJoiner
from tidegate.streaming.thoughts import EosReader, Piece, ThoughtReader


class ChoiceState:
    """Owned by a `ChoiceStream`.

    Attributes:
        tags: separates thinking between tags; None where the host sends none.
        markup: holds back text that may be tool calls; None where text is never a call.
        eos: holds back a token at the end of the reasoning; None where the reasoning is never the answer.
        is_tagged: the content is read by `tags`, as a tag is open or may follow.
        surrogates: joins the texts at the ends of chunks.
        thoughts: thinking that may turn out to be the answer; empty once the answer has begun.
        reason: the host's finish reason so far.
        heard_at_reason: the stream's `heard` when that finish reason arrived.
        has_unclear_reason: the host sent a finish reason that is no string (see `UNCLEAR_REASON`).
        slots: the tool calls, in the order in which they began.
        lists: items of `annotations` and the like, which the sink gets as one list at the end.
        extra_contents: the `extra_content` of each chunk, which the sink gets merged at the end.
        is_whole: the host sent a whole message, not deltas.
        has_plain_thoughts: the reasoning arrived as text, so that `reasoning_details` repeat it.
    """

    __slots__ = (
        "_keeps_thoughts",
        "eos",
        "extra_contents",
        "has_answered",
        "has_function_call",
        "has_plain_thoughts",
        "has_reasoned",
        "has_unclear_reason",
        "heard_at_reason",
        "is_tagged",
        "is_whole",
        "lists",
        "markup",
        "reason",
        "slots",
        "surrogates",
        "tags",
        "thoughts",
    )

    def __init__(self, reading: Reading) -> None:
        self.tags = ThoughtReader(reading) if reading.thought_tags else None
        self.markup = MarkupReader(reading.tools) if reading.repairs_markup and reading.may_call else None
        self.eos = EosReader() if reading.repairs_silence else None
        self.is_tagged = self.tags is not None
        self.surrogates = SurrogateJoiner()
        self._keeps_thoughts = reading.repairs_silence
        self.thoughts: list[str] = []
        self.reason = ""
        self.heard_at_reason = 0
        self.slots: list[CallSlot] = []
        self.lists: dict[Extra, list[Raw]] = {}
        self.extra_contents: list[Raw] = []
        self.has_unclear_reason = False
        self.is_whole = False
        self.has_answered = False
        self.has_reasoned = False
        self.has_plain_thoughts = False
        self.has_function_call = False

    def read_tags(self, content: str) -> list[Piece]:
        """Split the next piece of the content by its tags."""
        if self.tags is None:
            return [("content", content)]
        pieces = self.tags.read(content)
        self.is_tagged = not self.tags.is_done
        return pieces

    def repeats(self, thought: str, content: str | None) -> bool:
        """Whether the content of the same chunk holds the thought as well, between tags."""
        return self.is_tagged and self.tags is not None and bool(content) and self.tags.repeats(thought, content or "")

    @property
    def has_begun(self) -> bool:
        """Whether any part of the message has arrived."""
        return bool(self.has_answered or self.has_reasoned or self.slots or self.has_function_call)

    @property
    def may_be_answer(self) -> bool:
        """Whether thinking that arrives now may turn out to be the answer (rows 68 and 76i)."""
        return not self.has_answered and (self._keeps_thoughts or (self.tags is not None and self.tags.is_thinking))

    def begin_answer(self) -> None:
        """The answer has begun, so that the thinking is not the answer and need not be kept."""
        self.has_answered = True
        self.thoughts.clear()
