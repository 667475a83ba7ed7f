"""`RequestDraft`: the request for one host while it is being built."""

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
_HEADER_SAFE = re.compile(r"[\w.:/+=-]{1,100}", re.ASCII)
_MAX_NOTES = 32  # a bound, as callers can send any number of unknown fields

# Fields that may change the speed, the price or the labels of an answer, but not its content (Q-DROP).
HINTS = frozenset(
    {
        "metadata",
        "moderation",
        "parallel_tool_calls",  # Tidegate itself honours false, see `streaming.choices`
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
_DEFAULTS = frozenset({b"false", b"0", b"0.0", b"{}", b"[]", b'""'})
_DEFAULTS_OF: Mapping[str, frozenset[bytes]] = {
    "best_of": frozenset({b"1"}),
    "modalities": frozenset({b'["text"]'}),
    "n": frozenset({b"1"}),
    "response_format": frozenset({b'{"type":"text"}'}),
    "temperature": frozenset({b"1", b"1.0"}),
    "top_p": frozenset({b"1", b"1.0"}),
}
# The legacy names of these fields, for callers that send `functions`.
_LEGACY_NAMES: Mapping[str, str] = {"tools": "functions", "tool_choice": "function_call"}


Note = Callable[[str, object], None]  # the signature of `RequestDraft.note`


def ignore_note(_name: str, _word: object) -> None:
    """A `Note` that does nothing."""


class RequestDraft(Struct):
    """The request to one host and the list of what was changed in it; owned by one attempt.

    Attributes:
        fields: the top-level fields; the adapted `messages` are put back into them at the end.
        messages: the adapted messages of a chat request; empty for the other endpoints.
        card: the known facts about the model.
        drops_params: whether the caller allows unsupported parameters to be dropped.
        is_stream: whether the host is asked for a stream.
        adjusted: the changes that `x-tidegate-adjusted` reports; a change of spelling only is not reported.
        schema: the schema that the pipeline validates the answer against, as the host cannot enforce it; None: there is
            no such schema.
        is_thinking: whether the model will think, as far as this is known.
        uses_functions: whether the caller sent its tools in the legacy field `functions`.
        text_calls: how text is read as tool calls, if the tools are emulated (`emulated_tools`); None: they are not.
        prefix: the beginning of the answer, if an earlier host sent it before it failed; empty for a new answer.
        api_version: the API version in Azure's deployment URLs; None for other URLs.
    """

    fields: Fields
    card: Card
    messages: list[Message] = []
    drops_params: bool = False
    is_stream: bool = False
    adjusted: list[str] = []
    schema: Raw | None = None
    is_thinking: bool = False
    uses_functions: bool = False
    text_calls: TextCalls | None = None
    prefix: str = ""
    api_version: str | None = None

    def put(self, name: str, value: object) -> None:
        """Set a field."""
        self.fields[name] = Raw(_encode(value))

    def note(self, name: str, change: object) -> None:
        """Report `name=change` in `x-tidegate-adjusted`; `change` is the new value of `name`, or what was done to it.

        The same report is added once. If it has characters that do not belong in a header, `name` becomes `other`.
        """
        report = f"{_LEGACY_NAMES.get(name, name) if self.uses_functions else name}={change}"
        if _HEADER_SAFE.fullmatch(report) is None:
            report = f"other={change}"
        if report not in self.adjusted and len(self.adjusted) < _MAX_NOTES:
            self.adjusted.append(report)

    def note_dropped(self, where: str, names: Iterable[str]) -> None:
        """Report that the fields `names` of the value `where` were dropped."""
        for name in sorted(names):
            self.note(f"{where}.{name}", "dropped")

    def is_default(self, name: str) -> bool:
        """Return whether the value of a field is the default, so that dropping it changes nothing."""
        return compact(self.fields[name]) in _DEFAULTS_OF.get(name, _DEFAULTS)

    def leave_out(self, names: Iterable[str]) -> None:
        """Leave out the fields `names`, which the host does not support (Q-DROP).

        Hints and default values are dropped without a report, except the hints in `_REPORTED_HINTS`. Fields that change
        the result are dropped only if the caller allows that.

        Raises:
            UnsupportedParameter: a field changes the result, and the caller does not allow dropping it.
        """
        for name in [name for name in self.fields if name in names]:
            if name in HINTS or self.is_default(name):
                if name in _REPORTED_HINTS and not self.is_default(name):
                    self.note(name, "dropped")
                del self.fields[name]
            else:
                self.drop_or_refuse(name)

    def drop_or_refuse(
        self,
        name: str,
        *,
        instead: object = None,
        report: str | None = None,
        why: str = "is not supported with this model",
    ) -> None:
        """Leave `name` out or replace its value if the caller allows that (`drops_params`), else raise.

        Args:
            name: the field.
            instead: the value to send in place of the caller's; None: the field is left out.
            report: what `x-tidegate-adjusted` reports for the field; None: `dropped`.
            why: the end of the error message.

        Raises:
            UnsupportedParameter: the caller does not allow it.
        """
        shown_name = _LEGACY_NAMES.get(name, name) if self.uses_functions else name
        if not self.drops_params:
            raise UnsupportedParameter(f"Unsupported parameter: '{shown_name}' {why}.", param=shown_name)
        if instead is None:
            self.fields.pop(name, None)
        else:
            self.put(name, instead)
        self.note(name, report or "dropped")


def compact(value: Raw) -> bytes:
    """Return the bytes of a value without white space, for comparison with short literals."""
    return bytes(value).translate(None, b" \t\r\n")
