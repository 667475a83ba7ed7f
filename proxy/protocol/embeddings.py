"""`/v1/embeddings` (contract A.9): the request's checks, and the answer rebuilt in the form the caller asked for."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from proxy.errors import MalformedRequest, UpstreamFailed
from proxy.protocol.raw import as_list
from proxy.protocol.request import ModelName, ModelRequest, decode, decode_fields, json_type, missing, wrong_type
from proxy.protocol.usage import Usage, parse_usage

Encoding = Literal["float", "base64"]


class EmbeddingParams(Struct, gc=False):
    """The fields whose type or range OpenAI checks."""

    model: ModelName
    input: Raw | UnsetType = UNSET
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Encoding | None = None
    user: str | None = None


class Embedding(Struct, gc=False):
    """One vector: floats, or base64 of little-endian float32."""

    embedding: str | list[float]
    index: int | None = None


class EmbeddingAnswer(Struct, gc=False):
    """What a host answers."""

    data: list[Embedding]
    usage: dict[str, Any] | None = None


class EmbeddingItem(Struct, gc=False):
    """One vector on the way out, in OpenAI's field order."""

    object: str
    index: int
    embedding: str | Sequence[float]


class EmbeddingList(Struct, gc=False):
    """The whole answer on the way out."""

    object: str
    data: list[EmbeddingItem]
    model: str
    usage: dict[str, int]


_params = msgspec.json.Decoder(EmbeddingParams)
_answer = msgspec.json.Decoder(EmbeddingAnswer)
_encode = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> ModelRequest:
    """Check a body as OpenAI does.

    Raises:
        MalformedRequest: with OpenAI's `param` and `code`.
    """
    params = decode(body, _params)
    if params.input is UNSET:
        raise missing("input")
    if (kind := json_type(params.input)) not in {"string", "array"}:
        raise wrong_type("input", "a string, an array of strings or an array of tokens", kind)
    if kind == "array" and not as_list(params.input):
        raise MalformedRequest(
            "Invalid 'input': empty array. Expected at least one item.", param="input", code="empty_array"
        )
    return ModelRequest(endpoint="embeddings", model=params.model, fields=decode_fields(body))


def rebuild(body: bytes, *, model: str, encoding: Encoding) -> tuple[bytes, Usage]:
    """The upstream's answer in OpenAI's form with vectors in `encoding`; and what it took.

    Raises:
        UpstreamFailed: the body holds no embeddings.
    """
    try:
        answer = _answer.decode(body)
        items = [
            EmbeddingItem("embedding", place if item.index is None else item.index, _convert(item.embedding, encoding))
            for place, item in enumerate(answer.data)
        ]
    except (msgspec.DecodeError, ValueError, RecursionError, struct.error, OverflowError) as error:
        raise UpstreamFailed(f"The upstream's embeddings cannot be read: {type(error).__name__}.") from error
    usage = parse_usage(answer.usage or {})
    counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}
    return _encode(EmbeddingList("list", items, model, counts)), usage


def _convert(vector: str | list[float], encoding: Encoding) -> str | Sequence[float]:
    if isinstance(vector, str):
        numbers = _unpack(base64.b64decode(vector, validate=True))
        return vector if encoding == "base64" else numbers
    return vector if encoding == "float" else base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _unpack(data: bytes) -> Sequence[float]:
    if len(data) % 4:
        raise ValueError("base64 that is no float32 vector")
    numbers = struct.unpack(f"<{len(data) // 4}f", data)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a vector with numbers that JSON cannot say")
    return numbers
