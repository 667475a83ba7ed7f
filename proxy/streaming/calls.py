"""One tool call while it comes in pieces: which piece belongs to which call, and what it holds (contract R-TOOL)."""

import json

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.protocol.chat import ToolCall
from proxy.protocol.request import json_type
from proxy.streaming.allowance import Allowance
from proxy.streaming.markup import begun_markup, without_markup
from proxy.streaming.values import is_given, on_one_line

_text = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


class _Custom(Struct, gc=False):
    """The `custom` of a tool call, whole or a piece."""

    name: str | None = None
    input: str | None = None


class Slot:
    """One tool call being received; told once its name is known, or at the end, when it gets its index."""

    __slots__ = (
        "arguments",
        "custom",
        "had_markup",
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
        self.is_told = False
        self.held = ""
        self.had_markup = False

    def take(self, arguments: str) -> str:
        """Row 70: a piece of the arguments without tags; what may be the beginning of one waits for its end."""
        if not self.held and "<" not in arguments:
            return arguments
        text = self.held + arguments
        end = len(text) - begun_markup(text)
        self.held = text[end:]
        return self._strip(text[:end])

    def take_rest(self) -> str:
        """What still waits when the call has ended."""
        rest, self.held = self.held, ""
        return self._strip(rest)

    def _strip(self, text: str) -> str:
        stripped = without_markup(text)
        self.had_markup = self.had_markup or stripped != text
        return stripped


def slot_of(call: ToolCall, name: str | None, arguments: str, slots: list[Slot], rereads: Allowance) -> Slot | None:
    """The call that this piece continues, or None where it begins a new one."""
    if call.index is None:
        slot = slots[-1] if slots else None
    else:
        slot = next((slot for slot in reversed(slots) if slot.key == call.index), None)
    if slot is None or (call.id and slot.id and call.id != slot.id):
        return None
    if name and not call.id:
        is_other = bool(slot.name) and name != slot.name
        if is_other or (arguments and _is_complete(slot, rereads)):
            return None
    return slot


def arguments_of(call: ToolCall) -> str:
    """The arguments in a piece as a text, whatever they came as; `""` where there are none."""
    raw = call.function.arguments if call.function else UNSET
    if raw is UNSET:
        return ""
    kind = json_type(raw)
    if kind == "string":
        return _string(raw)
    return "" if kind == "null" else bytes(on_one_line(raw)).decode()


def _string(raw: Raw) -> str:
    try:
        return _text.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = json.loads(bytes(raw).decode("utf-8", "replace"), strict=False)
        return str(value).encode("utf-8", "replace").decode()


def custom_of(value: Raw | UnsetType, *, is_first: bool) -> Raw | UnsetType:
    """The `custom` of a piece in OpenAI's form: with its name in the first one only."""
    if not is_given(value, "object"):
        return UNSET
    given = msgspec.json.decode(on_one_line(value), type=_Custom)
    piece = {"input": given.input or ""}
    return Raw(_encode({"name": given.name or ""} | piece if is_first else piece))


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
    except msgspec.DecodeError:
        return False
    return True
