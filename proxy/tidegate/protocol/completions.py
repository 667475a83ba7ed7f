"""`/v1/completions`: the request's checks (contract A.8). Answers are read by the structs of `protocol.chat`."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tidegate.protocol.chat import Penalty, StreamOptions, Tokens, stream_options_without_stream
from tidegate.protocol.request import ModelName, ModelRequest, decode, decode_fields, json_type, missing, wrong_type


class CompletionParams(Struct, gc=False):
    """The fields whose type or range OpenAI checks."""

    model: ModelName
    prompt: Raw | UnsetType = UNSET
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    seed: int | None = None
    suffix: str | None = None


_decoder = msgspec.json.Decoder(CompletionParams)


def parse_request(body: bytes) -> ModelRequest:
    """Decode a body and check it as OpenAI does.

    Raises:
        MalformedRequest: with OpenAI's `param` and `code`.
    """
    params = decode(body, _decoder)
    if params.prompt is UNSET:
        raise missing("prompt")
    if (kind := json_type(params.prompt)) not in {"string", "array"}:
        raise wrong_type("prompt", "a string, an array of strings or an array of tokens", kind)
    options = params.stream_options
    if options is not None and not params.stream:
        raise stream_options_without_stream()
    return ModelRequest(
        endpoint="completions",
        model=params.model,
        fields=decode_fields(body),
        is_stream=bool(params.stream),
        wants_usage=bool(options and options.include_usage),
    )
