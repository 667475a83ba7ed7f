"""`/v1/chat/completions`: the request's checks, and the structs for decoding the answers of upstreams.

Contract A.1 to A.3. Hosts leave out fields and add their own. So the structs for answers declare only the fields that
are used, each with a default. The decoder skips the fields of vendors, and they never reach a caller.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tidegate.errors import MalformedRequest
from tidegate.protocol.lenient import TextPiece
from tidegate.protocol.raw import as_text
from tidegate.protocol.request import ModelName, ModelRequest, decode, decode_fields, json_type, missing, wrong_type

_ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_ROLES_IN_WORDS = "'developer', 'system', 'user', 'assistant', 'tool' and 'function'"
Penalty = Annotated[float, Meta(ge=-2, le=2)] | None
Tokens = Annotated[int, Meta(ge=1)] | None


class StreamOptions(Struct, gc=False):
    """`stream_options`; allowed only with `stream: true`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Message(Struct, gc=False):
    """The fields of a message that are checked. The complete message is in `ModelRequest.fields`, as raw bytes."""

    role: str
    content: Raw | UnsetType = UNSET
    tool_call_id: str | None = None
    tool_calls: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET
    refusal: Raw | UnsetType = UNSET


class NamedFunction(Struct, gc=False):
    """An item of `functions`, or the `function_call` that forces one of them."""

    name: str


class ChatParams(Struct, gc=False):
    """The fields whose type or range OpenAI checks."""

    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    seed: int | None = None
    user: str | None = None
    tools: list[dict[str, Raw]] | None = None
    tool_choice: str | dict[str, Raw] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[NamedFunction] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    response_format: dict[str, Raw] | None = None
    reasoning_effort: str | None = None
    logit_bias: dict[str, float] | None = None


_decoder = msgspec.json.Decoder(ChatParams)


def parse_request(body: bytes) -> ModelRequest:
    """Decode a body and check it as OpenAI does.

    Raises:
        MalformedRequest: with OpenAI's `param` and `code`.
    """
    params = decode(body, _decoder)
    for index, message in enumerate(params.messages):
        _check_message(message, f"messages[{index}]")
    _check_combinations(params)
    options = params.stream_options
    return ModelRequest(
        endpoint="chat",
        model=params.model,
        fields=decode_fields(body),
        is_stream=bool(params.stream),
        wants_usage=bool(options and options.include_usage),
    )


def _check_message(message: Message, path: str) -> None:
    role = message.role
    if role not in _ROLES:
        raise MalformedRequest(
            f"Invalid value: '{role[:64]}'. Supported values are: {_ROLES_IN_WORDS}.",
            param=f"{path}.role",
            code="invalid_value",
        )
    kind = "missing" if message.content is UNSET else json_type(message.content)
    if kind not in {"string", "array"} and not (kind in {"missing", "null"} and _may_omit_content(message, kind)):
        if kind == "missing":
            raise missing(f"{path}.content")
        raise wrong_type(f"{path}.content", "a string or an array of objects", kind)
    if role == "tool" and message.tool_call_id is None:
        raise missing(f"{path}.tool_call_id")


def _may_omit_content(message: Message, kind: str) -> bool:
    if message.role == "function":
        return kind == "null"
    other_content = (message.tool_calls, message.function_call, message.audio, message.refusal)
    return message.role == "assistant" and any(
        value is not UNSET and json_type(value) != "null" for value in other_content
    )


def _check_combinations(params: ChatParams) -> None:
    if params.stream_options is not None and not params.stream:
        raise stream_options_without_stream()
    if params.top_logprobs is not None and not params.logprobs:
        raise MalformedRequest(
            "Invalid value for 'top_logprobs': 'logprobs' must be true to use it.",
            param="top_logprobs",
            code="invalid_value",
        )
    choice = params.tool_choice
    kind = as_text(choice.get("type")) or "named" if isinstance(choice, dict) else choice
    if not params.tools and kind not in (None, "none", "auto"):
        raise MalformedRequest(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
        )
    _check_functions(params)


def _check_functions(params: ChatParams) -> None:
    functions, call = params.functions or (), params.function_call
    if functions and params.tools:
        raise MalformedRequest(
            "Invalid request: 'functions' and 'tools' cannot both be provided; 'tools' replaced 'functions'.",
            param="functions",
        )
    if not isinstance(call, NamedFunction):
        return
    if not functions:
        raise MalformedRequest(
            "Invalid value for 'function_call': 'function_call' is only allowed when 'functions' are specified.",
            param="function_call",
        )
    if all(function.name != call.name for function in functions):
        raise MalformedRequest(
            f"Invalid value for 'function_call': no function named '{call.name[:128]}' is among 'functions'.",
            param="function_call",
        )


def stream_options_without_stream() -> MalformedRequest:
    """OpenAI's error for `stream_options` in a request for an answer that is not streamed (a unary request)."""
    return MalformedRequest(
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
    )


# --- answers of upstreams -----------------------------------------------------------------------------------------

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # for an answer that is kept whole; in a stream each event has a limit

# Replaces a finish reason that is not a string: the choice may have ended, and the reason is unknown.
UNCLEAR_REASON = "unclear"

# Fields next to `choices`. The caller requests `service_tier` and `moderation` by a field of the same name.
TopLevel = Literal["service_tier", "system_fingerprint", "moderation"]


class HostAnswerFormat(Struct, frozen=True, gc=False, kw_only=True):
    """How `streaming.choices` reads an answer; the values depend on the host and on the request.

    Attributes:
        thought_tags: the names of tags around reasoning at the beginning of the content, such as `think`.
        begins_in_reasoning: the chat template has opened the first such tag, so the answer holds only the closing tag.
        leaks_markup: text may be tool calls in the markup of DeepSeek's models (see `streaming.markup`).
        may_call: the request has tools and allows calls.
        tools: the offered tools in OpenAI's form; unset if no tool may be called.
        one_call: only the first call of a choice is passed on; the others are dropped.
        reasoning_may_be_answer: if an answer holds reasoning and nothing else, the reasoning is passed on as the
            content too (contract row 68).
        newlines_before_answer: the host puts newlines between the reasoning and the content; they are removed (contract
            76g).
        has_positional_call_ids: the host's ids of tool calls are positions such as `0`, so that they repeat; they are
            replaced (contract row 191).
        choices: the number of requested choices, None if it is not known; choices beyond it are dropped.
        top_level: the fields next to `choices` that are passed on to the caller.
        wants_logprobs: log probabilities were requested.
        max_tokens: the caller's limit for the answer, in tokens; None: no limit.
    """

    thought_tags: tuple[str, ...] = ()
    begins_in_reasoning: bool = False
    leaks_markup: bool = False
    may_call: bool = True
    tools: Raw | UnsetType = UNSET
    one_call: bool = False
    reasoning_may_be_answer: bool = False
    newlines_before_answer: bool = False
    has_positional_call_ids: bool = False
    choices: int | None = None
    top_level: frozenset[TopLevel] = frozenset()
    wants_logprobs: bool = True
    max_tokens: int | None = None


class Function(Struct, gc=False):
    """A function call, complete or a fragment; `arguments` is a string, an object (some hosts) or null."""

    name: str | None = None
    arguments: Raw | UnsetType = UNSET


class ToolCall(Struct, gc=False):
    """A tool call, complete or a fragment.

    Attributes:
        name, arguments: some hosts send them here, without a `function`.
        extra_content: a field of Gemini's, which a client must send back with the call.
    """

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: Function | None = None
    name: str | None = None
    arguments: Raw | UnsetType = UNSET
    custom: Raw | UnsetType = UNSET
    extra_content: Raw | UnsetType = UNSET


class Delta(Struct, gc=False):
    """A message, complete or a fragment. Raw fields may hold `null`.

    Hosts use different names for the reasoning: `reasoning_content` (DeepSeek), `reasoning` (vLLM, OpenRouter),
    `thinking` (Ollama), `reasoning_text` (GitHub Copilot).
    """

    content: TextPiece | None = None
    reasoning_content: TextPiece | None = None
    reasoning: TextPiece | None = None
    thinking: TextPiece | None = None
    reasoning_text: TextPiece | None = None
    refusal: TextPiece | None = None
    tool_calls: list[ToolCall] | None = None
    annotations: Raw | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    reasoning_details: Raw | UnsetType = UNSET
    extra_content: Raw | UnsetType = UNSET
    images: Raw | UnsetType = UNSET


class Choice(Struct, gc=False):
    """One choice of a chunk (`delta`), of a unary answer (`message`) or of a legacy completion (`text`).

    Attributes:
        index: if the host sends none, the position in the list is the index.
        usage: the usage of the whole answer, which Moonshot sends here.
    """

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    text: TextPiece | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    error: Raw | UnsetType = UNSET
    usage: dict[str, Any] | None = None


class GroqExtra(Struct, gc=False):
    """`x_groq`: Groq's field for an error and for the usage of a stream."""

    usage: dict[str, Any] | None = None
    error: str | None = None


class Chunk(Struct, gc=False):
    """A chunk of a stream, or a whole answer that is not streamed (a unary answer).

    Some hosts send an error with status 200: in `error`, or as the fields `message`, `detail` or `base_resp`.

    Attributes:
        data, result: some gateways wrap the whole answer in one of these.
        was_read_leniently: the JSON was read leniently, so texts may hold lone surrogates. No field of the host's: it
            is set after decoding, and its encoded name is one that no host sends.
    """

    choices: list[Choice] | None = None
    usage: dict[str, Any] | None = None
    x_groq: GroqExtra | None = None
    error: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    detail: Raw | UnsetType = UNSET
    base_resp: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    service_tier: str | None = None
    system_fingerprint: str | None = None
    moderation: Raw | UnsetType = UNSET
    was_read_leniently: bool = msgspec.field(default=False, name="~is_mended")
