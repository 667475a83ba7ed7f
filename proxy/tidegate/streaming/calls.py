"""Assembles tool calls that arrive in fragments: which fragment belongs to which call (contract R-TOOL)."""

import secrets

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tidegate.errors import ToolCallUnparsable
from tidegate.protocol import lenient
from tidegate.protocol.chat import HostAnswerFormat, ToolCall
from tidegate.protocol.request import json_type
from tidegate.streaming.allowance import Allowance
from tidegate.streaming.markup import is_tag, trailing_tag
from tidegate.streaming.sinks import Sink, ToolPiece
from tidegate.streaming.surrogates import SurrogateJoiner
from tidegate.streaming.values import is_given, on_one_line

_MAX_CALLS = 128  # in one choice; limits the memory and the time of searches
_MAX_REREAD = 64 * 1024 * 1024  # bytes of arguments that are parsed to see whether a call is complete
_EMPTY_SIZE = len("{}")  # characters of arguments without any fields

_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


class _Custom(Struct, gc=False):
    """The `custom` of a tool call, complete or a fragment."""

    name: str | None = None
    input: str | None = None


class CallSlot:
    """One tool call that is being received.

    Its first fragment is passed on when the name is known, or at the end of the choice. Only then it gets its index.

    Attributes:
        host_index: the host's index of the call.
        index: the index that the sink receives; -1 before the first fragment was passed on.
        has_begun: the first fragment was passed on.
        is_ignored: the call is dropped, as only the first call is passed on (`HostAnswerFormat.one_call`).
        arguments: the fragments of the arguments so far, without `held`.
        size: the number of characters in `arguments`.
        held: the end of the arguments that is held back, as it may be a stray closing tag (row 70).
    """

    __slots__ = (
        "arguments",
        "custom",
        "extra_content",
        "has_begun",
        "held",
        "host_index",
        "id",
        "index",
        "is_ignored",
        "name",
        "size",
        "surrogates",
    )

    def __init__(self, call: ToolCall, name: str | None, *, is_ignored: bool) -> None:
        self.index = -1
        self.is_ignored = is_ignored
        self.host_index = call.index
        self.id = call.id
        self.name = name
        self.arguments: list[str] = []
        self.size = 0
        self.custom: Raw | UnsetType = UNSET
        self.extra_content: Raw | UnsetType = UNSET
        self.has_begun = False
        self.surrogates = SurrogateJoiner()
        self.held = ""

    @property
    def is_cut(self) -> bool:
        """Whether the arguments are truncated JSON, as in a call that was cut at the token limit."""
        if self.custom is not UNSET or not self.size:
            return False
        try:
            msgspec.json.decode("".join(self.arguments))
        except (msgspec.DecodeError, RecursionError) as error:
            return "truncated" in str(error)
        return False

    def take(self, arguments: str, *, strips_tag: bool) -> str:
        """Return the next fragment of the arguments without the end that is held back.

        Held back are a high surrogate and, if `strips_tag`, an end that may be a stray closing tag (row 70).
        """
        if self.surrogates.waiting or not arguments.isascii():
            arguments = self.surrogates.join("arguments", arguments)
        if not strips_tag or not (self.held or "<" in arguments):
            return arguments
        text = self.held + arguments
        end = trailing_tag(text)
        self.held = text[end:]
        return text[:end]

    def take_rest(self) -> str:
        """Return the text that was held back, as the call has ended; nothing if it is a stray closing tag.

        It is one if the arguments are JSON without it and are not JSON with it.
        """
        rest, self.held = self.held + self.surrogates.take_rest("arguments"), ""
        if not is_tag(rest):
            return rest
        arguments = "".join(self.arguments)
        return "" if is_json(arguments) and not is_json(arguments + rest) else rest


class CallReader:
    """Reads the fragments of an answer's tool calls and passes calls on to `sink`; one instance per upstream attempt.

    Args:
        sink: receives the calls.
        answer_format: how the answer is read.
        allowance: the number of bytes that may be kept; shared with the rest of the answer.
    """

    __slots__ = ("_allowance", "_answer_format", "_ids", "_reread_allowance", "_sink")

    def __init__(self, sink: Sink, answer_format: HostAnswerFormat, allowance: Allowance) -> None:
        self._sink = sink
        self._answer_format = answer_format
        self._allowance = allowance
        self._reread_allowance = Allowance(_MAX_REREAD)
        self._ids: set[str] = set()  # of the calls in all choices

    def read(self, call: ToolCall, index: int, slots: list[CallSlot], *, is_whole: bool) -> None:
        """Read a fragment of a call.

        The sink receives dense indexes, the id and the name of a call once, and arguments that are always a string.

        Args:
            call: the fragment.
            index: the index of the choice.
            slots: the calls of the choice so far; a new call is appended.
            is_whole: the fragment is a complete call, whatever its id.

        Raises:
            ToolCallUnparsable: there are too many calls.
            UpstreamFailed: the calls are too large.
        """
        name = call.function.name if call.function else call.name
        arguments = arguments_of(call)
        slot = None if is_whole else slot_of(call, name, arguments, slots, self._reread_allowance)
        if slot is None:
            if is_empty(call, name, arguments) or is_repeated(call, name, arguments, slots):
                return
            slot = self._open(call, name, slots)
        if slot.is_ignored:
            return
        slot.name = slot.name or name
        arguments = slot.take(arguments, strips_tag=self._answer_format.leaks_markup)
        self._allowance.require(len(arguments))
        slot.arguments.append(arguments)
        slot.size += len(arguments)
        is_function = slot.has_begun and slot.custom is UNSET
        custom = UNSET if is_function else custom_of(call.custom, is_first=not slot.has_begun)
        extra = self._extra_content_of(call, slot)
        if not slot.has_begun:
            slot.custom = custom
            if slot.name or custom is not UNSET:
                self._begin(slot, index, slots)
        elif custom is not UNSET or (arguments and slot.custom is UNSET) or extra is not UNSET:
            self._sink.tool(index, ToolPiece(slot.index, arguments, custom=custom, extra_content=extra))

    def close(self, index: int, slots: list[CallSlot]) -> None:
        """Pass on what was held back of the calls of a choice, as the choice has ended."""
        for slot in slots:
            if slot.is_ignored:
                continue
            rest = slot.take_rest()
            slot.arguments.append(rest)
            if not slot.has_begun:
                self._begin(slot, index, slots)
            elif rest and slot.custom is UNSET:
                self._sink.tool(index, ToolPiece(slot.index, rest))

    def _open(self, call: ToolCall, name: str | None, slots: list[CallSlot]) -> CallSlot:
        if len(slots) >= _MAX_CALLS:
            raise ToolCallUnparsable(f"The model called more than {_MAX_CALLS} tools in one answer.")
        slot = CallSlot(call, name, is_ignored=self._answer_format.one_call and bool(slots))
        slots.append(slot)
        return slot

    def _begin(self, slot: CallSlot, index: int, slots: list[CallSlot]) -> None:
        """Pass on the first fragment of a call: with its index, an id that is unique in the answer, and its name."""
        slot.index = sum(other.has_begun for other in slots)
        is_usable = slot.id and slot.id not in self._ids and not self._answer_format.has_positional_call_ids
        call_id = slot.id if slot.id and is_usable else new_call_id()
        self._ids.add(call_id)
        slot.has_begun = True
        piece = ToolPiece(
            slot.index, "".join(slot.arguments), call_id, slot.name or "", slot.custom, slot.extra_content
        )
        self._sink.tool(index, piece)

    def _extra_content_of(self, call: ToolCall, slot: CallSlot) -> Raw | UnsetType:
        """Return the call's `extra_content` if this fragment is the first that holds it."""
        if slot.extra_content is not UNSET or not is_given(call.extra_content, "object"):
            return UNSET
        slot.extra_content = on_one_line(call.extra_content)
        self._allowance.require(len(bytes(slot.extra_content)))
        return slot.extra_content


def new_call_id() -> str:
    """Make an id for a call, if the host sent none that can be passed on."""
    return f"call_{secrets.token_hex(12)}"


def slot_of(
    call: ToolCall, name: str | None, arguments: str, slots: list[CallSlot], reread_allowance: Allowance
) -> CallSlot | None:
    """Return the call that this fragment continues; None if it begins a new one.

    A fragment continues the call with its index, else the call with its id, else the last call. A new id alone does not
    begin a call, as some hosts make an id for each fragment. A new name does. A fragment with the same name begins a
    new call in two cases: the arguments so far are complete, or its id is new and the host sends no index.
    """
    if not slots:
        return None
    same_id = next((slot for slot in reversed(slots) if slot.id == call.id), None) if call.id else None
    same_index = None
    if call.index is not None:
        same_index = next((slot for slot in reversed(slots) if slot.host_index == call.index), None)
        if same_index is None and (name or (call.id and same_id is None)):
            return None
    slot = same_index or same_id or slots[-1]
    if not name or (call.id and slot.id == call.id):
        return slot
    if (slot.name and name != slot.name) or (call.id and call.index is None):
        return None
    return None if (arguments or call.id) and _is_complete(slot, reread_allowance) else slot


def is_empty(call: ToolCall, name: str | None, arguments: str) -> bool:
    """Whether a fragment that would begin a call has no id, name, arguments or other content."""
    has_object = is_given(call.custom, "object") or is_given(call.extra_content, "object")
    return not (call.id or name or arguments or has_object)


def is_repeated(call: ToolCall, name: str | None, arguments: str, slots: list[CallSlot]) -> bool:
    """Whether the host repeats a complete call, with the same id, name and arguments, which are not empty."""
    return (
        bool(call.id)
        and len(arguments) > _EMPTY_SIZE
        and any(
            slot.id == call.id
            and slot.name == name
            and slot.size == len(arguments)
            and "".join(slot.arguments) == arguments
            for slot in slots
        )
    )


def arguments_of(call: ToolCall) -> str:
    """Return the arguments in a fragment as a string, whatever JSON type the host sent; empty if there are none."""
    raw = call.function.arguments if call.function else call.arguments
    if raw is UNSET:
        return ""
    kind = json_type(raw)
    if kind == "string":
        return _string(raw)
    return "" if kind == "null" else bytes(on_one_line(raw)).decode()


def _string(raw: Raw) -> str:
    """Decode a JSON string that may hold lone surrogates."""
    try:
        return _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return str(lenient.loads(bytes(raw)))


def custom_of(value: Raw | UnsetType, *, is_first: bool) -> Raw | UnsetType:
    """Return the `custom` of a fragment in OpenAI's form; unset if it has neither name nor input.

    Only the first fragment of a call has the name.
    """
    if not is_given(value, "object"):
        return UNSET
    given = lenient.convert(lenient.loads(bytes(on_one_line(value))), _Custom) or _Custom()
    if given.name is None and given.input is None:
        return UNSET
    piece = {"input": lenient.valid_unicode(given.input or "")}
    return Raw(_encode({"name": lenient.valid_unicode(given.name or "")} | piece if is_first else piece))


def _is_complete(slot: CallSlot, reread_allowance: Allowance) -> bool:
    """Whether the arguments so far are JSON; False once too many bytes were parsed for this (`_MAX_REREAD`)."""
    if not reread_allowance.take(slot.size):
        return False
    slot.arguments = ["".join(slot.arguments)]
    return is_json(slot.arguments[0])


def is_json(text: str) -> bool:
    """Whether arguments are complete JSON."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
