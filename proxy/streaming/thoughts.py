"""Thinking in the content, between tags (contract R-THINK, C.9): taken apart, however it is cut into chunks.

A text that might be the beginning of a tag waits for its end, never more than a few characters.
"""

import functools
import re
from typing import Literal

from proxy.protocol.chat import Reading

Kind = Literal["content", "reasoning"]
Piece = tuple[Kind, str]

_MAX_SPACE = 256  # characters before an opening tag
_BAR, _LINE = "[｜|]", "[▁_]"
_END_OF_SENTENCE = re.compile(f"<{_BAR}end{_LINE}of{_LINE}sentence{_BAR}>")
_ALIKE = str.maketrans({"｜": "|", "▁": "_"})


class ThoughtReader:
    """Reads the content of one choice.

    Attributes:
        is_done: the content is content from here on, so that it need not be read.
        is_thinking: a tag is open: all that comes is thinking.
    """

    __slots__ = ("_held", "_is_beginning", "_opening", "_shut", "_skips_space", "_tags", "is_done", "is_thinking")

    def __init__(self, reading: Reading) -> None:
        self._tags = [f"</{name}>" for name in reading.thought_tags]
        self._opening = [f"<{name}>" for name in reading.thought_tags]
        self._shut = _closing_tag(reading.thought_tags)
        self._held = ""
        self._is_beginning = True
        self._skips_space = False
        self.is_thinking = reading.begins_in_thought
        self.is_done = False

    def read(self, text: str) -> list[Piece]:
        """What the next piece of the content is, in order."""
        text, self._held = self._held + text, ""
        found: list[Piece] = []
        if self._is_beginning and (text := self._begin(text)) == "":
            return found
        if self.is_thinking:
            match = self._shut.search(text)
            if match is None:
                kept = len(text) - self._begun(text)
                self._held = text[kept:]
                self._tell(found, "reasoning", text[:kept])
                return found
            self._tell(found, "reasoning", text[: match.start()])
            self.is_thinking, self._skips_space = False, True
            text = text[match.end() :]
        self._tell(found, "content", text)
        self.is_done = not self._skips_space
        return found

    def tells(self, thought: str, text: str) -> bool:
        """Whether this piece of the content holds, between tags, what the host has taken apart as well."""
        if self.is_thinking:
            return text == thought
        begun = text.lstrip()
        tag = next((tag for tag in self._opening if begun.startswith(tag)), None)
        if tag is None or not self._is_beginning or (match := self._shut.search(begun)) is None:
            return False
        return begun[len(tag) : match.start()].strip() == thought.strip()

    def stop(self) -> list[Piece]:
        """The host takes thinking apart itself, so that tags are text: what was held back."""
        self.is_thinking = False
        return self.close()

    def close(self) -> list[Piece]:
        """What is left at the end."""
        found: list[Piece] = []
        text, self._held = self._held, ""
        self._tell(found, "reasoning" if self.is_thinking else "content", text)
        return found

    def _begin(self, text: str) -> str:
        """The text behind its opening tag, or all of it; empty while it may still begin with one."""
        stripped = text.lstrip()
        if len(text) - len(stripped) <= _MAX_SPACE:
            for tag in self._opening:
                if stripped.startswith(tag):
                    self._is_beginning, self.is_thinking, self._skips_space = False, True, True
                    return stripped[len(tag) :]
                if tag.startswith(stripped):  # also where nothing but white space came
                    self._held = text
                    return ""
        self._is_beginning = False
        return text

    def _begun(self, text: str) -> int:
        """How many characters at the end may be the beginning of a closing tag."""
        start = text.rfind("<")
        tail = text[start:] if start >= 0 else ""
        return len(tail) if tail and any(tag.startswith(tail) for tag in self._tags) else 0

    def _tell(self, found: list[Piece], kind: Kind, text: str) -> None:
        if self._skips_space:
            text = text.lstrip()
        if text:
            self._skips_space = False
            found.append((kind, text))


class EndOfSentence:
    """The token that ends an answer of DeepSeek's, where it is left at the end of the reasoning (row 68)."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def read(self, thought: str) -> str:
        """The next piece, less what may be the beginning of that token."""
        if not self._held and "<" not in thought:
            return thought
        text = self._held + thought
        start = text.rfind("<")
        may_be = start >= 0 and "<|end_of_sentence|>".startswith(text[start:].translate(_ALIKE))
        self._held = text[start:] if may_be else ""
        return text[:start] if may_be else text

    def take_rest(self, *, is_answer: bool) -> str:
        """What was held back; without the token itself where the reasoning is the answer."""
        held, self._held = self._held, ""
        return "" if is_answer and _END_OF_SENTENCE.fullmatch(held) else held


@functools.lru_cache(maxsize=64)  # dialects are few
def _closing_tag(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("</(?:" + "|".join(map(re.escape, names)) + ")>")
