"""`Dialect`, the facts about one kind of host, and the translator that reads them.

The rule ids (Q-…) are those of the contract, section B.0.
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
    allowlist,
    emulated_tools,
    engine_messages,
    events,
    history,
    messages,
    parts,
    structured,
    thinking,
    tools,
)
from tidegate.dialects.draft import Draft
from tidegate.dialects.messages import Rules
from tidegate.dialects.prefill import Prefill, put_message, put_prompt
from tidegate.errors import MalformedRequest, UpstreamLacksOperation
from tidegate.protocol.chat import Chunk, Reading, TopLevel
from tidegate.protocol.raw import as_list, as_text
from tidegate.protocol.request import Endpoint, ModelRequest, is_null, json_type
from tidegate.protocol.text_calls import TextCalls

Adjust = Callable[[Draft], None]

_encode = msgspec.json.Encoder().encode
_TRUE = Raw(b"true")
_NOTHING_REMEMBERED: Mapping[str, str] = {}
_NO_DEFAULTS: Mapping[str, Raw] = MappingProxyType({})

# What only the engine's operator may set; a caller's would cross into other requests (contract 76o, DESIGN 8).
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
        # SGLang's
        "custom_logit_processor",  # code
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "extra_key",
        "lora_path",  # another model than the one that the caller may use
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
_OPERATOR_FIELDS = frozenset({"bootstrap_host", "lora_path"})
# What holds an answer to a form, in the words of all engines.
_FORMS = frozenset({"response_format", "structured_outputs", "json_schema", "grammar", "regex", "ebnf"})
TEXT_AND_IMAGES = frozenset({"text", "image_url"})
OPENAI_PARTS = frozenset({"text", "refusal", "image_url", "input_audio", "file"})
ENGINE_PARTS = frozenset({"text", "image_url", "input_audio", "audio_url", "video_url"})
# What OpenAI alone has; elsewhere it is refused, or ignored in silence, which is worse.
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


def no_adjustment(_draft: Draft) -> None:
    """Most hosts need none."""


class HostRequest(Struct, frozen=True):
    """A request as it goes to one host.

    Attributes:
        path: below the base URL, with the query.
        body: JSON.
        reading: how the answer is to be read.
        adjusted: what was changed in more than its spelling, as `name=word`.
        schema: what the answer must be valid against, because the host does not see to it; None: nothing.
        asks_functions: whether the host's tools are the caller's `functions`, so that a call is its `function_call`.
        text_calls: how text of the answer is read as tool calls, if the tools are emulated; None: they are not.
    """

    path: str
    body: bytes
    reading: Reading
    adjusted: list[str]
    schema: Raw | None = None
    asks_functions: bool = False
    text_calls: TextCalls | None = None


class Dialect(Struct, frozen=True, kw_only=True):
    """The facts about one kind of host; immutable and shared.

    Of the request:

    Attributes:
        name: as the config spells it.
        paths: where each endpoint is below the base URL; what is missing the host does not have.
        rules: how it wants its messages.
        lacks: fields that it refuses or ignores: hints are left out, what changes the result is refused (Q-DROP).
        max_tokens: the one name that it honours (Q-MAX), or None where both are fine.
        default_max_tokens: sent where the caller sets no limit and the host has none of its own.
        defaults: sent where the caller says nothing and the host would do other than OpenAI; not for embeddings.
        tool_choices: the forms that it knows, of `tools.ALL_CHOICES`.
        required: its word for a tool that must be called.
        knows_tools: whether the model's chat template knows tools; otherwise they are emulated (`emulated_tools`).
        calls_tools: whether it reads its model's tool calls; otherwise tools that may be called are refused.
        knows_tool_types: whether it knows custom tools and `allowed_tools`.
        needs_parameters: whether it refuses a function without `parameters`, which to OpenAI has no arguments.
        forces_tools_while_thinking: whether a tool can be forced on a model that thinks (Q-FORCE).
        parts: the types of content parts that it knows.
        fetches_urls: whether it may be sent URLs; an engine would open any, so its requests pass `allowlist`.
        structured: the most that `response_format` can be.
        structured_with_tools: whether that holds beside tools too.
        structured_with_forced_tool: whether `response_format` is taken beside a tool that must be called (row 86).
        leaves_template: whether `chat_template_kwargs` mean something to it.
        put_thinking: how it is told to think or not; None: as the caller says it.
        thinks_by_default: what its models do, where no card knows.
        needs_history: whether it refuses turns without their reasoning, where no card knows (row 10).
        stand_in: what it accepts in place of a reasoning that we do not know.
        asks_usage: whether it takes `stream_options` (Q-SOPT); usage is always wanted for our own books.
        prefill: how it is told to go on with an answer that broke off; None: it cannot be.
        salts_cache: whether its prefix cache is kept apart by `cache_salt`.
        adjust: what a table cannot say; may raise `UnsupportedParameter`.
        adjust_completion: the same for the other endpoints, which have no messages.
        takes_base64: whether it can return vectors in base64; otherwise its floats are encoded here.
        model_prefix: stands before a model's name that holds no slash.

    Of the answer:

    Attributes:
        parse: one event, or a unary answer, as a `Chunk`.
        thought_tags: names of tags in which thinking stands at the beginning of the content (R-THINK).
        may_lack_parser: whether it may pass on thinking as its model wrote it, without the tag that the template
            opened; who sells answers takes thinking apart, or gives both tags.
        leaks_markup: whether it may pass on tool calls as the model's markup; the model's card overrides this.
        repairs_silence: whether an answer may come as reasoning alone (rows 68, 76i).
        pads_answer: whether the newlines behind the thinking come as the beginning of the answer (row 76g).
        numbers_calls: whether ids of tool calls are mere positions (row 191), so that ours replace them.
        top_level: fields beside `choices` that are passed on to every caller.

    Of the wire:

    Attributes:
        first_byte_timeout_s: how long a stream may take to begin; a hosted API answers sooner than one's own prefill.
        keepalive_s: how long an idle connection is kept; below the host's own limit (uvicorn and cpp-httplib: 5 s).
        key_header: where it wants its key; `authorization` is a bearer token.
        id_header: where it says its own id of a request, for our log.
    """

    name: str
    paths: Mapping[Endpoint, str] = _PATHS
    rules: Rules = Rules()
    lacks: frozenset[str] = frozenset()
    max_tokens: str | None = None
    default_max_tokens: int | None = None
    defaults: Mapping[str, Raw] = _NO_DEFAULTS
    tool_choices: frozenset[str] = tools.ALL_CHOICES
    required: str = "required"
    knows_tools: bool = True
    calls_tools: bool = True
    knows_tool_types: bool = False
    needs_parameters: bool = False
    forces_tools_while_thinking: bool = True
    parts: frozenset[str] = TEXT_AND_IMAGES
    fetches_urls: bool = True
    structured: Structured = "json_schema"
    structured_with_tools: bool = True
    structured_with_forced_tool: bool = True
    leaves_template: bool = False
    put_thinking: thinking.Put | None = thinking.put_effort()
    thinks_by_default: bool = False
    needs_history: bool = False
    stand_in: str | None = None
    asks_usage: bool = True
    prefill: Prefill | None = None
    salts_cache: bool = False
    adjust: Adjust = no_adjustment
    adjust_completion: Adjust = no_adjustment
    takes_base64: bool = True
    model_prefix: str = ""

    parse: Callable[[bytes], Chunk] = events.parse
    thought_tags: tuple[str, ...] = ("think",)
    may_lack_parser: bool = False
    leaks_markup: bool = False
    repairs_silence: bool = False
    pads_answer: bool = False
    numbers_calls: bool = False
    top_level: frozenset[TopLevel] = frozenset()

    first_byte_timeout_s: float = 600.0
    keepalive_s: float = 4.0
    key_header: str = "authorization"
    id_header: str = "x-request-id"

    def remembers(self, card: Card) -> bool:
        """Whether past reasoning is to be put back for a model."""
        policy = card.reasoning_history
        return self.rules.reasoning is not None and (policy == "required" or (policy is None and self.needs_history))

    def for_engine(self) -> "Dialect":
        """The dialect with the limits of an engine: it is in the operator's network, so it must open no URL or path."""
        rules = structs.replace(
            self.rules, keeps_reasoning_details=False, keeps_extra_content=False, keeps_cache_control=False
        )
        return structs.replace(self, rules=rules, fetches_urls=False)

    def can_go_on(self, endpoint: Endpoint) -> bool:
        """Whether it can go on with an answer that broke off elsewhere."""
        return endpoint in self.paths and (endpoint == "completions" or self.prefill is not None)

    def build_request(
        self,
        request: ModelRequest,
        *,
        model: str,
        is_stream: bool,
        card: Card = UNKNOWN,
        drops_params: bool = False,
        remembered: Mapping[str, str] = _NOTHING_REMEMBERED,
        api_version: str | None = None,
        tenant: str = "",
    ) -> HostRequest:
        """What this host takes: re-encoded, so that no duplicate key of the caller's slips by our checks.

        Args:
            request: the caller's.
            model: its name at the host.
            is_stream: whether a stream is wanted of the host.
            card: what is known of the model.
            drops_params: leave out what the host cannot honour.
            remembered: reasoning of past turns by tool-call id.
            api_version: of Azure's deployment URLs.
            tenant: whose prompts must not be found out by others through the host's prefix cache; empty: nobody's.

        Raises:
            UnsupportedParameter: the request needs what the host does not have.
            MalformedRequest: what only some hosts look into cannot be read.
            UpstreamLacksOperation: the host does not have the endpoint, another target may.
            UpstreamLacksModel: it cannot go on with an answer that has begun, another target may.
        """
        fields = {name: value for name, value in request.fields.items() if not is_null(value)}
        draft = Draft(
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
                self._adjust_chat(draft, remembered)
                draft.fields["messages"] = Raw(_encode(draft.messages))
            else:
                self._adjust_other(draft)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"The request cannot be read: {error}.") from error
        draft.put("model", self._name_of(model))
        if request.endpoint != "embeddings":
            if self.defaults:
                draft.fields = {**self.defaults, **draft.fields}
            self._ask_stream(draft)
            if tenant and self.salts_cache:
                draft.put("cache_salt", _salt(tenant))
        is_beta = bool(draft.prefix) and request.endpoint == "chat" and self.prefill == "deepseek_beta"
        return HostRequest(
            "/beta" * is_beta + self.path(request.endpoint, model, api_version),
            _encode(draft.fields),
            self._reading(request, draft),
            draft.adjusted,
            draft.schema,
            draft.asks_functions,
            draft.text_calls,
        )

    def path(self, endpoint: Endpoint, model: str, api_version: str | None = None) -> str:
        """Where `endpoint` is below the base URL.

        Raises:
            UpstreamLacksOperation: the host does not have it, another target may.
        """
        try:
            path = self.paths[endpoint]
        except KeyError:
            told = f"The upstream for this model does not serve {endpoint}."
            raise UpstreamLacksOperation(told, param="model") from None
        if api_version is None:
            return path
        return f"/openai/deployments/{quote(model, safe='')}{path}?api-version={api_version}"

    def _strip_internal(self, draft: Draft) -> None:
        for name in [name for name in draft.fields if name in _INTERNAL]:
            if not self.fetches_urls and name in _OPERATOR_FIELDS and b'"' in bytes(draft.fields[name]):
                draft.refuse(name, why="may be set only by the operator of a local engine")
            else:
                del draft.fields[name]
                draft.note(name, "dropped")

    def _adjust_chat(self, draft: Draft, remembered: Mapping[str, str]) -> None:
        has_tools = not tools.FIELDS.isdisjoint(draft.fields)
        if not self.rules.keeps_cache_control:
            _drop_cache_control(draft)
        if not self.fetches_urls:
            allowlist.restrict_fields(draft)
        if has_tools:
            tools.normalise_choice(draft)
            if not self.rules.is_reference:
                tools.modernise(draft)
        wanted = self._take_thinking(draft)
        draft.leave_out(self.lacks)
        self._adjust_messages(draft)
        if not self.rules.is_reference:
            _list_stops(draft)
        if has_tools:
            self._adjust_tools(draft)
        self._adjust_thinking(draft, wanted, remembered)
        if not self.structured_with_forced_tool and tools.is_forced(draft):
            structured.drop(draft)
        has = self.structured if self.structured_with_tools or "tools" not in draft.fields else "none"
        structured.emulate(draft, host_has=has)
        self._limit_tokens(draft)
        if draft.prefix:
            put_message(draft, self.prefill)
        self.adjust(draft)
        if not self.knows_tools:
            emulated_tools.write_history(draft)

    def _adjust_tools(self, draft: Draft) -> None:
        tools.tidy(draft)
        if self.needs_parameters:
            tools.fill_parameters(draft)
        if not (self.knows_tool_types and self.fetches_urls):
            tools.plain_tools(draft)
        tools.choose(draft, self.tool_choices, required=self.required)
        if not self.calls_tools:
            tools.leave_out(draft)
        if not self.knows_tools:
            emulated_tools.emulate(draft)

    def _adjust_messages(self, draft: Draft) -> None:
        reasoning = None if draft.card.reasoning_history == "forbidden" else self.rules.reasoning
        draft.messages = messages.adapt(draft.fields["messages"], self.rules, reasoning=reasoning, note=draft.note)
        parts.check(draft.messages, known=self.parts, has_vision=draft.card.vision)
        if not self.fetches_urls:
            engine_messages.restrict(draft)

    def _adjust_other(self, draft: Draft) -> None:
        if not self.takes_base64:
            draft.fields.pop("encoding_format", None)
        if not self.fetches_urls:
            allowlist.restrict_fields(draft)
        draft.leave_out(self.lacks if self.fetches_urls else self.lacks | {"messages"})
        if not self.rules.is_reference:
            _list_stops(draft)
        if draft.prefix:
            put_prompt(draft)
        self.adjust_completion(draft)

    def _take_thinking(self, draft: Draft) -> thinking.Thinking:
        source = Draft(dict(draft.fields), draft.card) if self.put_thinking is None else draft
        return thinking.take(source, leaves_template=self.leaves_template)

    def _adjust_thinking(self, draft: Draft, wanted: thinking.Thinking, remembered: Mapping[str, str]) -> None:
        is_thinking = thinking.is_thinking(draft, wanted, by_default=self.thinks_by_default)
        is_in_the_way = (not self.forces_tools_while_thinking and tools.is_forced(draft)) or (
            not draft.card.tools_while_thinking and "tools" in draft.fields
        )
        put = self.put_thinking
        # an answer that has begun is thought over; most templates would make it the thinking
        is_unwanted = bool(draft.prefix) or (is_thinking and is_in_the_way)
        if is_unwanted and draft.card.thinking != "always":
            wanted, is_thinking = thinking.Thinking(is_on=False), False
            thinking.take_template_switch(draft)
            draft.note("thinking", "off")
            put = put or thinking.put_effort()
        has_nothing_to_switch = draft.card.thinking == "never" and wanted.is_on is False
        if put is not None and not has_nothing_to_switch:
            put(draft, wanted)
            wanted.note_rest(draft)
        draft.is_thinking = is_thinking
        if is_thinking:
            draft.leave_out(draft.card.refused_while_thinking)
            if self.remembers(draft.card) and self.rules.reasoning is not None:
                history.restore(draft, self.rules.reasoning, remembered, stand_in=self.stand_in)

    def _limit_tokens(self, draft: Draft) -> None:
        """Q-MAX: one limit, in the host's name for it, and not over what the model can."""
        fields = draft.fields
        newer, older = fields.pop("max_completion_tokens", None), fields.pop("max_tokens", None)
        given = "max_tokens" if newer is None else "max_completion_tokens"
        limit = older if newer is None else newer
        name, most = self.max_tokens or given, draft.card.max_output_tokens
        if limit is None:
            if self.default_max_tokens is not None:
                default = min(self.default_max_tokens, most or self.default_max_tokens)
                draft.put(name, default)
                draft.note(name, default)
            return
        if most is not None and float(bytes(limit)) > most:
            draft.put(name, most)
            draft.note(given, most)
        else:
            fields[name] = limit

    def _ask_stream(self, draft: Draft) -> None:
        draft.fields.pop("stream_options", None)
        draft.fields.pop("stream", None)
        if draft.is_stream:
            draft.fields["stream"] = _TRUE
            if self.asks_usage:
                draft.fields["stream_options"] = Raw(b'{"include_usage":true}')

    def _reading(self, request: ModelRequest, draft: Draft) -> Reading:
        wants_logprobs = bytes(request.fields.get("logprobs", b"null")) not in {b"null", b"false"}
        if request.endpoint != "chat":
            return Reading(may_call=False, top_level=self.top_level, wants_logprobs=wants_logprobs)
        offered = tools.may_be_called(draft)  # of the draft, where null and an empty list are gone
        limit = draft.fields.get("max_completion_tokens", draft.fields.get("max_tokens"))
        wants_one = draft.asks_functions or bytes(request.fields.get("parallel_tool_calls", b"")) == b"false"
        return Reading(
            thought_tags=self.thought_tags,
            begins_in_thought=self._begins_in_thought(draft),
            repairs_markup=self.leaks_markup if draft.card.leaks_markup is None else draft.card.leaks_markup,
            may_call=offered is not UNSET,
            tools=offered,
            one_call=wants_one,
            repairs_silence=self.repairs_silence,
            pads_answer=self.pads_answer,
            numbers_calls=self.numbers_calls,
            choices=1 if (n := request.fields.get("n")) is None or is_null(n) else int(float(bytes(n))),
            top_level=self.top_level.union(name for name in _REQUESTED_TOP_LEVEL if name in draft.fields),
            wants_logprobs=wants_logprobs,
            max_tokens=None if limit is None else int(float(bytes(limit))),
        )

    def _begins_in_thought(self, draft: Draft) -> bool:
        """Whether the text may go on where the template began (contract C.9a).

        Not where the answer is held to a form: without a parser for thinking that holds from the first token on.
        """
        is_prefilled = draft.is_thinking and draft.card.reasoning_tags == "prefilled"
        return self.may_lack_parser and is_prefilled and not _FORMS & draft.fields.keys()

    def _name_of(self, model: str) -> str:
        return model if "/" in model else self.model_prefix + model


@functools.lru_cache(maxsize=1024)
def _salt(tenant: str) -> str:
    """43 characters, as vLLM advises. No caller can send one of its own, so it need not be secret, only its own."""
    digest = sha256(b"tidegate cache salt\0" + tenant.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _drop_cache_control(draft: Draft) -> None:
    """Drop Anthropic's `cache_control` of the request and its tools: some hosts refuse unknown fields."""
    if draft.fields.pop("cache_control", None) is not None:
        draft.note("cache_control", "dropped")
    if b"cache_control" in bytes(draft.fields.get("tools", b"")):
        tools.drop_cache_control(draft)


def _list_stops(draft: Draft) -> None:
    """Q-STOP: a list without empty strings, or nothing."""
    raw = draft.fields.get("stop")
    if raw is None:
        return
    stops = [as_text(raw)] if json_type(raw) == "string" else [as_text(stop) for stop in as_list(raw)]
    kept = [stop for stop in stops if stop]
    if kept:
        draft.put("stop", kept)
    else:
        del draft.fields["stop"]
