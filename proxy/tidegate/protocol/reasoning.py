"""The formats in which a caller can receive the model's reasoning (contract C)."""

from typing import Literal, get_args

from tidegate.errors import MalformedRequest
from tidegate.protocol.raw import as_object, as_text
from tidegate.protocol.request import Fields

ReasoningFormat = Literal["reasoning_content", "reasoning", "both", "think_tags", "hidden"]

_FORMATS: dict[str, ReasoningFormat] = {name: name for name in get_args(ReasoningFormat)}
# the values of `reasoning_format` in the APIs of Groq and llama.cpp; None: the configured format
_ALIASES: dict[str, ReasoningFormat | None] = {
    "parsed": "reasoning",
    "raw": "think_tags",
    "none": "think_tags",
    "deepseek": "reasoning_content",
    "auto": None,
}

_FIELDS = frozenset({"reasoning_format", "include_reasoning", "reasoning"})


def reasoning_names(form: ReasoningFormat) -> tuple[str, ...]:
    """Return the names of the fields of a message or delta that hold the reasoning."""
    if form == "both":
        return ("reasoning_content", "reasoning")
    return ("reasoning",) if form == "reasoning" else ("reasoning_content",)


def read_format(value: str, param: str) -> ReasoningFormat | None:
    """Return the format that a caller's `value` means; None: the configured format applies.

    Args:
        value: a name of a format, or an alias of Groq's or llama.cpp's.
        param: the field or header that holds the value, for the error.

    Raises:
        MalformedRequest: the value is unknown.
    """
    if value in _ALIASES:
        return _ALIASES[value]
    if value not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise MalformedRequest(
            f"Invalid value for '{param}': '{value[:64]}'. Supported values are: {known}.",
            param=param,
            code="invalid_value",
        )
    return _FORMATS[value]


def take_format(fields: Fields) -> ReasoningFormat | None:
    """Return the format that a body requests; None: the configured format applies.

    The fields `reasoning_format`, `include_reasoning` and `reasoning: {"exclude": true}` are read. The first two are
    removed from `fields`, so that they are not sent to the host.

    Raises:
        MalformedRequest: the value of `reasoning_format` is unknown.
    """
    if _FIELDS.isdisjoint(fields):
        return None
    value, included = as_text(fields.pop("reasoning_format", None)), fields.pop("include_reasoning", None)
    if value is not None:
        return read_format(value, "reasoning_format")
    settings = as_object(fields.get("reasoning"))
    is_hidden = (included is not None and bytes(included) == b"false") or bytes(settings.get("exclude", b"")) == b"true"
    return "hidden" if is_hidden else None
