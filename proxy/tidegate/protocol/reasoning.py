"""The forms in which a caller may have the model's thinking (contract C)."""

from typing import Literal, get_args

from tidegate.errors import MalformedRequest
from tidegate.protocol.raw import as_object, as_text
from tidegate.protocol.request import Fields

ReasoningFormat = Literal["reasoning_content", "reasoning", "both", "think_tags", "hidden"]

_OURS: dict[str, ReasoningFormat] = {name: name for name in get_args(ReasoningFormat)}
# what Groq and llama.cpp call them in the body
_THEIRS: dict[str, ReasoningFormat | None] = {
    "parsed": "reasoning",
    "raw": "think_tags",
    "none": "think_tags",
    "deepseek": "reasoning_content",
    "auto": None,
}

_FIELDS = frozenset({"reasoning_format", "include_reasoning", "reasoning"})


def reasoning_names(form: ReasoningFormat) -> tuple[str, ...]:
    """The fields of a message or delta that hold the reasoning."""
    if form == "both":
        return ("reasoning_content", "reasoning")
    return ("reasoning",) if form == "reasoning" else ("reasoning_content",)


def read_format(word: str, param: str) -> ReasoningFormat | None:
    """The format that a caller's `word` means; None leaves it to the configuration.

    Raises:
        MalformedRequest: it means nothing.
    """
    if word in _THEIRS:
        return _THEIRS[word]
    if word not in _OURS:
        known = ", ".join(_OURS)
        raise MalformedRequest(
            f"Invalid value for '{param}': '{word[:64]}'. Supported values are: {known}.",
            param=param,
            code="invalid_value",
        )
    return _OURS[word]


def take_format(fields: Fields) -> ReasoningFormat | None:
    """Take what says it out of a body: `reasoning_format`, `include_reasoning` or `reasoning: {"exclude": true}`.

    Raises:
        MalformedRequest: `reasoning_format` means nothing.
    """
    if _FIELDS.isdisjoint(fields):
        return None
    word, included = as_text(fields.pop("reasoning_format", None)), fields.pop("include_reasoning", None)
    if word is not None:
        return read_format(word, "reasoning_format")
    settings = as_object(fields.get("reasoning"))
    is_unwanted = (included is not None and bytes(included) == b"false") or bytes(
        settings.get("exclude", b"")
    ) == b"true"
    return "hidden" if is_unwanted else None
