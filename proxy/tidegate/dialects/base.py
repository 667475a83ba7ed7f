"""`Dialect`: the facts about one kind of host, and the translator that reads them.

The rule ids (Q-…, R-…) are those of the contract, section B.0.
"""

import base64
import functools
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Raw, Struct, structs

from tidegate.config.cards import UNKNOWN, Card, Structured
from tidegate.dialects import (
    emulated_tools,
    engine_fields,
    engine_messages,
    events,
    history,
    messages,
    parts,
    structured,
    thinking,
    tools,
)
from tidegate.dialects.answer_prefix import AnswerPrefix, put_message, put_prompt
from tidegate.dialects.messages import Rules
from tidegate.dialects.request_draft import RequestDraft
from tidegate.errors import MalformedRequest, UpstreamLacksOperation
from tidegate.protocol.chat import Chunk, HostAnswerFormat, TopLevel
from tidegate.protocol.raw import as_list, as_text
from tidegate.protocol.request import Endpoint, ModelRequest, is_null, json_type
from tidegate.protocol.text_calls import TextCalls

Adjust = Callable[[RequestDraft], None]

_encode = msgspec.json.Encoder().encode
_TRUE = Raw(b"true")
_NOTHING_REMEMBERED: Mapping[str, str] = {}
_NO_DEFAULTS: Mapping[str, Raw] = MappingProxyType({})

# Fields that only the engine's operator may set; set by a caller, they would affect other callers' requests (contract
# 76o).
_INTERNAL = frozenset(
    {
        "request_id",
        "priority",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "cache_salt",
        "id_slot",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        # fields of SGLang
        "custom_logit_processor",  # holds code
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "extra_key",
        "lora_path",  # selects a model that the caller may not be allowed to use
        "rid",
        "routed_dp_rank",
        "session_params",
    }
)
_PATHS: Mapping[Endpoint, str] = MappingProxyType(
    {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
)
# Fields of an answer that are passed on if the request has a field of the same name.
_REQUESTED_TOP_LEVEL: tuple[TopLevel, ...] = ("moderation", "service_tier")
# Fields of `_INTERNAL` by which an engine opens a connection or a file. A request to an engine is refused if one of
# them holds a string; other values are dropped.
_RESOURCE_FIELDS = frozenset({"bootstrap_host", "lora_path"})
# The fields of all engines that constrain the form of an answer.
_OUTPUT_CONSTRAINTS = frozenset({"response_format", "structured_outputs", "json_schema", "grammar", "regex", "ebnf"})
TEXT_AND_IMAGES = frozenset({"text", "image_url"})
OPENAI_PARTS = frozenset({"text", "refusal", "image_url", "input_audio", "file"})
ENGINE_PARTS = frozenset({"text", "image_url", "input_audio", "audio_url", "video_url"})
# Fields that only OpenAI supports. Other hosts refuse them, or ignore them without an error, which is worse.
ONLY_OPENAI = frozenset(
    {
        "audio",
        "metadata",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    }
)


def no_adjustment(_draft: RequestDraft) -> None:
    """Change nothing: the `adjust` of most dialects."""


class HostRequest(Struct, frozen=True):
    """A request as it is sent to one host.

    Attributes:
        path: the path below the base URL, with the query.
        body: the JSON body.
        answer_format: how the answer is to be read.
        adjusted: the changes that `x-tidegate-adjusted` reports, as `name=change`; changes of spelling are left out.
        schema: the schema that the pipeline validates the answer against, as the host does not enforce it; None: there
            is no such schema.
        uses_functions: whether the caller sent its tools as `functions`, so that a call is returned as `function_call`.
        text_calls: how text of the answer is read as tool calls, if the tools are emulated; None: they are not.
    """

    path: str
    body: bytes
    answer_format: HostAnswerFormat
    adjusted: list[str]
    schema: Raw | None = None
    uses_functions: bool = False
    text_calls: TextCalls | None = None


class Dialect(Struct, frozen=True, kw_only=True):
    """The facts about one kind of host; immutable and shared.

    For the request:

    Attributes:
        name: the dialect's name in the config.
        paths: the path of each endpoint below the base URL; the host does not serve an endpoint that is missing here.
        rules: how messages are adapted to the host.
        unsupported_fields: the fields that the host refuses or ignores. Hints among them are dropped; fields that
            change the result are refused (Q-DROP).
        max_tokens: the one name of the token limit that the host honours (Q-MAX); None: it honours both names.
        default_max_tokens: the limit that is sent if the caller sets none, for a host without a limit of its own.
        defaults: fields that are sent if the caller does not set them, as the host's defaults differ from OpenAI's; not
            sent for embeddings.
        tool_choices: the forms of `tool_choice` that the host supports, a subset of `tools.ALL_CHOICES`.
        required: the host's word for `tool_choice: "required"`.
        supports_tools: whether the model's chat template supports tools; otherwise they are emulated
            (`emulated_tools`).
        parses_tool_calls: whether the host parses its model's tool calls; otherwise tools that may be called are
            refused.
        supports_tool_types: whether the host supports custom tools and `allowed_tools`.
        needs_parameters: whether the host refuses a function without `parameters`; to OpenAI it takes no arguments.
        forces_tools_while_thinking: whether a tool can be forced on a model that thinks (Q-FORCE).
        parts: the types of content parts that the host supports.
        fetches_urls: whether URLs may be sent to the host. An engine would open any URL, so this is false for engines,
            and their requests pass through `engine_fields`.
        structured: the highest level of `response_format` that the host supports.
        structured_with_tools: whether that level is also supported together with tools.
        structured_with_forced_tool: whether `response_format` is accepted beside a tool that must be called (row 86).
        keeps_template_kwargs: whether the host uses `chat_template_kwargs`, so that they are sent unchanged.
        put_thinking: writes the host's switch for thinking into the request; None: the caller's fields are sent.
        thinks_by_default: whether the host's models think by default; the model's card overrides this.
        needs_past_reasoning: whether the host refuses turns without their reasoning (row 10); the model's card
            overrides this.
        stand_in: the text that the host accepts in place of reasoning that is not stored; None: nothing is sent.
        takes_stream_options: whether the host accepts `stream_options` (Q-SOPT), by which Tidegate always requests the
            usage, for its accounting.
        answer_prefix: how the host is asked to continue an answer that broke off; None: the host cannot continue
            answers.
        salts_cache: whether the host separates its prefix cache by `cache_salt`.
        adjust: further changes to a chat request that no field here can express; may raise `UnsupportedParameter`.
        adjust_completion: the same for requests to the other endpoints, which have no messages.
        takes_base64: whether the host can return vectors in base64; otherwise Tidegate encodes its floats.
        model_prefix: is put in front of a model's name that contains no slash.

    For the answer:

    Attributes:
        parse: reads one event of a stream, or a whole answer that is not streamed, into a `Chunk`.
        thought_tags: names of the tags that may enclose thinking at the beginning of the content (R-THINK).
        may_lack_parser: whether the host may pass on thinking as the model wrote it: without the opening tag, if the
            chat template contains it. Hosted APIs separate the thinking, or send both tags.
        leaks_markup: whether the host may pass on tool calls as the model's markup; the model's card overrides this.
        reasoning_may_be_answer: whether an answer may arrive as reasoning alone, and is then repaired (rows 68, 76i).
        newlines_before_answer: whether the newlines after the thinking arrive as the beginning of the answer (row 76g).
        has_positional_call_ids: whether the host's ids of tool calls are positions, which repeat (row 191), so that
            Tidegate replaces them by ids of its own.
        top_level: the fields beside `choices` that are passed on to every caller.

    For the connection:

    Attributes:
        first_byte_timeout_s: how long a stream may take to begin. It is shorter for hosted APIs: they begin sooner than
            an engine on the operator's own hardware, whose prefill takes longer.
        keepalive_s: how long an idle connection is kept; less than the host's limit (uvicorn and cpp-httplib: 5 s).
        key_header: the header for the API key; in `authorization` the key is sent as a bearer token.
        id_header: the response header with the host's id of the request, for the log.
    """

    name: str
    paths: Mapping[Endpoint, str] = _PATHS
    rules: Rules = Rules()
    unsupported_fields: frozenset[str] = frozenset()
    max_tokens: str | None = None
    default_max_tokens: int | None = None
    defaults: Mapping[str, Raw] = _NO_DEFAULTS
    tool_choices: frozenset[str] = tools.ALL_CHOICES
    required: str = "required"
    supports_tools: bool = True
    parses_tool_calls: bool = True
    supports_tool_types: bool = False
    needs_parameters: bool = False
    forces_tools_while_thinking: bool = True
    parts: frozenset[str] = TEXT_AND_IMAGES
    fetches_urls: bool = True
    structured: Structured = "json_schema"
    structured_with_tools: bool = True
    structured_with_forced_tool: bool = True
    keeps_template_kwargs: bool = False
    put_thinking: thinking.Put | None = thinking.put_effort()
    thinks_by_default: bool = False
    needs_past_reasoning: bool = False
    stand_in: str | None = None
    takes_stream_options: bool = True
    answer_prefix: AnswerPrefix | None = None
    salts_cache: bool = False
    adjust: Adjust = no_adjustment
    adjust_completion: Adjust = no_adjustment
    takes_base64: bool = True
    model_prefix: str = ""

    parse: Callable[[bytes], Chunk] = events.parse
    thought_tags: tuple[str, ...] = ("think",)
    may_lack_parser: bool = False
    leaks_markup: bool = False
    reasoning_may_be_answer: bool = False
    newlines_before_answer: bool = False
    has_positional_call_ids: bool = False
    top_level: frozenset[TopLevel] = frozenset()

    first_byte_timeout_s: float = 600.0
    keepalive_s: float = 4.0
    key_header: str = "authorization"
    id_header: str = "x-request-id"

    def restores_reasoning(self, card: Card) -> bool:
        """Return whether the reasoning of past turns has to be put back into requests to this model."""
        policy = card.reasoning_history
        return self.rules.reasoning is not None and (
            policy == "required" or (policy is None and self.needs_past_reasoning)
        )

    def for_engine(self) -> "Dialect":
        """Return the dialect for an engine: it is in the operator's network, so it must not open any URL or path."""
        rules = structs.replace(
            self.rules, keeps_reasoning_details=False, keeps_extra_content=False, keeps_cache_control=False
        )
        return structs.replace(self, rules=rules, fetches_urls=False)

    def can_continue(self, endpoint: Endpoint) -> bool:
        """Return whether the host can continue an answer that broke off at another host."""
        return endpoint in self.paths and (endpoint == "completions" or self.answer_prefix is not None)

    def build_request(
        self,
        request: ModelRequest,
        *,
        model: str,
        is_stream: bool,
        card: Card = UNKNOWN,
        drops_params: bool = False,
        past_reasoning: Mapping[str, str] = _NOTHING_REMEMBERED,
        api_version: str | None = None,
        salt_caller: str = "",
    ) -> HostRequest:
        """Return the request in the form that this host accepts.

        It is encoded anew, so that a duplicate key in the caller's body cannot bypass the checks.

        Args:
            request: the caller's request.
            model: the model's name at the host.
            is_stream: whether the host is asked for a stream.
            card: the known facts about the model.
            drops_params: whether fields that the host does not support are left out instead of refused.
            past_reasoning: the stored reasoning of past turns by tool-call id.
            api_version: the API version in Azure's deployment URLs; None for other URLs.
            salt_caller: the caller whose prompts other callers must not be able to find out through the host's prefix
                cache; empty: the cache is shared.

        Raises:
            UnsupportedParameter: the request needs something that the host does not support.
            MalformedRequest: a value that is read only for some hosts cannot be read.
            UpstreamLacksOperation: the host does not serve the endpoint; another target may.
            UpstreamLacksModel: the host cannot continue an answer that has begun; another target may.
        """
        fields = {name: value for name, value in request.fields.items() if not is_null(value)}
        draft = RequestDraft(
            fields,
            card,
            drops_params=drops_params,
            is_stream=is_stream,
            prefix=request.prefix,
            api_version=api_version,
        )
        if not _INTERNAL.isdisjoint(fields):
            self._strip_internal(draft)
        try:
            if request.endpoint == "chat":
                self._adjust_chat(draft, past_reasoning)
                draft.fields["messages"] = Raw(_encode(draft.messages))
            else:
                self._adjust_other(draft)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"The request cannot be read: {error}.") from error
        draft.put("model", self._name_of(model))
        if request.endpoint != "embeddings":
            if self.defaults:
                draft.fields = {**self.defaults, **draft.fields}
            self._request_stream(draft)
            if salt_caller and self.salts_cache:
                draft.put("cache_salt", _salt(salt_caller))
        # DeepSeek continues a chat answer only below its beta URL
        is_beta = bool(draft.prefix) and request.endpoint == "chat" and self.answer_prefix == "deepseek_beta"
        return HostRequest(
            "/beta" * is_beta + self.path(request.endpoint, model, api_version),
            _encode(draft.fields),
            self._answer_format(request, draft),
            draft.adjusted,
            draft.schema,
            draft.uses_functions,
            draft.text_calls,
        )

    def path(self, endpoint: Endpoint, model: str, api_version: str | None = None) -> str:
        """Return the path of `endpoint` below the base URL.

        Raises:
            UpstreamLacksOperation: the host does not serve the endpoint; another target may.
        """
        try:
            path = self.paths[endpoint]
        except KeyError:
            message = f"The upstream for this model does not serve {endpoint}."
            raise UpstreamLacksOperation(message, param="model") from None
        if api_version is None:
            return path
        return f"/openai/deployments/{quote(model, safe='')}{path}?api-version={api_version}"

    def _strip_internal(self, draft: RequestDraft) -> None:
        """Drop the fields of `_INTERNAL`.

        Raises:
            UnsupportedParameter: the host is an engine, and one of `_RESOURCE_FIELDS` holds a string.
        """
        for name in [name for name in draft.fields if name in _INTERNAL]:
            if not self.fetches_urls and name in _RESOURCE_FIELDS and b'"' in bytes(draft.fields[name]):
                draft.drop_or_refuse(name, why="may be set only by the operator of a local engine")
            else:
                del draft.fields[name]
                draft.note(name, "dropped")

    def _adjust_chat(self, draft: RequestDraft, past_reasoning: Mapping[str, str]) -> None:
        has_tools = not tools.FIELDS.isdisjoint(draft.fields)
        if not self.rules.keeps_cache_control:
            _drop_cache_control(draft)
        if not self.fetches_urls:
            engine_fields.restrict_fields(draft)
        if has_tools:
            tools.normalise_choice(draft)
            if not self.rules.is_reference:
                tools.modernise(draft)
        requested = self._take_thinking(draft)
        draft.leave_out(self.unsupported_fields)
        self._adjust_messages(draft)
        if not self.rules.is_reference:
            _list_stops(draft)
        if has_tools:
            self._adjust_tools(draft)
        self._adjust_thinking(draft, requested, past_reasoning)
        if not self.structured_with_forced_tool and tools.is_forced(draft):
            structured.drop(draft)
        has = self.structured if self.structured_with_tools or "tools" not in draft.fields else "none"
        structured.emulate(draft, host_has=has)
        self._limit_tokens(draft)
        if draft.prefix:
            put_message(draft, self.answer_prefix)
        self.adjust(draft)
        if not self.supports_tools:
            emulated_tools.write_history(draft)

    def _adjust_tools(self, draft: RequestDraft) -> None:
        tools.drop_empty(draft)
        if self.needs_parameters:
            tools.fill_parameters(draft)
        if not (self.supports_tool_types and self.fetches_urls):
            tools.restrict_to_functions(draft)
        tools.translate_choice(draft, self.tool_choices, required=self.required)
        if not self.parses_tool_calls:
            tools.leave_out(draft)
        if not self.supports_tools:
            emulated_tools.emulate(draft)

    def _adjust_messages(self, draft: RequestDraft) -> None:
        reasoning = None if draft.card.reasoning_history == "forbidden" else self.rules.reasoning
        draft.messages = messages.adapt(draft.fields["messages"], self.rules, reasoning=reasoning, note=draft.note)
        parts.check(draft.messages, known=self.parts, has_vision=draft.card.vision)
        if not self.fetches_urls:
            engine_messages.restrict(draft)

    def _adjust_other(self, draft: RequestDraft) -> None:
        if not self.takes_base64:
            draft.fields.pop("encoding_format", None)
        if not self.fetches_urls:
            engine_fields.restrict_fields(draft)
        # `restrict_fields` keeps `messages`, which have no use here
        draft.leave_out(self.unsupported_fields if self.fetches_urls else self.unsupported_fields | {"messages"})
        if not self.rules.is_reference:
            _list_stops(draft)
        if draft.prefix:
            put_prompt(draft)
        self.adjust_completion(draft)

    def _take_thinking(self, draft: RequestDraft) -> thinking.Thinking:
        """Return the thinking that the caller requests, and remove its fields from the draft.

        If the dialect sends the caller's fields unchanged (`put_thinking` is None), they are taken from a copy.
        """
        source = RequestDraft(dict(draft.fields), draft.card) if self.put_thinking is None else draft
        return thinking.take(source, keeps_template_kwargs=self.keeps_template_kwargs)

    def _adjust_thinking(
        self, draft: RequestDraft, requested: thinking.Thinking, past_reasoning: Mapping[str, str]
    ) -> None:
        is_thinking = thinking.is_thinking(draft, requested, by_default=self.thinks_by_default)
        is_blocked_by_tools = (not self.forces_tools_while_thinking and tools.is_forced(draft)) or (
            not draft.card.tools_while_thinking and "tools" in draft.fields
        )
        put = self.put_thinking
        # An answer that has begun comes after its thinking; most templates would read the prefix as thinking.
        must_not_think = bool(draft.prefix) or (is_thinking and is_blocked_by_tools)
        if must_not_think and draft.card.thinking != "always":
            requested, is_thinking = thinking.Thinking(is_on=False), False
            thinking.take_template_switch(draft)
            draft.note("thinking", "off")
            put = put or thinking.put_effort()
        needs_no_switch = draft.card.thinking == "never" and requested.is_on is False
        if put is not None and not needs_no_switch:
            put(draft, requested)
            requested.note_rest(draft)
        draft.is_thinking = is_thinking
        if is_thinking:
            draft.leave_out(draft.card.refused_while_thinking)
            if self.restores_reasoning(draft.card) and self.rules.reasoning is not None:
                history.restore(draft, self.rules.reasoning, past_reasoning, stand_in=self.stand_in)

    def _limit_tokens(self, draft: RequestDraft) -> None:
        """Q-MAX: send one limit, under the host's name for it, and at most the model's maximum."""
        fields = draft.fields
        newer, older = fields.pop("max_completion_tokens", None), fields.pop("max_tokens", None)
        given = "max_tokens" if newer is None else "max_completion_tokens"
        limit = older if newer is None else newer
        name, maximum = self.max_tokens or given, draft.card.max_output_tokens
        if limit is None:
            if self.default_max_tokens is not None:
                default = min(self.default_max_tokens, maximum or self.default_max_tokens)
                draft.put(name, default)
                draft.note(name, default)
            return
        if maximum is not None and float(bytes(limit)) > maximum:
            draft.put(name, maximum)
            draft.note(given, maximum)
        else:
            fields[name] = limit

    def _request_stream(self, draft: RequestDraft) -> None:
        draft.fields.pop("stream_options", None)
        draft.fields.pop("stream", None)
        if draft.is_stream:
            draft.fields["stream"] = _TRUE
            if self.takes_stream_options:
                draft.fields["stream_options"] = Raw(b'{"include_usage":true}')

    def _answer_format(self, request: ModelRequest, draft: RequestDraft) -> HostAnswerFormat:
        wants_logprobs = bytes(request.fields.get("logprobs", b"null")) not in {b"null", b"false"}
        if request.endpoint != "chat":
            return HostAnswerFormat(may_call=False, top_level=self.top_level, wants_logprobs=wants_logprobs)
        offered = tools.may_be_called(draft)  # not from the request, whose tools may be null or an empty list
        limit = draft.fields.get("max_completion_tokens", draft.fields.get("max_tokens"))
        is_one_call = draft.uses_functions or bytes(request.fields.get("parallel_tool_calls", b"")) == b"false"
        return HostAnswerFormat(
            thought_tags=self.thought_tags,
            begins_in_reasoning=self._begins_in_thought(draft),
            leaks_markup=self.leaks_markup if draft.card.leaks_markup is None else draft.card.leaks_markup,
            may_call=offered is not UNSET,
            tools=offered,
            one_call=is_one_call,
            reasoning_may_be_answer=self.reasoning_may_be_answer,
            newlines_before_answer=self.newlines_before_answer,
            has_positional_call_ids=self.has_positional_call_ids,
            choices=1 if (n := request.fields.get("n")) is None or is_null(n) else int(float(bytes(n))),
            top_level=self.top_level.union(name for name in _REQUESTED_TOP_LEVEL if name in draft.fields),
            wants_logprobs=wants_logprobs,
            max_tokens=None if limit is None else int(float(bytes(limit))),
        )

    def _begins_in_thought(self, draft: RequestDraft) -> bool:
        """Return whether the text may begin inside the thinking tag that the template opened (contract C.9a).

        It cannot if the form of the answer is constrained: without a parser for thinking, the engine applies that
        constraint from the first token on, so there is no thinking.
        """
        is_prefilled = draft.is_thinking and draft.card.reasoning_tags == "prefilled"
        return self.may_lack_parser and is_prefilled and not _OUTPUT_CONSTRAINTS & draft.fields.keys()

    def _name_of(self, model: str) -> str:
        return model if "/" in model else self.model_prefix + model


@functools.lru_cache(maxsize=1024)
def _salt(salt_caller: str) -> str:
    """Return a salt of 43 characters, the least that vLLM recommends.

    It only has to be different for each caller, not secret: a `cache_salt` sent by a caller is dropped (`_INTERNAL`).
    """
    digest = sha256(b"tidegate cache salt\0" + salt_caller.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _drop_cache_control(draft: RequestDraft) -> None:
    """Drop Anthropic's `cache_control` from the request and its tools, as some hosts refuse unknown fields."""
    if draft.fields.pop("cache_control", None) is not None:
        draft.note("cache_control", "dropped")
    if b"cache_control" in bytes(draft.fields.get("tools", b"")):
        tools.drop_cache_control(draft)


def _list_stops(draft: RequestDraft) -> None:
    """Q-STOP: make `stop` a list without empty strings; remove it if the list is empty."""
    raw = draft.fields.get("stop")
    if raw is None:
        return
    stops = [as_text(raw)] if json_type(raw) == "string" else [as_text(stop) for stop in as_list(raw)]
    kept = [stop for stop in stops if stop]
    if kept:
        draft.put("stop", kept)
    else:
        del draft.fields["stop"]
