"""Reads tool calls that a host sends as text, in the markup of DeepSeek's models: V3's tokens, and DSML since V3.2.

A model may quote markup, and a client would execute a quote that became a call. So text becomes calls only if all of
these conditions hold:

- the dialect or the model's card (`config.cards`) says that markup may leak (`HostAnswerFormat.leaks_markup`);
- tools were offered, may be called, and include every tool that the block names;
- the host sent no tool call itself;
- the block begins at the start of a line outside a code fence, is complete, and only white space follows it.

Other text is passed on unchanged, byte for byte. Reasoning is never searched for calls.
"""

import re
from typing import NamedTuple

import msgspec
from msgspec import Raw, UnsetType

from tidegate.protocol.raw import as_list, as_object, as_text

_MAX_HELD = 64 * 1024  # characters of a block that is held back
_MAX_BLOCKS = 16  # blocks that turn out to be text; later ones are not read as blocks, which limits the time
_MAX_LINE = 512  # characters of a line that may be a code fence
_LONGEST = 40  # characters of the longest tag, with all bars
_encode = msgspec.json.Encoder().encode

# The tokens contain the characters ｜ and ▁; some hosts replace them by | and _, or leave the bars out.
_BAR, _LINE = "[｜|]?", "[▁_]"
_DSML = "[｜|]DSML[｜|]"
_OPENING = re.compile(
    f"(?P<plain><{_BAR}tool{_LINE}calls{_LINE}begin{_BAR}>)|<{_DSML}(?P<dsml>tool_calls|function_calls)>"
)
# the opening tags as `_TO_PLAIN` leaves them
_OPENINGS = ("<tool_calls_begin>", "<DSMLtool_calls>", "<DSMLfunction_calls>")
_PLAIN_END = re.compile(f"<{_BAR}tool{_LINE}calls{_LINE}end{_BAR}>")
_CALL = re.compile(f"\\s*<{_BAR}tool{_LINE}call{_LINE}begin{_BAR}>")
_CALL_END = re.compile(f"<{_BAR}tool{_LINE}call{_LINE}end{_BAR}>")
_SEPARATOR = re.compile(f"<{_BAR}tool{_LINE}sep{_BAR}>")
_FENCED = re.compile(r"```(?:json)?\s*\n(?P<arguments>.*)\n?```", re.DOTALL)
_DSML_ENDS = {name: re.compile(f"</{_DSML}{name}>") for name in ("tool_calls", "function_calls")}
_INVOKE = re.compile(f'\\s*<{_DSML}invoke name="(?P<name>[^"]*)">')
_INVOKE_END = re.compile(f"</{_DSML}invoke>")
_PARAMETER = re.compile(f'\\s*<{_DSML}parameter name="(?P<name>[^"]*)"(?: string="(?P<is_text>true|false)")?>')
_PARAMETER_END = re.compile(f"</{_DSML}parameter>")
_PARAMETER_TAG = "</DSMLparameter>"
# A host may leave this token after a block. Like the block, it is not part of the text.
_END_OF_SENTENCE = "<end_of_sentence>"
_TO_PLAIN = str.maketrans({"｜": None, "|": None, "▁": "_"})
_FENCE = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)\n?")
_FENCE_BEGUN = re.compile(r" {0,3}(?:[`~].*)?", re.DOTALL)


class MarkupCall(NamedTuple):
    """A tool call found in text; `arguments` is a JSON object, encoded."""

    name: str
    arguments: str


class MarkupReader:
    """Reads the content of one choice, and holds back text that may be a block of calls at the end of the content.

    Args:
        tools: the offered tools in OpenAI's form.

    Attributes:
        is_inside_line: the next characters, up to a line feed, are text and need not be passed to `read`.
    """

    __slots__ = ("_blocks", "_fence", "_held", "_line", "_searched", "_tools", "is_inside_line")

    def __init__(self, tools: Raw | UnsetType) -> None:
        self._tools = tools
        self._held = ""  # the text that is held back; it begins at the start of a line
        self._searched = 0  # how many characters of `_held`, from its start, hold no end of the block
        self._blocks = 0  # the number of blocks that turned out to be text
        self._fence = ""  # the fence that opened the code block, if one is open
        self._line = ""  # of a line that may be a fence: the part that was read and passed on
        self.is_inside_line = False

    def read(self, text: str) -> str:
        """Read the next fragment of the content; return what is certainly text of the held text and the fragment."""
        if self.is_inside_line and "\n" not in text:
            return text
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text):
            if not (self.is_inside_line or self._line or self._fence) and self._may_be_block(text, at):
                self._held = text[at:]
                return text[:at]
            self._searched = 0
            at = self._pass_line(text, at)
        return text

    def close(self, *, may_convert: bool) -> tuple[str, list[MarkupCall]]:
        """Return what was held back at the end of the content: as text, or as calls.

        Args:
            may_convert: text may become calls; then it does if all conditions hold (see the module's docstring).
        """
        held, self._held = self._held, ""
        calls = self._calls(held) if held and may_convert else None
        return ("", calls) if calls else (held, [])

    def _pass_line(self, text: str, at: int) -> int:
        """Read from `at` to the end of the line or of the text; return the position where the next line begins."""
        end = text.find("\n", at) + 1
        piece = text[at:end] if end else text[at:]
        if self.is_inside_line:
            self.is_inside_line = not end
            return end or len(text)
        self._line += piece
        if end or len(self._line) > _MAX_LINE or _FENCE_BEGUN.fullmatch(self._line) is None:
            self._end_line()
            self.is_inside_line = not end
        return end or len(text)

    def _end_line(self) -> None:
        """Read a complete line: if it is a code fence (CommonMark 4.5), it opens or closes a code block."""
        line, self._line = self._line, ""
        if (fence := _FENCE.match(line)) is None:
            return
        mark, info = fence["mark"], fence["info"]
        if not self._fence:
            self._fence = "" if mark[0] == "`" and "`" in info else mark
        elif mark.startswith(self._fence) and not info.strip():
            self._fence = ""

    def _may_be_block(self, text: str, at: int) -> bool:
        """Whether the text from `at`, the start of a line, may still be a block at the end of the answer."""
        if self._blocks >= _MAX_BLOCKS or text[at] != "<":
            return False
        opening = _OPENING.match(text, at)
        if opening is None:
            begun = text[at : at + _LONGEST].translate(_TO_PLAIN)
            return len(text) - at < _LONGEST and any(tag.startswith(begun) for tag in _OPENINGS)
        closing = _closing(opening).search(text, max(opening.end(), at + self._searched))
        if closing is None:
            self._searched = max(0, len(text) - at - _LONGEST)
            may_be = len(text) - at <= _MAX_HELD
        else:
            self._searched = closing.start() - at
            may_be = len(text) - at <= _MAX_HELD and _may_be_blank(text[closing.end() :])
        self._blocks += not may_be
        return may_be

    def _calls(self, block: str) -> list[MarkupCall] | None:
        opening = _OPENING.match(block)
        closing = None if opening is None else _closing(opening).search(block, opening.end())
        if opening is None or closing is None:
            return None
        if block[closing.end() :].strip().translate(_TO_PLAIN) not in {"", _END_OF_SENTENCE}:
            return None
        body = block[opening.end() : closing.start()]
        calls = _plain_calls(body) if opening["plain"] else _dsml_calls(body)
        return calls if calls and {call.name for call in calls} <= names_of(self._tools) else None


def names_of(tools: Raw | UnsetType) -> set[str]:
    """Return the names of the functions among the offered tools."""
    given = [] if isinstance(tools, UnsetType) else as_list(tools)
    functions = [as_object(as_object(tool).get("function")) for tool in given]
    return {name for function in functions if (name := as_text(function.get("name")))}


def trailing_tag(arguments: str) -> int:
    """Return where a closing parameter tag, or its beginning, starts at the end; the text's length if there is none."""
    start = arguments.rfind("<")
    if (
        start < 0
        or len(arguments) - start > _LONGEST
        or not _PARAMETER_TAG.startswith(arguments[start:].rstrip().translate(_TO_PLAIN))
    ):
        return len(arguments)
    return start


def is_tag(tail: str) -> bool:
    """Whether the end of arguments is a closing parameter tag, with or without its last bracket."""
    return len(tail.rstrip().translate(_TO_PLAIN)) >= len(_PARAMETER_TAG) - 1


def _closing(opening: re.Match[str]) -> re.Pattern[str]:
    """Return the pattern of the tag that closes the block."""
    return _PLAIN_END if opening["plain"] else _DSML_ENDS[opening["dsml"]]


def _may_be_blank(rest: str) -> bool:
    """Whether only white space, and the end-of-sentence token or its beginning, follows a block so far."""
    plain = rest.strip()
    return not plain or (len(plain) < _LONGEST and _END_OF_SENTENCE.startswith(plain.translate(_TO_PLAIN)))


def _plain_calls(body: str) -> list[MarkupCall] | None:
    """Read the calls in a block of V3's tokens; None if the body holds anything else.

    The form is `<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`, repeated. The first V3 wrote
    `function<｜tool▁sep｜>NAME`, and the arguments in a code fence on the next lines.
    """
    calls, at = [], 0
    while (opening := _CALL.match(body, at)) and (closing := _CALL_END.search(body, opening.end())):
        kind, *rest = (part.strip() for part in _SEPARATOR.split(body[opening.end() : closing.start()]))
        name, arguments = kind, "".join(rest)
        if kind == "function":
            name, _, arguments = arguments.partition("\n")
        fenced = _FENCED.fullmatch(arguments.strip())
        call = _call(name.strip(), fenced["arguments"] if fenced else arguments)
        if call is None or len(rest) != 1:
            return None
        calls.append(call)
        at = closing.end()
    return None if body[at:].strip() else calls


def _dsml_calls(body: str) -> list[MarkupCall] | None:
    """Read the calls in a block of DSML; None if the body holds anything else.

    The form is `<｜DSML｜invoke name="…">…</｜DSML｜invoke>`, repeated.
    """
    calls, at = [], 0
    while (opening := _INVOKE.match(body, at)) and (closing := _INVOKE_END.search(body, opening.end())):
        call = _dsml_call(opening["name"], body[opening.end() : closing.start()])
        if call is None:
            return None
        calls.append(call)
        at = closing.end()
    return None if body[at:].strip() else calls


def _dsml_call(name: str, body: str) -> MarkupCall | None:
    """Read one call of DSML; None if its body is neither parameters nor a JSON object.

    A parameter has the form `<｜DSML｜parameter name="…" string="true|false">…</｜DSML｜parameter>`.
    """
    fields: dict[str, object] = {}
    at = 0
    while (opening := _PARAMETER.match(body, at)) and (closing := _PARAMETER_END.search(body, opening.end())):
        fields[opening["name"]] = _value(body[opening.end() : closing.start()], opening["is_text"])
        at = closing.end()
    rest = body[at:].strip()
    if rest:
        return None if fields else _call(name, rest)
    return MarkupCall(name, _encode(fields).decode()) if name else None


def _value(text: str, is_text: str | None) -> object:
    if is_text == "true":
        return text
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value


def _call(name: str, arguments: str) -> MarkupCall | None:
    text = arguments.strip() or "{}"
    try:
        is_object = isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, RecursionError):
        return None
    return MarkupCall(name, text) if name and is_object else None
