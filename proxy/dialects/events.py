"""From the JSON of an event or of a unary answer to a `Chunk`; errors inside a 200 come out as errors.

Two gears: the typed decoder reads what nearly every host sends; what it refuses (NaN, lone surrogates, content as a
list of parts) goes through `json` and is mended (contract E.4, step 5).
"""

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from proxy.dialects import failures
from proxy.errors import UpstreamFailed
from proxy.protocol.chat import Chunk, GroqExtra

T = TypeVar("T")

# strict=False takes an index of 0.0 or "0"
_decode = msgspec.json.Decoder(Chunk, strict=False).decode
_encode = msgspec.json.Encoder().encode
_NO_ERROR = frozenset({b"null", b'""', b"false"})
_LARGE = 1024 * 1024
_MAX_VALUES = 2_000_000  # log probabilities of 30,000 tokens with 20 others each
_NO_LOGPROB = -9999.0  # OpenAI's "very unlikely", for what JSON cannot say (R-LP)


def parse(data: bytes) -> Chunk:
    """Read one JSON object.

    Raises:
        ProxyError: it is an error object (R-200), mapped like an error answer.
        UpstreamFailed: it cannot be read even leniently.
    """
    check_size(data)
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        chunk = decode_leniently(data, _decode)
    if chunk.error is not UNSET and bytes(chunk.error) not in _NO_ERROR:
        raise failures.parse_embedded(data)
    if chunk.choices is None and (chunk.message is not UNSET or chunk.detail is not UNSET):
        raise failures.parse_embedded(data)
    if chunk.x_groq is not None:
        _read_groq(chunk, chunk.x_groq)
    return chunk


def check_size(data: bytes) -> None:
    """Before decoding, which makes an object of a hundred bytes from three: `{},`.

    Raises:
        UpstreamFailed: `data` may hold more values than an answer has.
    """
    if len(data) > _LARGE and sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise UpstreamFailed("The upstream's answer holds too many values.")


def _read_groq(chunk: Chunk, extra: GroqExtra) -> None:
    """Row 151: Groq's own corner of a chunk.

    Raises:
        ProxyError: it says that the answer has failed.
    """
    if extra.error:
        raise failures.parse_embedded(_encode({"error": extra.error}))
    chunk.usage = chunk.usage or extra.usage


def decode_leniently(data: bytes, decode: Callable[[bytes], T]) -> T:
    """The second gear: decode what was mended.

    Raises:
        UpstreamFailed: it cannot be mended.
    """
    try:
        return decode(_encode(_mend(json.loads(data.decode("utf-8", "replace")))))
    except (ValueError, RecursionError) as error:
        raise UpstreamFailed(f"the upstream sent what is no chunk: {type(error).__name__}") from error


def _mend(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else _NO_LOGPROB
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        mended = {_mend(key): _mend(item) for key, item in value.items()}
        if type(mended.get("logprobs")) in (int, float):  # Together (row 140)
            mended["logprobs"] = _logprobs_of(mended)
        function = mended.get("function")
        if isinstance(function, str):  # Fireworks (row 161)
            mended["function"] = _function_of(function)
        if isinstance(mended.get("content"), list) and all(isinstance(part, dict) for part in mended["content"]):
            mended["content"] = _text_of(mended["content"])
        return mended
    return value


def _text_of(parts: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - a logprobs `content` is a list too, and stays one
    if all("token" in part for part in parts):
        return parts
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _logprobs_of(choice: dict[str, Any]) -> dict[str, Any]:
    """Of a chunk that holds one token, and its log probability as a bare number."""
    delta = choice.get("delta")
    token = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return {"content": [{"token": token, "logprob": choice["logprobs"]}]}


def _function_of(text: str) -> dict[str, Any]:
    """A function given as a string: its JSON, or its name."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"name": text}
    return value if isinstance(value, dict) else {"name": text}
