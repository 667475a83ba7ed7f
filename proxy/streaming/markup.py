"""Text that is not only text: thinking between tags, and tool calls in DeepSeek's own markup (contract R-THINK, C.9).

A host without the right parser passes on what its model wrote. `TextReader` takes it apart, however it is cut into
chunks; a text that might be the beginning of a tag waits for its end, never more than a few characters.
"""

import functools
import re
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from proxy.errors import UpstreamFailed
from proxy.protocol.chat import Reading
from proxy.streaming.allowance import Allowance

Kind = Literal["content", "reasoning"]

_MAX_CAPTURED = 4 * 1024 * 1024  # bytes of markup
_MAX_SPACE = 256  # characters before an opening tag
_encode = msgspec.json.Encoder().encode

# Tokenizers write ｜ and ▁, some hosts turn them into | and _.
_BAR, _LINE = "[｜|]?", "[▁_]"
_CALL_BEGIN = re.compile(f"<{_BAR}tool{_LINE}call{_LINE}begin{_BAR}>")
_CALL_END = re.compile(f"<{_BAR}tool{_LINE}call{_LINE}end{_BAR}>")
_CALLS_END = re.compile(f"<{_BAR}tool{_LINE}calls{_LINE}end{_BAR}>")
_SEPARATOR = re.compile(f"<{_BAR}tool{_LINE}sep{_BAR}>")
_FENCE = re.compile(r"^```(?:json)?\s*\n|\n?```\s*$")
_DSML_END = re.compile("</[｜|]DSML[｜|](?:tool_calls|function_calls)>")
_DSML_CALL = re.compile('<[｜|]DSML[｜|]invoke name="([^"]*)">')
_DSML_CALL_END = re.compile("</[｜|]DSML[｜|]invoke>")
_DSML_PARAMETER = re.compile('<[｜|]DSML[｜|]parameter name="([^"]*)"(?: string="(true|false)")?>')
_DSML_PARAMETER_END = re.compile("</[｜|]DSML[｜|]parameter>")
_DSML_ANY = re.compile(r"</?[｜|]DSML[｜|]\w*(?:\s[^<>]*>|>)?")
_DSML_BEGUN = re.compile(r"</?[｜|]DSML[｜|]\w*(?:\s[^<>]*)?")
_MARKUP = (
    f"(?P<calls><{_BAR}tool{_LINE}calls?{_LINE}begin{_BAR}>)"
    f"|(?P<dsml></?[｜|]DSML[｜|])"
    f"|(?P<end><[｜|]end{_LINE}of{_LINE}sentence[｜|]>)"
)
_BEGINNINGS = ("<tool_calls_begin>", "<tool_call_begin>", "<DSML", "</DSML", "<end_of_sentence>")
_LONGEST = 32  # of a tag, with every bar
_LONGEST_DSML = 256  # with its attributes
_ALIKE = str.maketrans({"｜": None, "|": None, "▁": "_"})


class Call(Struct, frozen=True):
    """A tool call that was found in a text."""

    name: str
    arguments: str


Piece = tuple[Kind, str] | Call


class TextReader:
    """Reads the texts of one choice.

    Attributes:
        passes_content: whether a content without `<` is content as it is, so that nobody need ask.
        passes_thoughts: the same for what the host itself calls reasoning.
    """

    __slots__ = (
        "_allowance",
        "_captured",
        "_close",
        "_held",
        "_held_kind",
        "_is_beginning",
        "_is_thinking",
        "_pattern",
        "_reading",
        "_skips_space",
        "_tail",
        "passes_content",
        "passes_thoughts",
    )

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._is_thinking = reading.begins_in_thought
        self._is_beginning = bool(reading.thought_tags)
        self._skips_space = False
        self._held = ""
        self._held_kind: Kind = "content"
        self._captured: list[str] | None = None
        self._allowance = Allowance(_MAX_CAPTURED)
        self._tail = ""
        self._close = _CALLS_END
        self._pattern = _pattern(reading.thought_tags, looks_for_calls=reading.looks_for_calls)
        self._look()

    @property
    def is_thinking(self) -> bool:
        """Whether a tag is open: all that comes is thinking."""
        return self._is_thinking

    def read(self, text: str, kind: Kind) -> list[Piece]:
        """What a text of the host's is, in order.

        Raises:
            UpstreamFailed: it holds tool calls that cannot be read, or that nobody may make.
        """
        found: list[Piece] = []
        if kind == "reasoning":
            self._is_thinking = False  # the host takes thinking apart itself
        if self._held and self._held_kind != kind and self._captured is None:
            self._tell(found, self._held, self._held_kind)
            self._held = ""
        text, self._held, self._held_kind = self._held + text, "", kind
        at = 0  # slices of the rest, tag by tag, would take quadratic time
        while at < len(text):
            at = self._next(text, at, kind, found) if self._captured is None else self._capture(text, at, found)
        self._look()
        return found

    def close(self, *, is_cut: bool) -> list[Piece]:
        """What is left at the end; `is_cut` where the answer had to stop, so that a call may be half a call.

        Raises:
            UpstreamFailed: as `read`.
        """
        found: list[Piece] = []
        if self._captured is not None:
            found += self._calls("".join(self._captured), is_cut=is_cut)
            self._captured = None
        elif self._held:
            self._tell(found, self._held, self._held_kind)
        self._held = ""
        return found

    def _look(self) -> None:
        is_free = not self._held and self._captured is None
        self.passes_thoughts = is_free and not self._is_thinking
        self.passes_content = is_free and not (self._is_thinking or self._is_beginning or self._skips_space)

    def _next(self, text: str, at: int, kind: Kind, found: list[Piece]) -> int:
        """Tell up to the next tag, and deal with it; where the rest of the text begins."""
        if kind == "content" and self._is_beginning:
            behind = self._begin(text, at)
            if behind is None:
                self._held = text[at:]
                return len(text)
            at = behind
        begin = text.find("<", at)  # of every tag; patterns with alternatives are slow to see that there is none
        match = self._pattern.search(text, begin) if begin >= 0 else None
        while match is not None and match.lastgroup == "shut" and (kind != "content" or not self._is_thinking):
            match = self._pattern.search(text, match.end())  # the end of what was never opened is text
        if match is None:
            kept = len(text) - _held_back(text, at, self._reading)
            self._tell(found, text[at:kept], kind)
            self._held = text[kept:]
            return len(text)
        self._tell(found, text[at : match.start()], kind)
        if match.lastgroup in {"calls", "dsml"}:
            self._captured, self._tail = [], ""
            self._close = _CALLS_END if match.lastgroup == "calls" else _DSML_END
            return match.start()
        if match.lastgroup == "shut":
            self._is_thinking, self._skips_space = False, True
        return match.end()

    def _begin(self, text: str, at: int) -> int | None:
        """Where the content begins: behind its opening tag, or at once; None while it may still begin with one."""
        stripped = text[at:].lstrip()
        begin = len(text) - len(stripped)
        tags = _opening_tags(self._reading) if begin - at <= _MAX_SPACE else []
        for tag in tags:
            if stripped.startswith(tag):
                self._is_beginning, self._is_thinking, self._skips_space = False, True, True
                return begin + len(tag)
            if tag.startswith(stripped):  # also where nothing but white space came
                return None
        self._is_beginning = False
        return at

    def _tell(self, found: list[Piece], text: str, kind: Kind) -> None:
        if self._skips_space:
            text = text.lstrip()
        if not text:
            return
        self._skips_space = False
        found.append(("reasoning" if self._is_thinking else kind, text))

    def _capture(self, text: str, at: int, found: list[Piece]) -> int:
        """Keep markup until its end; where the rest of the text begins."""
        captured: list[str] = self._captured or []
        window = self._tail + text  # a tail is of an earlier text, so this one is at its beginning
        match = self._close.search(window, at)
        if match is None:
            captured.append(text[at:])
            self._captured, self._tail = captured, window[at:][-_LONGEST:]
            if not self._allowance.take(len(text) - at):
                raise _unreadable("is too long")
            return len(text)
        end = match.end() - len(self._tail)
        captured.append(text[at:end])
        self._captured = None
        found += self._calls("".join(captured), is_cut=False)
        self._skips_space = True
        return end

    def _calls(self, markup: str, *, is_cut: bool) -> list[Call]:
        if not self._reading.may_call:
            raise _unreadable("was not asked for")
        calls = _dsml_calls(markup) if _DSML_ANY.match(markup) else _plain_calls(markup, is_cut=is_cut)
        if not calls and not is_cut:
            raise _unreadable("cannot be read")
        return calls


def without_markup(arguments: str) -> str:
    """Arguments of a call without the tags that a parser left in them (row 70)."""
    return _DSML_ANY.sub("", arguments)


def begun_markup(arguments: str) -> int:
    """How many characters at the end of a piece of arguments may be the beginning of such a tag."""
    start = arguments.rfind("<", max(0, len(arguments) - _LONGEST_DSML))
    if start < 0:
        return 0
    tail = arguments[start:]
    plain = tail.translate(_ALIKE)
    is_begun = "<DSML".startswith(plain) or "</DSML".startswith(plain) or _DSML_BEGUN.fullmatch(tail)
    return len(tail) if is_begun else 0


@functools.lru_cache(maxsize=64)  # dialects are few
def _pattern(thought_tags: tuple[str, ...], *, looks_for_calls: bool) -> re.Pattern[str]:
    choices = [_MARKUP] if looks_for_calls else []
    if thought_tags:
        names = "|".join(map(re.escape, thought_tags))
        choices.append(f"(?P<shut></(?:{names})>)")
    return re.compile("|".join(choices) or "(?!)")


def _opening_tags(reading: Reading) -> list[str]:
    return [f"<{name}>" for name in reading.thought_tags]


def _held_back(text: str, at: int, reading: Reading) -> int:
    """How many characters at the end, from `at` on, may be the beginning of a tag."""
    start = text.rfind("<", max(at, len(text) - _LONGEST))
    if start < 0:
        return 0
    tail = text[start:].translate(_ALIKE)
    known = (*_BEGINNINGS, *(f"</{name}>" for name in reading.thought_tags))
    return len(text) - start if any(tag.startswith(tail) for tag in known) else 0


def _plain_calls(markup: str, *, is_cut: bool) -> list[Call]:
    """`<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`, many.

    V3 wrote `function<｜tool▁sep｜>NAME`, and the arguments in a code fence below.
    """
    calls = []
    for piece in _CALL_BEGIN.split(markup)[1:]:
        end = _CALL_END.search(piece) or _CALLS_END.search(piece)
        if end is None and is_cut:
            continue
        body = piece[: end.start()] if end else piece
        parts = [part.strip() for part in _SEPARATOR.split(body)]
        if parts[0] == "function" and len(parts) > 1:
            name, _, arguments = parts[1].partition("\n")
        elif len(parts) > 1:
            name, arguments = parts[0], parts[1]
        else:
            raise _unreadable("cannot be read")
        calls.append(_call(name.strip(), _FENCE.sub("", arguments.strip()).strip()))
    return calls


def _dsml_calls(markup: str) -> list[Call]:
    """`<｜DSML｜invoke name="…"><｜DSML｜parameter name="…" string="true|false">…</｜DSML｜parameter>…`, many."""
    calls = []
    for call, body in _enclosed(markup, _DSML_CALL, _DSML_CALL_END):
        name = call[1]
        parameters = _enclosed(body, _DSML_PARAMETER, _DSML_PARAMETER_END)
        fields = {parameter[1]: _value(text, parameter[2]) for parameter, text in parameters}
        if not fields and body.strip():
            calls.append(_call(name, body.strip()))
        else:
            calls.append(Call(name, _encode(fields).decode()))
    return calls


def _enclosed(markup: str, begin: re.Pattern[str], end: re.Pattern[str]) -> Iterator[tuple[re.Match[str], str]]:
    """Each `begin`, and what stands before the next `end`; one pattern for both would take quadratic time."""
    at = 0
    while (opening := begin.search(markup, at)) and (closing := end.search(markup, opening.end())):
        yield opening, markup[opening.end() : closing.start()]
        at = closing.end()


def _value(text: str, is_text: str | None) -> object:
    if is_text == "true":
        return text
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value


def _call(name: str, arguments: str) -> Call:
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not name or not isinstance(value, dict):
        raise _unreadable("cannot be read")
    return Call(name, arguments or "{}")


def _unreadable(why: str) -> UpstreamFailed:
    return UpstreamFailed(f"The model wrote a tool call as text, which {why}.", code="tool_call_unparsable")
