"""Reads the JSON of an event, or of an answer that is not streamed, into a `Chunk`; an error in a 200 answer is raised.

The typed decoder accepts what nearly every host sends. JSON that it refuses (wrong types, NaN, lone surrogates, content
as a list of parts) is read by `json`, put into OpenAI's shape (`answer_shapes`), and converted field by field
(`lenient`).
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tidegate.dialects import answer_shapes, failures
from tidegate.errors import UpstreamFailed
from tidegate.protocol import lenient
from tidegate.protocol.chat import Chunk, GroqExtra
from tidegate.protocol.request import json_type

T = TypeVar("T")

# strict=False accepts an index of 0.0 or "0"
_decode = msgspec.json.Decoder(Chunk, strict=False).decode
_encode = msgspec.json.Encoder().encode
_LARGE = 1024 * 1024  # bytes; the values in smaller data are not counted
_MAX_VALUES = 2_000_000  # enough for the log probabilities of 30,000 tokens with 20 alternatives each


def parse(data: bytes) -> Chunk:
    """Read one JSON object into a `Chunk`.

    Raises:
        ProxyError: the object is an error (R-200), mapped like an error answer.
        UpstreamFailed: the data is not a JSON object.
    """
    check_size(data)
    chunk = _read(data)
    if chunk.choices is None and (inner := _unwrap(chunk)) is not None:
        data, chunk = inner, _read(inner)
    if chunk.error is not UNSET and _is_error(chunk.error):
        raise failures.parse_embedded(data)
    if chunk.choices is None:
        _check_without_choices(chunk, data)
    else:
        for choice in chunk.choices:
            if choice.error is not UNSET:
                _check_choice(choice.error)
    if chunk.x_groq is not None:
        _read_groq(chunk, chunk.x_groq)
    return chunk


def _read(data: bytes) -> Chunk:
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        chunk = read_leniently(data, Chunk, answer_shapes.reshape)
        chunk.was_read_leniently = True
        return chunk


def _unwrap(chunk: Chunk) -> bytes | None:
    """Return the JSON of an answer that a gateway has wrapped in `data` or `result`; None if it is not wrapped."""
    for raw in (chunk.data, chunk.result):
        if raw is not UNSET and json_type(raw) == "object" and b'"choices"' in bytes(raw):
            return bytes(raw)
    return None


def check_size(data: bytes) -> None:
    """Limit the number of JSON values before decoding, which turns three bytes (`{},`) into a hundred.

    Raises:
        UpstreamFailed: `data` may hold more values than an answer has.
    """
    if len(data) > _LARGE and sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise UpstreamFailed("The upstream's answer holds too many values.")


def read_leniently(data: bytes, kind: type[T], reshape: Callable[[dict[str, Any]], None]) -> T:
    """Read JSON that the typed decoder refused into a struct; fields of a wrong type are dropped.

    Args:
        data: the JSON.
        kind: the type of the struct.
        reshape: puts the decoded object into the struct's shape, in place.

    Raises:
        UpstreamFailed: the data is not a JSON object.
    """
    try:
        value = lenient.loads(data)
        if isinstance(value, dict):
            reshape(value)
        converted = lenient.convert(value, kind)
    except ValueError as error:
        raise UpstreamFailed(lenient.describe(data), is_quoted=True) from error
    except RecursionError as error:
        raise UpstreamFailed("The upstream sent JSON that is nested too deeply.") from error
    if converted is None:
        raise UpstreamFailed("The upstream sent JSON that is no answer.")
    return converted


def _is_error(error: Raw) -> bool:
    """Return whether the value of an `error` field is an error: null, false, 0, NaN, "", `{}` and `[]` are not."""
    value = _decode_raw(error)
    if isinstance(value, float) and math.isnan(value):
        return False
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _decode_raw(raw: Raw) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return the decoded value, or a non-empty placeholder if it cannot be decoded."""
    try:
        return lenient.loads(bytes(raw))
    except (ValueError, RecursionError):
        return "unreadable"


def _check_without_choices(chunk: Chunk, data: bytes) -> None:
    """Look for an error in an object without `choices`: in `message`, `detail` or MiniMax's `base_resp` (0: success).

    Raises:
        ProxyError: the object is an error.
    """
    if any(not isinstance(value, UnsetType) and _is_error(value) for value in (chunk.message, chunk.detail)):
        raise failures.parse_embedded(data)
    if not isinstance(chunk.base_resp, UnsetType):
        result = _decode_raw(chunk.base_resp)
        if isinstance(result, dict) and result.get("status_code"):
            raise failures.parse_embedded(data)


def _check_choice(error: Raw) -> None:
    """Look for an error in a choice, where OpenRouter and others report the failure of a model's provider.

    Raises:
        ProxyError: the choice holds an error.
    """
    if _is_error(error):
        raise failures.parse_embedded(_encode({"error": error}))


def _read_groq(chunk: Chunk, extra: GroqExtra) -> None:
    """Row 151: read Groq's `x_groq`, which holds usage or an error.

    Raises:
        ProxyError: `x_groq` holds an error.
    """
    if extra.error:
        raise failures.parse_embedded(_encode({"error": extra.error}))
    chunk.usage = chunk.usage or extra.usage
