"""`Draft`: the request for one host while it is being written."""

import re
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Raw, Struct

from tidegate.config.cards import Card
from tidegate.errors import UnsupportedParameter
from tidegate.protocol.request import Fields
from tidegate.protocol.text_calls import TextCalls

Message = dict[str, Raw]

_encode = msgspec.json.Encoder().encode
_IN_A_HEADER = re.compile(r"[\w.:/+=-]{1,100}", re.ASCII)
_MAX_NOTES = 32  # a bound, as callers can send any number of unknown fields

# They may change how fast, how cheap or how well labelled an answer is, not what it may be (Q-DROP).
HINTS = frozenset(
    {
        "metadata",
        "moderation",
        "parallel_tool_calls",  # false is honoured here, see `streaming.choices`
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
# Hints that the contract does not allow to be dropped without a note.
_REPORTED_HINTS = frozenset({"moderation", "prediction", "seed"})
_ASKS_NOTHING = frozenset({b"false", b"0", b"0.0", b"{}", b"[]", b'""'})
_ASKS_NOTHING_OF: Mapping[str, frozenset[bytes]] = {
    "best_of": frozenset({b"1"}),
    "modalities": frozenset({b'["text"]'}),
    "n": frozenset({b"1"}),
    "response_format": frozenset({b'{"type":"text"}'}),
    "temperature": frozenset({b"1", b"1.0"}),
    "top_p": frozenset({b"1", b"1.0"}),
}
# How callers who ask with `functions` say it.
_OF_FUNCTIONS: Mapping[str, str] = {"tools": "functions", "tool_choice": "function_call"}


Note = Callable[[str, object], None]  # see `Draft.note`


def ignore_note(_name: str, _word: object) -> None:
    """A `Note` that does nothing."""


class Draft(Struct):
    """What goes to one host, and what had to be changed; owned by one attempt.

    Attributes:
        fields: the top-level fields but `messages`.
        messages: of a chat request; empty for the other endpoints.
        card: what is known of the model.
        drops_params: whether the caller would rather miss a parameter than the answer.
        is_stream: whether the host is asked for a stream.
        adjusted: what was changed in more than its spelling, for `x-tidegate-adjusted`.
        schema: what the host cannot hold the answer to, so that we must.
        is_thinking: whether the model will think, as far as it can be known.
        asks_functions: whether the tools are the caller's `functions`.
        text_calls: how text is read as tool calls, if the tools are emulated (`emulated_tools`); None: they are not.
        prefix: what has been said of the answer already.
        api_version: the version in Azure's deployment URLs; None elsewhere.
    """

    fields: Fields
    card: Card
    messages: list[Message] = []
    drops_params: bool = False
    is_stream: bool = False
    adjusted: list[str] = []
    schema: Raw | None = None
    is_thinking: bool = False
    asks_functions: bool = False
    text_calls: TextCalls | None = None
    prefix: str = ""
    api_version: str | None = None

    def put(self, name: str, value: object) -> None:
        """Set a field."""
        self.fields[name] = Raw(_encode(value))

    def note(self, name: str, word: object) -> None:
        """Report in `x-tidegate-adjusted`, once and in characters of a header, that `name` was sent as `word`."""
        said = f"{_OF_FUNCTIONS.get(name, name) if self.asks_functions else name}={word}"
        if _IN_A_HEADER.fullmatch(said) is None:
            said = f"other={word}"
        if said not in self.adjusted and len(self.adjusted) < _MAX_NOTES:
            self.adjusted.append(said)

    def note_dropped(self, where: str, names: Iterable[str]) -> None:
        """Report that these fields of the value `where` were dropped."""
        for name in sorted(names):
            self.note(f"{where}.{name}", "dropped")

    def is_default(self, name: str) -> bool:
        """Whether the value of a field is the default, so that dropping it changes nothing."""
        return compact(self.fields[name]) in _ASKS_NOTHING_OF.get(name, _ASKS_NOTHING)

    def leave_out(self, names: Iterable[str]) -> None:
        """Leave out what the host does not have (Q-DROP): hints silently, what changes the result as the caller allows.

        Raises:
            UnsupportedParameter: a field changes the result.
        """
        for name in [name for name in self.fields if name in names]:
            if name in HINTS or self.is_default(name):
                if name in _REPORTED_HINTS and not self.is_default(name):
                    self.note(name, "dropped")
                del self.fields[name]
            else:
                self.refuse(name)

    def refuse(
        self,
        name: str,
        *,
        instead: object = None,
        word: str | None = None,
        why: str = "is not supported with this model",
    ) -> None:
        """Leave `name` out, or send something `instead`, if the caller allows it; it is told the `word` for that.

        Raises:
            UnsupportedParameter: it does not.
        """
        said = _OF_FUNCTIONS.get(name, name) if self.asks_functions else name
        if not self.drops_params:
            raise UnsupportedParameter(f"Unsupported parameter: '{said}' {why}.", param=said)
        if instead is None:
            self.fields.pop(name, None)
        else:
            self.put(name, instead)
        self.note(name, word or "dropped")


def compact(value: Raw) -> bytes:
    """The bytes of a value without white space, to be compared with short literals."""
    return bytes(value).translate(None, b" \t\r\n")
