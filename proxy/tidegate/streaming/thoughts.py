"""Separates reasoning between tags from the rest of the content, wherever chunks begin and end (R-THINK, C.9).

Text that may be the beginning of a tag is held back until that is certain; a tag has a few characters.
"""

import functools
import re
from typing import Literal

from tidegate.protocol.chat import HostAnswerFormat

Kind = Literal["content", "reasoning"]
Piece = tuple[Kind, str]

_MAX_SPACE = 256  # characters of white space before an opening tag
_BAR, _LINE = "[｜|]", "[▁_]"
_END_OF_SENTENCE = re.compile(f"<{_BAR}end{_LINE}of{_LINE}sentence{_BAR}>")
_TO_PLAIN = str.maketrans({"｜": "|", "▁": "_"})  # hosts write the token with either kind of characters


class ThoughtReader:
    """Splits the content of one choice into reasoning and answer.

    Attributes:
        is_done: no tag can follow, so the rest of the content need not be read.
        is_thinking: a tag is open, so the text is reasoning.
    """

    __slots__ = (
        "_closing_pattern",
        "_closing_tags",
        "_held",
        "_is_beginning",
        "_opening_tags",
        "_skips_space",
        "is_done",
        "is_thinking",
    )

    def __init__(self, answer_format: HostAnswerFormat) -> None:
        self._closing_tags = [f"</{name}>" for name in answer_format.thought_tags]
        self._opening_tags = [f"<{name}>" for name in answer_format.thought_tags]
        self._closing_pattern = _closing_tag_pattern(answer_format.thought_tags)
        self._held = ""
        self._is_beginning = True
        self._skips_space = False  # drop white space, as it follows a tag
        self.is_thinking = answer_format.begins_in_reasoning
        self.is_done = False

    def read(self, text: str) -> list[Piece]:
        """Split the next fragment of the content into reasoning and answer."""
        text, self._held = self._held + text, ""
        found: list[Piece] = []
        if self._is_beginning and (text := self._read_beginning(text)) == "":
            return found
        if self.is_thinking:
            match = self._closing_pattern.search(text)
            if match is None:
                kept = len(text) - self._tag_start_length(text)
                self._held = text[kept:]
                self._append(found, "reasoning", text[:kept])
                return found
            self._append(found, "reasoning", text[: match.start()])
            self.is_thinking, self._skips_space = False, True
            text = text[match.end() :]
        self._append(found, "content", text)
        self.is_done = not self._skips_space
        return found

    def repeats(self, thought: str, text: str) -> bool:
        """Whether the content `text` of a chunk holds, between tags, the same reasoning as the chunk's own field."""
        if self.is_thinking:
            return text == thought
        begun = text.lstrip()
        tag = next((tag for tag in self._opening_tags if begun.startswith(tag)), None)
        if tag is None or not self._is_beginning or (match := self._closing_pattern.search(begun)) is None:
            return False
        return begun[len(tag) : match.start()].strip() == thought.strip()

    def stop(self) -> list[Piece]:
        """Read tags as text from now on, as the host sends the reasoning in a field; return what was held back."""
        self.is_thinking = False
        return self.close()

    def close(self) -> list[Piece]:
        """Return what was held back, as the content has ended."""
        found: list[Piece] = []
        text, self._held = self._held, ""
        self._append(found, "reasoning" if self.is_thinking else "content", text)
        return found

    def _read_beginning(self, text: str) -> str:
        """Return the text after the opening tag, or all of it if there is no tag; empty while that is not certain."""
        stripped = text.lstrip()
        if len(text) - len(stripped) <= _MAX_SPACE:
            for tag in self._opening_tags:
                if stripped.startswith(tag):
                    self._is_beginning, self.is_thinking, self._skips_space = False, True, True
                    return stripped[len(tag) :]
                if tag.startswith(stripped):  # true also if the text is only white space so far
                    self._held = text
                    return ""
        self._is_beginning = False
        return text

    def _tag_start_length(self, text: str) -> int:
        """Return the number of characters at the end that may be the beginning of a closing tag."""
        start = text.rfind("<")
        tail = text[start:] if start >= 0 else ""
        return len(tail) if tail and any(tag.startswith(tail) for tag in self._closing_tags) else 0

    def _append(self, found: list[Piece], kind: Kind, text: str) -> None:
        if self._skips_space:
            text = text.lstrip()
        if text:
            self._skips_space = False
            found.append((kind, text))


class EosReader:
    """Holds back DeepSeek's end-of-sentence token, which some hosts leave at the end of the reasoning (row 68)."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def read(self, thought: str) -> str:
        """Return the next fragment without an end that may be the token or its beginning, which is held back."""
        if not self._held and "<" not in thought:
            return thought
        text = self._held + thought
        start = text.rfind("<")
        may_be = start >= 0 and "<|end_of_sentence|>".startswith(text[start:].translate(_TO_PLAIN))
        self._held = text[start:] if may_be else ""
        return text[:start] if may_be else text

    def take_rest(self, *, is_answer: bool) -> str:
        """Return what was held back, but nothing if it is the token and the reasoning becomes the answer."""
        held, self._held = self._held, ""
        return "" if is_answer and _END_OF_SENTENCE.fullmatch(held) else held


@functools.lru_cache(maxsize=64)  # one entry for each set of tags in the dialects
def _closing_tag_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("</(?:" + "|".join(map(re.escape, names)) + ")>")
