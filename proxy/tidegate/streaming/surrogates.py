"""Joins UTF-16 surrogate pairs that a host splits over two chunks, with one JSON escape in each (row 204)."""

from tidegate.protocol.chat import Delta
from tidegate.protocol.lenient import valid_unicode

_TEXTS = ("content", "reasoning_content", "reasoning", "thinking", "reasoning_text", "refusal")
_REPLACEMENT = "?"


class SurrogateJoiner:
    """Holds back a high surrogate until its low surrogate arrives; owned by one choice or one tool call.

    Attributes:
        waiting: by the name of a text, the high surrogate that is held back.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}

    def join(self, name: str, text: str) -> str:
        """Return the next fragment of the text `name` as valid Unicode; a high surrogate at its end is held back."""
        text = self.waiting.pop(name, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self.waiting[name] = text[-1]
            text = text[:-1]
        return valid_unicode(text)

    def join_delta(self, delta: Delta) -> None:
        """Call `join` for every text of a delta, in place."""
        for name in _TEXTS:
            if text := getattr(delta, name):
                setattr(delta, name, self.join(name, text))

    def take_rest(self, name: str) -> str:
        """Return a question mark for a high surrogate that is still held back; otherwise an empty string."""
        return _REPLACEMENT if self.waiting.pop(name, "") else ""
