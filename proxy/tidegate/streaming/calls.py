"""Tool calls that arrive in pieces: which piece belongs to which call, and what the sink receives (contract R-TOOL)."""

import secrets

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tidegate.errors import ToolCallUnparsable
from tidegate.protocol import lenient
from tidegate.protocol.chat import Reading, ToolCall
from tidegate.protocol.request import json_type
from tidegate.streaming.allowance import Allowance
from tidegate.streaming.markup import is_tag, trailing_tag
from tidegate.streaming.sinks import Sink, ToolPiece
from tidegate.streaming.surrogates import SurrogateJoiner
from tidegate.streaming.values import is_given, on_one_line

_MAX_CALLS = 128  # in one choice; a bound on what an upstream can make us keep and look through
_MAX_REREAD = 64 * 1024 * 1024  # bytes of arguments, to see whether they are complete
_EMPTY = len("{}")

_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


class _Custom(Struct, gc=False):
    """The `custom` of a tool call, whole or a piece."""

    name: str | None = None
    input: str | None = None


class CallSlot:
    """One tool call being received. Its first piece is passed on, with its index, once the name is known or at the end.

    Attributes:
        key: the host's index.
        is_told: the first piece was passed on.
        held: the end of the arguments, as it may be a stray closing tag (row 70).
    """

    __slots__ = (
        "arguments",
        "custom",
        "extra_content",
        "held",
        "id",
        "index",
        "is_told",
        "is_unwanted",
        "key",
        "name",
        "size",
        "surrogates",
    )

    def __init__(self, call: ToolCall, name: str | None, *, is_unwanted: bool) -> None:
        self.index = -1
        self.is_unwanted = is_unwanted
        self.key = call.index
        self.id = call.id
        self.name = name
        self.arguments: list[str] = []
        self.size = 0  # characters of the arguments
        self.custom: Raw | UnsetType = UNSET
        self.extra_content: Raw | UnsetType = UNSET
        self.is_told = False
        self.surrogates = SurrogateJoiner()
        self.held = ""

    @property
    def is_cut(self) -> bool:
        """Whether the arguments are truncated JSON, as in a call that reached the token limit."""
        if self.custom is not UNSET or not self.size:
            return False
        try:
            msgspec.json.decode("".join(self.arguments))
        except (msgspec.DecodeError, RecursionError) as error:
            return "truncated" in str(error)
        return False

    def take(self, arguments: str, *, strips_tag: bool) -> str:
        """The next piece of the arguments, without an end that is held back: a high surrogate, or row 70's tag."""
        if self.surrogates.waiting or not arguments.isascii():
            arguments = self.surrogates.join("arguments", arguments)
        if not strips_tag or not (self.held or "<" in arguments):
            return arguments
        text = self.held + arguments
        end = trailing_tag(text)
        self.held = text[end:]
        return text[:end]

    def take_rest(self) -> str:
        """The call has ended: the text that was held back, or nothing if only without it the arguments are JSON."""
        rest, self.held = self.held + self.surrogates.take_rest("arguments"), ""
        if not is_tag(rest):
            return rest
        arguments = "".join(self.arguments)
        return "" if is_json(arguments) and not is_json(arguments + rest) else rest


class CallReader:
    """Reads the tool calls of an answer piece by piece, and passes them to `sink`; one instance per upstream attempt.

    Args:
        to_keep: how many bytes of the answer may be kept; shared with the rest of the answer.
    """

    __slots__ = ("_ids", "_reading", "_rereads", "_sink", "_to_keep")

    def __init__(self, sink: Sink, reading: Reading, to_keep: Allowance) -> None:
        self._sink = sink
        self._reading = reading
        self._to_keep = to_keep
        self._rereads = Allowance(_MAX_REREAD)
        self._ids: set[str] = set()  # of the calls in all choices

    def read(self, call: ToolCall, index: int, slots: list[CallSlot], *, is_whole: bool) -> None:
        """Read a piece of a call in the choice `index`, whose calls so far are `slots`.

        Indexes become dense, id, type and name are passed on once, and arguments are always a string. A piece that
        `is_whole` is a call of its own, whatever its id.

        Raises:
            ToolCallUnparsable: there are too many calls.
            UpstreamFailed: there is too much in them.
        """
        name = call.function.name if call.function else call.name
        arguments = arguments_of(call)
        slot = None if is_whole else slot_of(call, name, arguments, slots, self._rereads)
        if slot is None:
            if is_empty(call, name, arguments) or is_repeated(call, name, arguments, slots):
                return
            slot = self._open(call, name, slots)
        if slot.is_unwanted:
            return
        slot.name = slot.name or name
        arguments = slot.take(arguments, strips_tag=self._reading.repairs_markup)
        self._to_keep.require(len(arguments))
        slot.arguments.append(arguments)
        slot.size += len(arguments)
        is_function = slot.is_told and slot.custom is UNSET
        custom = UNSET if is_function else custom_of(call.custom, is_first=not slot.is_told)
        extra = self._extra_content_of(call, slot)
        if not slot.is_told:
            slot.custom = custom
            if slot.name or custom is not UNSET:
                self._begin(slot, index, slots)
        elif custom is not UNSET or (arguments and slot.custom is UNSET) or extra is not UNSET:
            self._sink.tool(index, ToolPiece(slot.index, arguments, custom=custom, extra_content=extra))

    def close(self, index: int, slots: list[CallSlot]) -> None:
        """The choice has ended: pass on what was held back of its calls."""
        for slot in slots:
            if slot.is_unwanted:
                continue
            rest = slot.take_rest()
            slot.arguments.append(rest)
            if not slot.is_told:
                self._begin(slot, index, slots)
            elif rest and slot.custom is UNSET:
                self._sink.tool(index, ToolPiece(slot.index, rest))

    def _open(self, call: ToolCall, name: str | None, slots: list[CallSlot]) -> CallSlot:
        if len(slots) >= _MAX_CALLS:
            raise ToolCallUnparsable(f"The model called more than {_MAX_CALLS} tools in one answer.")
        slot = CallSlot(call, name, is_unwanted=self._reading.one_call and bool(slots))
        slots.append(slot)
        return slot

    def _begin(self, slot: CallSlot, index: int, slots: list[CallSlot]) -> None:
        """Pass on the first piece of a call: with its index, an id that is unique in the answer, and its name."""
        slot.index = sum(other.is_told for other in slots)
        is_usable = slot.id and slot.id not in self._ids and not self._reading.numbers_calls
        call_id = slot.id if slot.id and is_usable else new_call_id()
        self._ids.add(call_id)
        slot.is_told = True
        piece = ToolPiece(
            slot.index, "".join(slot.arguments), call_id, slot.name or "", slot.custom, slot.extra_content
        )
        self._sink.tool(index, piece)

    def _extra_content_of(self, call: ToolCall, slot: CallSlot) -> Raw | UnsetType:
        """The call's `extra_content` where this piece is the first that holds it."""
        if slot.extra_content is not UNSET or not is_given(call.extra_content, "object"):
            return UNSET
        slot.extra_content = on_one_line(call.extra_content)
        self._to_keep.require(len(bytes(slot.extra_content)))
        return slot.extra_content


def new_call_id() -> str:
    """An id for a call that has none which could be passed on."""
    return f"call_{secrets.token_hex(12)}"


def slot_of(
    call: ToolCall, name: str | None, arguments: str, slots: list[CallSlot], rereads: Allowance
) -> CallSlot | None:
    """The call that this piece continues; None where it begins a new one.

    A piece continues the call of its index, else that of its id, else the last one. A new id alone begins no call, as
    some hosts make an id for each piece. A new name does; so does the same name after complete arguments, or with a new
    id where the host sends no index.
    """
    if not slots:
        return None
    of_id = next((slot for slot in reversed(slots) if slot.id == call.id), None) if call.id else None
    of_index = None
    if call.index is not None:
        of_index = next((slot for slot in reversed(slots) if slot.key == call.index), None)
        if of_index is None and (name or (call.id and of_id is None)):
            return None
    slot = of_index or of_id or slots[-1]
    if not name or (call.id and slot.id == call.id):
        return slot
    if (slot.name and name != slot.name) or (call.id and call.index is None):
        return None
    return None if (arguments or call.id) and _is_complete(slot, rereads) else slot


def is_empty(call: ToolCall, name: str | None, arguments: str) -> bool:
    """Whether a piece that would begin a call has no id, name, arguments or other content."""
    has_object = is_given(call.custom, "object") or is_given(call.extra_content, "object")
    return not (call.id or name or arguments or has_object)


def is_repeated(call: ToolCall, name: str | None, arguments: str, slots: list[CallSlot]) -> bool:
    """Whether a host sends a whole call once more, with the same id."""
    return (
        bool(call.id)
        and len(arguments) > _EMPTY
        and any(
            slot.id == call.id
            and slot.name == name
            and slot.size == len(arguments)
            and "".join(slot.arguments) == arguments
            for slot in slots
        )
    )


def arguments_of(call: ToolCall) -> str:
    """The arguments in a piece as a string, whatever JSON type the host sent; `""` where there are none."""
    raw = call.function.arguments if call.function else call.arguments
    if raw is UNSET:
        return ""
    kind = json_type(raw)
    if kind == "string":
        return _string(raw)
    return "" if kind == "null" else bytes(on_one_line(raw)).decode()


def _string(raw: Raw) -> str:
    """The value of a JSON string, which may hold lone surrogates."""
    try:
        return _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return str(lenient.loads(bytes(raw)))


def custom_of(value: Raw | UnsetType, *, is_first: bool) -> Raw | UnsetType:
    """The `custom` of a piece in OpenAI's form: with its name in the first one only; unset where it says nothing."""
    if not is_given(value, "object"):
        return UNSET
    given = lenient.convert(lenient.loads(bytes(on_one_line(value))), _Custom) or _Custom()
    if given.name is None and given.input is None:
        return UNSET
    piece = {"input": lenient.valid_unicode(given.input or "")}
    return Raw(_encode({"name": lenient.valid_unicode(given.name or "")} | piece if is_first else piece))


def _is_complete(slot: CallSlot, rereads: Allowance) -> bool:
    """Whether the arguments so far are JSON; those that are too long to be read again and again count as begun."""
    if not rereads.take(slot.size):
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
