"""Surrogate pairs that a host split over two chunks, each half in a JSON escape of its own (contract row 204)."""

from proxy.protocol.chat import Delta
from proxy.protocol.lenient import sound

_TEXTS = ("content", "reasoning_content", "reasoning", "thinking", "reasoning_text", "refusal")
_REPLACEMENT = "?"


class Halves:
    """First halves that wait for the second ones; owned by one choice or one tool call.

    Attributes:
        waiting: by text; where it is not empty, the next piece must be joined.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}

    def join(self, name: str, text: str) -> str:
        """The next piece of the text called `name`, as valid Unicode; a first half at its end is kept back."""
        text = self.waiting.pop(name, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self.waiting[name] = text[-1]
            text = text[:-1]
        return sound(text)

    def join_delta(self, delta: Delta) -> None:
        """The same for each text of a message, in place."""
        for name in _TEXTS:
            if text := getattr(delta, name):
                setattr(delta, name, self.join(name, text))

    def take_rest(self, name: str) -> str:
        """What stands for a first half whose second one never came."""
        return _REPLACEMENT if self.waiting.pop(name, "") else ""
