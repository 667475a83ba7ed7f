"""Surrogate pairs that a host split over two chunks, each half in a JSON escape of its own (contract row 204)."""

from proxy.protocol.chat import Delta
from proxy.protocol.lenient import sound

_TEXTS = ("content", "reasoning_content", "reasoning", "thinking", "reasoning_text", "refusal")
_REPLACEMENT = "?"


class Halves:
    """First halves that wait for the second ones, by text; owned by one choice or one tool call."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}

    def __bool__(self) -> bool:
        """Whether one waits, so that the next piece must be joined."""
        return bool(self._waiting)

    def join(self, name: str, text: str) -> str:
        """The next piece of the text called `name`, as valid Unicode; a first half at its end is kept back."""
        text = self._waiting.pop(name, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._waiting[name] = text[-1]
            text = text[:-1]
        return sound(text)

    def join_delta(self, delta: Delta) -> None:
        """The same for each text of a message, in place."""
        for name in _TEXTS:
            if text := getattr(delta, name):
                setattr(delta, name, self.join(name, text))

    def take_rest(self, name: str) -> str:
        """What stands for a first half whose second one never came."""
        return _REPLACEMENT if self._waiting.pop(name, "") else ""
