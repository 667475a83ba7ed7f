"""`ChoiceState`: the state of one choice, which a `ChoiceStream` keeps while chunks arrive."""

from msgspec import Raw

from tidegate.protocol.chat import HostAnswerFormat
from tidegate.streaming.calls import CallSlot
from tidegate.streaming.markup import MarkupReader
from tidegate.streaming.sinks import Extra
from tidegate.streaming.surrogates import SurrogateJoiner
from tidegate.streaming.thoughts import EosReader, Piece, ThoughtReader


class ChoiceState:
    """The state of one choice of an answer. Owned by a `ChoiceStream`.

    Attributes:
        tags: separates reasoning between tags from the content; None if the host never sends tags.
        markup: holds back text that may be tool calls; None if text is never read as a call.
        eos: holds back an end-of-sentence token at the end of the reasoning; None if reasoning is never the answer.
        reads_tags: the content must be read by `tags`, as a tag is open or may follow.
        surrogates: joins surrogate pairs that are split over two chunks.
        thoughts: reasoning that may become the answer, if no other content follows; empty once the answer has begun.
        reason: the host's finish reason so far; empty: none yet.
        parts_read_at_reason: the value of `ChoiceStream.parts_read` when that finish reason arrived.
        has_unclear_reason: the host sent a finish reason that is not a string (see `UNCLEAR_REASON`).
        slots: the tool calls, in the order in which they began.
        lists: the items of `annotations`, `images` and `reasoning_details`; the sink receives each list at the end.
        extra_contents: the `extra_content` of each chunk; the sink receives them merged at the end.
        is_whole: the host sent a whole message, not deltas.
        has_answered: content, a refusal or an image was read.
        has_reasoned: reasoning was sent to the sink.
        has_text_reasoning: the reasoning arrived in a text field; `reasoning_details` then only repeat it.
        has_function_call: the host sent a legacy `function_call`.
    """

    __slots__ = (
        "_keeps_thoughts",
        "eos",
        "extra_contents",
        "has_answered",
        "has_function_call",
        "has_reasoned",
        "has_text_reasoning",
        "has_unclear_reason",
        "is_whole",
        "lists",
        "markup",
        "parts_read_at_reason",
        "reads_tags",
        "reason",
        "slots",
        "surrogates",
        "tags",
        "thoughts",
    )

    def __init__(self, answer_format: HostAnswerFormat) -> None:
        self.tags = ThoughtReader(answer_format) if answer_format.thought_tags else None
        self.markup = (
            MarkupReader(answer_format.tools) if answer_format.leaks_markup and answer_format.may_call else None
        )
        self.eos = EosReader() if answer_format.reasoning_may_be_answer else None
        self.reads_tags = self.tags is not None
        self.surrogates = SurrogateJoiner()
        self._keeps_thoughts = answer_format.reasoning_may_be_answer
        self.thoughts: list[str] = []
        self.reason = ""
        self.parts_read_at_reason = 0
        self.slots: list[CallSlot] = []
        self.lists: dict[Extra, list[Raw]] = {}
        self.extra_contents: list[Raw] = []
        self.has_unclear_reason = False
        self.is_whole = False
        self.has_answered = False
        self.has_reasoned = False
        self.has_text_reasoning = False
        self.has_function_call = False

    def read_tags(self, content: str) -> list[Piece]:
        """Split the next fragment of the content at its tags."""
        if self.tags is None:
            return [("content", content)]
        pieces = self.tags.read(content)
        self.reads_tags = not self.tags.is_done
        return pieces

    def repeats(self, thought: str, content: str | None) -> bool:
        """Whether the content of the same chunk repeats `thought`, between tags."""
        return self.reads_tags and self.tags is not None and bool(content) and self.tags.repeats(thought, content or "")

    @property
    def has_begun(self) -> bool:
        """Whether any part of the message has arrived."""
        return bool(self.has_answered or self.has_reasoned or self.slots or self.has_function_call)

    @property
    def may_be_answer(self) -> bool:
        """Whether reasoning that arrives now may become the answer (rows 68 and 76i)."""
        return not self.has_answered and (self._keeps_thoughts or (self.tags is not None and self.tags.is_thinking))

    def begin_answer(self) -> None:
        """Record that the answer has begun; the reasoning is then not the answer and is no longer kept."""
        self.has_answered = True
        self.thoughts.clear()
