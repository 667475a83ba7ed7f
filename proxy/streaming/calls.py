"""One tool call while it comes in pieces: which piece belongs to which call, and what it holds (contract R-TOOL)."""

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.protocol import lenient
from proxy.protocol.chat import ToolCall
from proxy.protocol.request import json_type
from proxy.streaming.allowance import Allowance
from proxy.streaming.markup import is_tag, trailing_tag
from proxy.streaming.surrogates import Halves
from proxy.streaming.values import is_given, on_one_line

_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


_EMPTY = len("{}")


class _Custom(Struct, gc=False):
    """The `custom` of a tool call, whole or a piece."""

    name: str | None = None
    input: str | None = None


class Slot:
    """One tool call being received; told once its name is known, or at the end, when it gets its index."""

    __slots__ = (
        "arguments",
        "custom",
        "extra_content",
        "halves",
        "held",
        "id",
        "index",
        "is_told",
        "is_unwanted",
        "key",
        "name",
        "size",
    )

    def __init__(self, call: ToolCall, name: str | None, *, is_unwanted: bool) -> None:
        self.index = -1
        self.is_unwanted = is_unwanted
        self.key = call.index
        self.id = call.id
        self.name = name
        self.arguments: list[str] = []
        self.size = 0  # of the arguments
        self.custom: Raw | UnsetType = UNSET
        self.extra_content: Raw | UnsetType = UNSET  # as it was told
        self.is_told = False
        self.halves = Halves()
        self.held = ""  # what may be a tag at the end

    @property
    def is_cut(self) -> bool:
        """Whether the arguments are JSON that has broken off, as those of a call that reached the limit of tokens."""
        if self.custom is not UNSET or not self.size:
            return False
        try:
            msgspec.json.decode("".join(self.arguments))
        except (msgspec.DecodeError, RecursionError) as error:
            return "truncated" in str(error)
        return False

    def take(self, arguments: str, *, strips_tag: bool) -> str:
        """A piece of the arguments, less what has to wait for the next one: half a character, the tag of row 70."""
        if self.halves.waiting or not arguments.isascii():
            arguments = self.halves.join("arguments", arguments)
        if not strips_tag or not (self.held or "<" in arguments):
            return arguments
        text = self.held + arguments
        end = trailing_tag(text)
        self.held = text[end:]
        return text[:end]

    def take_rest(self) -> str:
        """What still waits when the call has ended; row 70's tag goes where the arguments are JSON without it alone."""
        rest, self.held = self.held + self.halves.take_rest("arguments"), ""
        if not is_tag(rest):
            return rest
        arguments = "".join(self.arguments)
        return "" if is_json(arguments) and not is_json(arguments + rest) else rest


def slot_of(call: ToolCall, name: str | None, arguments: str, slots: list[Slot], rereads: Allowance) -> Slot | None:
    """The call that this piece continues, or None where it begins a new one.

    A piece continues the call of its index, else that of its id, else the last one. A new id alone begins no call, as
    some hosts make one for each piece. A new name does, and a name that comes again behind whole arguments, or with a
    new id where there is no index.
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


def says_nothing(call: ToolCall, name: str | None, arguments: str) -> bool:
    """Whether a piece that would begin a call holds nothing of one."""
    is_odd = is_given(call.custom, "object") or is_given(call.extra_content, "object")
    return not (call.id or name or arguments or is_odd)


def is_repeated(call: ToolCall, name: str | None, arguments: str, slots: list[Slot]) -> bool:
    """Whether a host says a whole call once more under its own id."""
    return (
        bool(call.id)
        and len(arguments) > _EMPTY
        and any(slot.id == call.id and slot.name == name and "".join(slot.arguments) == arguments for slot in slots)
    )


def arguments_of(call: ToolCall) -> str:
    """The arguments in a piece as a text, whatever they came as; `""` where there are none."""
    raw = call.function.arguments if call.function else call.arguments
    if raw is UNSET:
        return ""
    kind = json_type(raw)
    if kind == "string":
        return _string(raw)
    return "" if kind == "null" else bytes(on_one_line(raw)).decode()


def _string(raw: Raw) -> str:
    """May hold halves of surrogate pairs."""
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
    piece = {"input": lenient.sound(given.input or "")}
    return Raw(_encode({"name": lenient.sound(given.name or "")} | piece if is_first else piece))


def _is_complete(slot: Slot, rereads: Allowance) -> bool:
    """Whether the arguments so far are JSON; those that are too long to be read again and again count as begun."""
    if not rereads.take(slot.size):
        return False
    slot.arguments = ["".join(slot.arguments)]
    return is_json(slot.arguments[0])


def is_json(text: str) -> bool:
    """Whether arguments are whole."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
