"""What is known of one choice while its chunks come."""

from msgspec import Raw

from proxy.protocol.chat import Reading
from proxy.streaming.calls import Slot
from proxy.streaming.markup import MarkupReader
from proxy.streaming.sinks import Extra
from proxy.streaming.surrogates import Halves
from proxy.streaming.thoughts import EndOfSentence, Piece, ThoughtReader


class ChoiceState:
    """Owned by a `ChoiceStream`.

    Attributes:
        tags: reads thinking between tags; None where the host has none.
        markup: holds back what may be tool calls; None where a text can be none.
        end_of_sentence: holds back a token behind the reasoning; None where the reasoning is never the answer.
        is_tagged: a tag may come, or is open.
        halves: of surrogate pairs.
        thoughts: what may turn out to be the answer; empty once another one has begun.
        reason: the host's finish reason, as far as it is known.
        is_unclear: one has come that says nothing but that there is one.
        lists, extra_contents: what is told at once at the end.
        is_whole: it came as a whole message.
        has_plain_thoughts: the reasoning came as text, so that its details say nothing new.
    """

    __slots__ = (
        "_keeps_thoughts",
        "end_of_sentence",
        "extra_contents",
        "halves",
        "has_answered",
        "has_function_call",
        "has_plain_thoughts",
        "has_reasoned",
        "is_tagged",
        "is_unclear",
        "is_whole",
        "lists",
        "markup",
        "reason",
        "slots",
        "tags",
        "thoughts",
    )

    def __init__(self, reading: Reading) -> None:
        self.tags = ThoughtReader(reading) if reading.thought_tags else None
        self.markup = MarkupReader(reading.tools) if reading.repairs_markup and reading.may_call else None
        self.end_of_sentence = EndOfSentence() if reading.repairs_silence else None
        self.is_tagged = self.tags is not None
        self.halves = Halves()
        self._keeps_thoughts = reading.repairs_silence
        self.thoughts: list[str] = []
        self.reason = ""
        self.slots: list[Slot] = []
        self.lists: dict[Extra, list[Raw]] = {}
        self.extra_contents: list[Raw] = []
        self.is_unclear = False
        self.is_whole = False
        self.has_answered = False
        self.has_reasoned = False
        self.has_plain_thoughts = False
        self.has_function_call = False

    def read_tags(self, content: str) -> list[Piece]:
        """What the next piece of the content is, by its tags."""
        if self.tags is None:
            return [("content", content)]
        pieces = self.tags.read(content)
        self.is_tagged = not self.tags.is_done
        return pieces

    def tells(self, thought: str, content: str | None) -> bool:
        """Whether the content of the same piece holds the thought as well, between tags."""
        return self.is_tagged and self.tags is not None and bool(content) and self.tags.tells(thought, content or "")

    @property
    def has_said_anything(self) -> bool:
        """Whether any of the answer has come."""
        return bool(self.has_answered or self.has_reasoned or self.slots or self.has_function_call)

    @property
    def may_be_answer(self) -> bool:
        """Whether the thought that is being told may turn out to be the answer (rows 68 and 76i)."""
        return not self.has_answered and (self._keeps_thoughts or (self.tags is not None and self.tags.is_thinking))

    def begin_answer(self) -> None:
        """The answer has begun: no thought can be it any more."""
        self.has_answered = True
        self.thoughts.clear()
