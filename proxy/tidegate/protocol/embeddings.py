"""`/v1/embeddings` (contract A.9): the request's checks, and the answer rebuilt in the requested encoding."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tidegate.errors import MalformedRequest, UpstreamFailed
from tidegate.protocol import lenient
from tidegate.protocol.raw import as_list
from tidegate.protocol.request import ModelName, ModelRequest, decode, decode_fields, json_type, missing, wrong_type
from tidegate.protocol.usage import Usage, parse_usage

Encoding = Literal["float", "base64"]


class EmbeddingParams(Struct, gc=False):
    """The fields whose type or range OpenAI checks."""

    model: ModelName
    input: Raw | UnsetType = UNSET
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Encoding | None = None
    user: str | None = None


class Embedding(Struct, gc=False):
    """One vector of a host: floats, or base64 of little-endian float32."""

    embedding: str | list[float]
    index: int | None = None


class EmbeddingAnswer(Struct, gc=False):
    """The answer of a host; `embeddings` holds bare vectors (Ollama, Cohere)."""

    data: list[Embedding] | None = None
    embeddings: list[list[float]] | None = None
    usage: dict[str, Any] | None = None


class EmbeddingItem(Struct, gc=False):
    """One vector of the answer to the caller, in OpenAI's field order."""

    object: str
    index: int
    embedding: str | Sequence[float]


class EmbeddingList(Struct, gc=False):
    """The answer to the caller, in OpenAI's field order."""

    object: str
    data: list[EmbeddingItem]
    model: str
    usage: dict[str, int]


_params = msgspec.json.Decoder(EmbeddingParams)
_answer = msgspec.json.Decoder(EmbeddingAnswer)
_encode = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> ModelRequest:
    """Decode a body and check it as OpenAI does.

    Raises:
        MalformedRequest: with OpenAI's `param` and `code`.
    """
    params = decode(body, _params)
    if params.input is UNSET:
        raise missing("input")
    if (kind := json_type(params.input)) not in {"string", "array"}:
        raise wrong_type("input", "a string, an array of strings or an array of tokens", kind)
    if kind == "array" and _is_empty(params.input):
        raise MalformedRequest(
            "Invalid 'input': empty array. Expected at least one item.", param="input", code="empty_array"
        )
    return ModelRequest(endpoint="embeddings", model=params.model, fields=decode_fields(body))


def rebuild(body: bytes, *, inputs: int, model: str, encoding: Encoding) -> tuple[bytes, Usage]:
    """Return the upstream's answer in OpenAI's form with vectors in `encoding`, and its usage.

    Clients match vectors to inputs by position, so the vectors are sent in the order of the inputs.

    Args:
        body: the body of the host's answer.
        inputs: the number of requested vectors (see `count_inputs`).
        model: the public name.
        encoding: the encoding that the caller requested.

    Raises:
        UpstreamFailed: the body does not hold exactly one vector for each input.
    """
    try:
        answer = _read_answer(body)
        given = answer.data if answer.data is not None else [Embedding(vector) for vector in answer.embeddings or ()]
        vectors = [_convert(each.embedding, encoding) for each in _in_order(given, inputs)]
    except (msgspec.DecodeError, ValueError, RecursionError, struct.error, OverflowError) as error:
        raise UpstreamFailed(f"The upstream's embeddings cannot be read: {error}.") from error
    usage = parse_usage(answer.usage or {})
    counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens}
    items = [EmbeddingItem("embedding", index, vector) for index, vector in enumerate(vectors)]
    return _encode(EmbeddingList("list", items, model, counts)), usage


def count_inputs(raw: Raw | None) -> int:
    """Return the number of vectors that a checked `input` requests; a string, or a list of tokens, is one input."""
    items = as_list(raw)
    return len(items) if items and json_type(items[0]) in {"string", "array"} else 1


def _is_empty(array: Raw) -> bool:
    """Whether an `input` has no items, or an item that is a list without tokens."""
    items = as_list(array)
    return not items or any(json_type(item) == "array" and not as_list(item) for item in items)


def _read_answer(body: bytes) -> EmbeddingAnswer:
    try:
        return _answer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = lenient.convert(_unwrap_vectors(lenient.loads(body)), EmbeddingAnswer)
    if answer is None:
        raise ValueError("not a JSON object")
    return answer


def _unwrap_vectors(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """Unwrap, in place, vectors that are nested in a list of one item (llama.cpp sends them)."""
    for item in value.get("data") or () if isinstance(value, dict) else ():
        vector = item.get("embedding") if isinstance(item, dict) else None
        if isinstance(vector, list) and len(vector) == 1 and isinstance(vector[0], list):
            item["embedding"] = vector[0]
    return value


def _in_order(given: Sequence[Embedding], inputs: int) -> Sequence[Embedding]:
    """Return the vectors by index, or by position if none has an index. Gemini leaves out an index of 0.

    Raises:
        ValueError: the indexes are not 0 to `inputs` - 1, each once.
    """
    if len(given) != inputs:
        raise ValueError(f"{len(given)} vectors for {inputs} inputs")
    if all(each.index is None for each in given):
        return given
    by_index = {each.index: each for each in given}
    if None in by_index and 0 not in by_index:
        by_index[0] = by_index.pop(None)
    if by_index.keys() != set(range(inputs)):
        raise ValueError("indexes that are missing, repeated or out of range")
    return [by_index[index] for index in range(inputs)]


def _convert(vector: str | list[float], encoding: Encoding) -> str | Sequence[float]:
    if not vector:
        raise ValueError("a vector without numbers")
    if isinstance(vector, str):
        numbers = _unpack(base64.b64decode(vector, validate=True))
        return vector if encoding == "base64" else numbers
    return vector if encoding == "float" else base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _unpack(data: bytes) -> Sequence[float]:
    if len(data) % 4:
        raise ValueError("base64 that is not a float32 vector")
    numbers = struct.unpack(f"<{len(data) // 4}f", data)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a vector with numbers that JSON cannot represent")
    return numbers
