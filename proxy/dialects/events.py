"""From the JSON of an event or of a unary answer to a `Chunk`; errors inside a 200 come out as errors.

Two gears: the typed decoder reads what nearly every host sends; what it refuses (odd types, NaN, half surrogate pairs,
content as a list of parts) is read by `json`, put into OpenAI's shape (`odd`) and taken as far as it fits (`lenient`).
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.dialects import failures, odd
from proxy.errors import UpstreamFailed
from proxy.protocol import lenient
from proxy.protocol.chat import Chunk, GroqExtra
from proxy.protocol.request import json_type

T = TypeVar("T")

# strict=False takes an index of 0.0 or "0"
_decode = msgspec.json.Decoder(Chunk, strict=False).decode
_encode = msgspec.json.Encoder().encode
_LARGE = 1024 * 1024
_MAX_VALUES = 2_000_000  # log probabilities of 30,000 tokens with 20 others each


def parse(data: bytes) -> Chunk:
    """Read one JSON object.

    Raises:
        ProxyError: it is an error object (R-200), mapped like an error answer.
        UpstreamFailed: it is no JSON object.
    """
    check_size(data)
    chunk = _read(data)
    if chunk.choices is None and (inner := _inner(chunk)) is not None:
        data, chunk = inner, _read(inner)
    if chunk.error is not UNSET and _says_anything(chunk.error):
        raise failures.parse_embedded(data)
    if chunk.choices is None:
        _check_flat(chunk, data)
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
        chunk = convert(data, Chunk, odd.mend)
        chunk.is_mended = True
        return chunk


def _inner(chunk: Chunk) -> bytes | None:
    """The answer inside a gateway's envelope."""
    for raw in (chunk.data, chunk.result):
        if raw is not UNSET and json_type(raw) == "object" and b'"choices"' in bytes(raw):
            return bytes(raw)
    return None


def check_size(data: bytes) -> None:
    """Before decoding, which makes an object of a hundred bytes from three: `{},`.

    Raises:
        UpstreamFailed: `data` may hold more values than an answer has.
    """
    if len(data) > _LARGE and sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise UpstreamFailed("The upstream's answer holds too many values.")


def convert(data: bytes, kind: type[T], mend: Callable[[dict[str, Any]], None]) -> T:
    """The second gear: `data` as a struct, as far as it fits.

    Args:
        data: what the typed decoder refused.
        kind: of the struct.
        mend: puts the decoded object into the struct's shape, in place.

    Raises:
        UpstreamFailed: it is no JSON object.
    """
    try:
        value = lenient.loads(data)
        if isinstance(value, dict):
            mend(value)
        converted = lenient.convert(value, kind)
    except ValueError as error:
        raise UpstreamFailed(lenient.describe(data), is_quoted=True) from error
    except RecursionError as error:
        raise UpstreamFailed("The upstream sent JSON that is nested too deeply.") from error
    if converted is None:
        raise UpstreamFailed("The upstream sent JSON that is no answer.")
    return converted


def _says_anything(error: Raw) -> bool:
    """Whether an `error` beside an answer is one: hosts write null, false, 0, empty text, `{}`, `[]` where none is."""
    value = _loads(error)
    if isinstance(value, float) and math.isnan(value):
        return False
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _loads(raw: Raw) -> Any:  # noqa: ANN401 - JSON of any shape
    """A raw value, or a word where it cannot be read."""
    try:
        return lenient.loads(bytes(raw))
    except (ValueError, RecursionError):
        return "unreadable"


def _check_flat(chunk: Chunk, data: bytes) -> None:
    """Errors without `error`: flat, or in MiniMax's `base_resp`, where 0 means success.

    Raises:
        ProxyError: it is one.
    """
    if any(not isinstance(told, UnsetType) and _says_anything(told) for told in (chunk.message, chunk.detail)):
        raise failures.parse_embedded(data)
    if not isinstance(chunk.base_resp, UnsetType):
        result = _loads(chunk.base_resp)
        if isinstance(result, dict) and result.get("status_code"):
            raise failures.parse_embedded(data)


def _check_choice(error: Raw) -> None:
    """OpenRouter and others say on the choice that the model's provider has failed.

    Raises:
        ProxyError: it has.
    """
    if _says_anything(error):
        raise failures.parse_embedded(_encode({"error": error}))


def _read_groq(chunk: Chunk, extra: GroqExtra) -> None:
    """Row 151: Groq's own corner of a chunk.

    Raises:
        ProxyError: it says that the answer has failed.
    """
    if extra.error:
        raise failures.parse_embedded(_encode({"error": extra.error}))
    chunk.usage = chunk.usage or extra.usage
