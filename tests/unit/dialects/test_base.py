"""The translator that all dialects share (contract B.0)."""

import json

import pytest
from msgspec import structs

from tidegate.config.cards import Card, Cards, known_cards
from tidegate.dialects.base import Dialect
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import UnsupportedParameter, UpstreamLacksOperation
from tidegate.protocol import chat, completions, embeddings

PLAIN = Dialect(name="plain")
TOOL = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": "hi"}


def sent_fields(dialect=PLAIN, *, is_stream=False, **fields):
    """Return the body that is sent upstream, without the model and the messages."""
    request = chat.parse_request(json.dumps({"model": "public", "messages": [USER]} | fields).encode())
    body = json.loads(dialect.build_request(request, model="host-model", is_stream=is_stream).body)
    assert body.pop("model") == "host-model"
    assert body.pop("messages") == fields.get("messages", [USER])
    return body


def test_the_model_is_sent_under_the_hosts_name():
    assert sent_fields() == {}


def test_every_other_field_is_sent_unchanged():
    fields = {"temperature": 0.5, "seed": 7, "response_format": {"type": "json_object"}, "vendor": {"a": [None, "é"]}}
    assert sent_fields(**fields) == fields


def test_nulls_are_left_out():
    """The Python SDK sends explicit nulls; some hosts answer 400 to them (Q-NULL)."""
    assert sent_fields(temperature=None, stop=None, tools=None, tool_choice=None, vendor=None) == {}


def test_a_duplicate_key_is_sent_once():
    """Otherwise a duplicate could bypass the checks, which read only one of the two values."""
    twice = b'"messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","role":"user","content":"b"}]'
    body = b'{"model":"a",%b,"n":1,"n":2}' % twice
    built = PLAIN.build_request(chat.parse_request(body), model="m", is_stream=False).body
    assert built.count(b'"n"') == 1
    assert built.count(b'"messages"') == 1
    assert built.count(b'"role"') == 1
    assert json.loads(built)["n"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "bootstrap_room",
        "request_id",
        "priority",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "cache_salt",
        "id_slot",
        "custom_logit_processor",
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "extra_key",
        "lora_path",
        "rid",
        "routed_dp_rank",
        "session_params",
    ],
)
def test_internal_fields_of_engines_are_stripped(name):
    """Set by a caller, they would affect other callers' requests (contract 76o)."""
    assert sent_fields(**{name: 1}) == {}


@pytest.mark.parametrize(
    ("fields", "is_stream", "sent"),
    [
        ({}, False, {}),
        ({"stream": False}, False, {}),
        ({"stream": True}, True, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": True}},
            True,
            {"stream": True, "stream_options": {"include_usage": True}},
        ),
        # an engine may be asked for a stream although the caller did not request one
        ({}, True, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_usage_is_always_requested(fields, is_stream, sent):
    """Tidegate needs it for its accounting (Q-SOPT)."""
    assert sent_fields(is_stream=is_stream, **fields) == sent


def test_a_host_without_stream_options_is_sent_none():
    assert sent_fields(Dialect(name="x", takes_stream_options=False), is_stream=True, stream=True) == {"stream": True}


@pytest.mark.parametrize(
    ("name", "fields", "sent"),
    [
        ("max_tokens", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 9, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 9, "max_completion_tokens": None}, {"max_tokens": 9}),
        ("max_completion_tokens", {"max_tokens": 9}, {"max_completion_tokens": 9}),
        ("max_tokens", {}, {}),
        (None, {"max_tokens": 9, "max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        (None, {"max_tokens": 9}, {"max_tokens": 9}),
    ],
)
def test_the_limit_has_the_name_that_the_host_honours(name, fields, sent):
    """If the caller sends both names, the newer one wins (Q-MAX)."""
    assert sent_fields(Dialect(name="x", max_tokens=name), **fields) == sent


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tools": []}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tool_choice": "none"}, {}),
        ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "auto"}),
        ({"tools": [TOOL], "parallel_tool_calls": False}, {"tools": [TOOL], "parallel_tool_calls": False}),
        ({"stop": []}, {}),
        ({"stop": ""}, {}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["a", ""]}, {"stop": ["a"]}),
    ],
)
def test_empty_values_are_left_out(fields, sent):
    """Hosts answer 400 to `tools: []` and to `stop: ""` (Q-TOOLS, Q-STOP, 76d)."""
    assert sent_fields(**fields) == sent


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ({}, {"type": "object", "properties": {}}),
        ({"parameters": None}, {"type": "object", "properties": {}}),
        ({"parameters": {}}, {"type": "object", "properties": {}}),
        ({"parameters": {"properties": {"a": {"type": "string"}}}}, None),
        ({"parameters": {"type": "object"}}, {"type": "object"}),
        ({"parameters": []}, []),
    ],
)
def test_a_function_gets_parameters_if_the_host_needs_them(function, parameters):
    """OpenAI treats a function without `parameters` as one without arguments."""
    if parameters is None:
        parameters = {"type": "object"} | function["parameters"]
    given = [
        TOOL,
        {"type": "custom", "custom": {"name": "c"}},
        {"type": "function", "function": {"name": "g"} | function},
    ]
    host = Dialect(name="x", needs_parameters=True, supports_tool_types=True)
    *others, last = sent_fields(host, tools=given)["tools"]
    assert others[1] == given[1]
    assert last == {"type": "function", "function": {"name": "g", "parameters": parameters}}


def test_empty_lists_are_recognised_despite_white_space():
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[ \n ],"stop":[\t]}'
    assert set(json.loads(PLAIN.build_request(chat.parse_request(body), model="m", is_stream=False).body)) == {
        "model",
        "messages",
    }


def test_hints_that_a_host_rejects_are_dropped():
    dialect = Dialect(name="x", unsupported_fields=frozenset({"user", "seed"}))
    assert sent_fields(dialect, user="u", seed=1, top_p=0.5) == {"top_p": 0.5}


@pytest.mark.parametrize("value", [{"1": 5}, True, 3, "x", [1]])
def test_a_field_that_changes_the_result_and_is_not_supported_is_refused(value):
    """The answer would otherwise differ from the one that was requested (Q-DROP)."""
    dialect = Dialect(name="x", unsupported_fields=frozenset({"special"}))
    with pytest.raises(UnsupportedParameter, match="'special' is not supported with this model") as caught:
        sent_fields(dialect, special=value)
    assert (caught.value.param, caught.value.code, caught.value.status) == ("special", "unsupported_parameter", 400)


@pytest.mark.parametrize("value", [None, False, {}, []])
def test_a_default_value_is_not_refused(value):
    """`logit_bias: {}` and `false` are hints, and are dropped without a report (Q-DROP)."""
    assert sent_fields(Dialect(name="x", unsupported_fields=frozenset({"special"})), special=value) == {}


def host_request(dialect=PLAIN, **fields):
    """Return the whole request to the host."""
    request = chat.parse_request(json.dumps({"model": "public", "messages": [USER]} | fields).encode())
    return dialect.build_request(request, model="host-model", is_stream=False)


@pytest.mark.parametrize(("call", "may_call"), [(None, True), ("auto", True), ({"name": "f"}, True), ("none", False)])
def test_functions_are_answered_with_one_function_call(call, may_call):
    built = host_request(functions=[{"name": "f"}], function_call=call)
    assert (built.uses_functions, built.answer_format.one_call, built.answer_format.may_call) == (True, True, may_call)


def test_tools_are_answered_with_tool_calls():
    built = host_request(functions=[], tools=[TOOL])
    assert (built.uses_functions, built.answer_format.one_call, built.answer_format.may_call) == (False, False, True)


def test_a_host_without_tools_refuses_functions():
    """The error names the field that the caller sent."""
    with pytest.raises(UnsupportedParameter, match="'functions' is not supported with this model") as caught:
        host_request(Dialect(name="x", unsupported_fields=frozenset({"tools"})), functions=[{"name": "f"}])
    assert caught.value.param == "functions"


def test_a_legacy_completion_is_not_subject_to_chat_rules():
    request = completions.parse_request(b'{"model":"a","prompt":["x"],"max_tokens":5,"stop":"","stream":true}')
    built = json.loads(
        Dialect(name="x", max_tokens="max_completion_tokens").build_request(request, model="m", is_stream=True).body
    )
    assert built["prompt"] == ["x"]
    assert built["max_tokens"] == 5
    assert built["stream"] is True


def test_an_embedding_is_never_a_stream():
    request = embeddings.parse_request(b'{"model":"a","input":"x","encoding_format":"base64"}')
    assert json.loads(PLAIN.build_request(request, model="m", is_stream=True).body) == {
        "model": "m",
        "input": "x",
        "encoding_format": "base64",
    }


def test_every_endpoint_has_its_path():
    assert [PLAIN.path(endpoint, "m") for endpoint in ("chat", "completions", "embeddings")] == [
        "/chat/completions",
        "/completions",
        "/embeddings",
    ]


def test_an_endpoint_that_a_host_does_not_serve_may_be_tried_at_another_target():
    with pytest.raises(UpstreamLacksOperation, match="does not serve embeddings") as caught:
        Dialect(name="x", paths={"chat": "/chat"}).path("embeddings", "m")
    assert caught.value.may_try_another_target


# --- what the card of a model changes -----------------------------------------------------------------------------

CARDS = Cards({}, known_cards())
THOUGHT = [USER, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, USER]
CALLED = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
]
ON, OFF = {"thinking": True, "enable_thinking": True}, {"thinking": False, "enable_thinking": False}
EFFORT = {"reasoning_effort": "high"}
TOOLS = {"tools": [TOOL]}


def request_with_card(dialect, model, *, card=None, drops_params=False, **fields):
    """Return the request to a host for a model that has a card."""
    request = chat.parse_request(json.dumps({"model": "public", "messages": [USER]} | fields).encode())
    return DIALECTS[dialect].build_request(
        request,
        model=model,
        is_stream=False,
        card=card or CARDS.find(model),
        drops_params=drops_params,
        past_reasoning={"c1": "I need f."},
    )


def switches(built):
    names = {"thinking", "reasoning", "reasoning_effort", "chat_template_kwargs"}
    return {name: value for name, value in json.loads(built.body).items() if name in names}


@pytest.mark.parametrize(
    ("dialect", "model", "fields", "sent", "adjusted"),
    [
        # row 64: the switch must be set in their chat template
        ("vllm", "deepseek-ai/DeepSeek-V3.1", EFFORT, EFFORT | {"chat_template_kwargs": ON}, []),
        ("vllm", "deepseek-ai/DeepSeek-V3.2", EFFORT, EFFORT | {"chat_template_kwargs": ON}, []),
        ("sglang", "deepseek-ai/DeepSeek-V3.1", EFFORT, EFFORT | {"chat_template_kwargs": ON}, []),
        ("together", "deepseek-ai/DeepSeek-V3.1", EFFORT, EFFORT | {"reasoning": {"enabled": True}}, []),
        ("openrouter", "deepseek/deepseek-chat-v3.1", EFFORT, {"reasoning": {"effort": "high"}}, []),
        ("vllm", "deepseek-ai/DeepSeek-V3.1", {}, {}, []),
        # V3.1 calls tools only without thinking, V3.2 also with it
        (
            "vllm",
            "deepseek-ai/DeepSeek-V3.1",
            EFFORT | TOOLS,
            {"chat_template_kwargs": OFF},
            ["thinking=off"],
        ),
        (
            "vllm",
            "deepseek-ai/DeepSeek-V3.1",
            {"chat_template_kwargs": {"thinking": True, "x": 1}} | TOOLS,
            {"chat_template_kwargs": OFF | {"x": 1}},
            ["thinking=off"],
        ),
        ("vllm", "deepseek-ai/DeepSeek-V3.1", TOOLS, {}, []),
        ("vllm", "deepseek-ai/DeepSeek-V3.2", EFFORT | TOOLS, EFFORT | {"chat_template_kwargs": ON}, []),
        # row 63: V4.1 answers 400 to these; row 62: V4 reads medium as low
        (
            "vllm",
            "deepseek-ai/DeepSeek-V4.1-Flash",
            {"reasoning_effort": "medium"},
            {"reasoning_effort": "high"},
            ["reasoning_effort=high"],
        ),
        (
            "vllm",
            "deepseek-ai/DeepSeek-V4.1-Flash",
            {"reasoning_effort": "minimal"},
            {"reasoning_effort": "low"},
            ["reasoning_effort=low"],
        ),
        (
            "vllm",
            "deepseek-ai/DeepSeek-V4-Flash",
            {"reasoning_effort": "medium"},
            {"reasoning_effort": "high"},
            ["reasoning_effort=high"],
        ),
        ("vllm", "deepseek-ai/DeepSeek-V4-Flash", {"reasoning_effort": "none"}, {"chat_template_kwargs": OFF}, []),
        ("deepseek", "deepseek-v4-pro", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, []),
        ("deepseek", "deepseek-flash", {}, {}, []),
        (
            "deepseek",
            "deepseek-flash",
            TOOLS | {"tool_choice": "required"},
            {"thinking": {"type": "disabled"}},
            ["thinking=off"],
        ),
        # row 30: thinking is selected by the model's name, so there is nothing to switch off
        ("generic", "deepseek-chat", {"reasoning_effort": "none"}, {"reasoning_effort": "none"}, []),
        ("fireworks", "deepseek-v3", {"reasoning_effort": "none"}, {}, []),
        # row 194: with tools the effort must be none here; it is also sent unrequested if the model thinks by default
        ("openai", "gpt-5.4", TOOLS, {}, []),
        ("openai", "gpt-5.4", EFFORT | TOOLS, {"reasoning_effort": "none"}, ["thinking=off"]),
        ("openai", "gpt-5.6", TOOLS, {"reasoning_effort": "none"}, ["thinking=off"]),
        ("openai", "gpt-5.6", {}, {}, []),
        ("openai", "gpt-6-luna", TOOLS, {"reasoning_effort": "none"}, ["thinking=off"]),
        ("openai", "gpt-5.1", EFFORT | TOOLS, EFFORT, []),
        ("openai", "gpt-5", TOOLS, {}, []),
        ("openrouter", "openai/gpt-5.6-sol", EFFORT | TOOLS, {"reasoning": {"effort": "high"}}, []),
        ("openrouter", "openai/gpt-5.4-mini", EFFORT | TOOLS, {"reasoning": {"effort": "high"}}, []),
    ],
)
def test_thinking_is_requested_in_the_models_way(dialect, model, fields, sent, adjusted):
    built = request_with_card(dialect, model, **fields)
    assert switches(built) == sent
    assert built.adjusted == adjusted


@pytest.mark.parametrize(
    ("dialect", "model", "sent"),
    [
        ("deepseek", "deepseek-v4-pro", {"reasoning_content": "hm"}),
        ("vllm", "deepseek-ai/DeepSeek-V4-Pro", {"reasoning": "hm"}),
        # row 11: refused
        ("generic", "deepseek-reasoner", {}),
        ("vllm", "deepseek-ai/DeepSeek-R1", {}),
        ("together", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", {}),
        ("ollama", "deepseek-r1:8b", {}),
        ("vllm", "deepseek-ai/DeepSeek-V3.1", {"reasoning": "hm"}),
    ],
)
def test_past_reasoning_is_sent_unless_the_model_forbids_it(dialect, model, sent):
    """It is sent under the host's name for it."""
    turn = json.loads(request_with_card(dialect, model, messages=THOUGHT).body)["messages"][1]
    assert turn == {"role": "assistant", "content": "a"} | sent


@pytest.mark.parametrize(
    ("dialect", "model", "name"),
    [
        ("deepseek", "deepseek-flash", "reasoning_content"),  # row 10
        ("openrouter", "deepseek/deepseek-v4-flash", "reasoning"),  # row 179
        ("vllm", "deepseek-ai/DeepSeek-V4.1-Flash", "reasoning"),
    ],
)
def test_required_past_reasoning_is_restored(dialect, model, name):
    turn = json.loads(request_with_card(dialect, model, messages=CALLED).body)["messages"][1]
    assert turn[name] == "I need f."


@pytest.mark.parametrize("model", ["deepseek-reasoner", "gpt-4o", "deepseek-ai/DeepSeek-V3.1"])
def test_past_reasoning_that_is_not_required_is_not_restored(model):
    turn = json.loads(request_with_card("generic", model, messages=CALLED).body)["messages"][1]
    assert not {"reasoning", "reasoning_content"} & turn.keys()


REFUSED = [
    ("gpt-5", {"temperature": 0.2}),
    ("gpt-5-mini", {"logprobs": True}),
    ("o3", {"presence_penalty": 1}),
    ("o4-mini", {"top_p": 0.5}),
    ("gpt-5.1", EFFORT | {"temperature": 0}),
    ("gpt-5.6", {"temperature": 0.2}),
    ("gpt-6-astra", {"frequency_penalty": 1}),
]


@pytest.mark.parametrize(("model", "fields"), REFUSED)
def test_fields_that_a_model_refuses_while_it_thinks_are_refused(model, fields):
    """Row 193: the request is refused with OpenAI's own error, before it is sent to OpenAI."""
    name = list(fields)[-1]
    with pytest.raises(UnsupportedParameter) as caught:
        request_with_card("openai", model, **fields)
    assert caught.value.param == name


@pytest.mark.parametrize(("model", "fields"), REFUSED)
def test_fields_that_a_model_refuses_while_it_thinks_are_dropped_if_the_caller_allows_it(model, fields):
    name = list(fields)[-1]
    built = request_with_card("openai", model, drops_params=True, **fields)
    assert name not in json.loads(built.body)
    assert built.adjusted == [f"{name}=dropped"]


@pytest.mark.parametrize(
    ("dialect", "model", "fields"),
    [
        ("openai", "gpt-5", {"temperature": 1, "presence_penalty": 0, "logprobs": False}),  # left out
        ("openai", "gpt-5.1", {"temperature": 0.2}),
        ("openai", "gpt-5.6", {"temperature": 0.2, "reasoning_effort": "none"}),
        ("openai", "gpt-4.1", {"temperature": 0.2, "logprobs": True}),
        ("openrouter", "openai/gpt-5", {"temperature": 0.2}),
        ("deepseek", "deepseek-flash", {"temperature": 0.2, "top_p": 0.5, "presence_penalty": 1}),  # row 12: ignored
    ],
)
def test_fields_that_a_model_accepts_while_it_thinks_are_not_refused(dialect, model, fields):
    """Default values change nothing, and a model with thinking switched off accepts every field."""
    sent = json.loads(request_with_card(dialect, model, **fields).body)
    assert {name: value for name, value in fields.items() if sent.get(name, value) != value} == {}


def test_log_probabilities_of_r1_are_refused():
    """Rows 11 and 12: they cause an error there and are not ignored."""
    with pytest.raises(UnsupportedParameter):
        request_with_card("generic", "deepseek-reasoner", logprobs=True)


@pytest.mark.parametrize(
    ("dialect", "model", "fields", "expected"),
    [
        ("vllm", "deepseek-ai/DeepSeek-R1", {}, True),
        ("vllm", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {}, True),
        ("sglang", "Qwen/Qwen3-30B-A3B-Thinking-2507", {}, True),
        ("generic", "deepseek-r1-distill-llama-70b", {}, True),
        ("vllm", "deepseek-ai/DeepSeek-R1-0528", {}, False),
        # where the template opens the tag only if the model is to think
        ("vllm", "deepseek-ai/DeepSeek-V3.1", EFFORT, True),
        ("vllm", "deepseek-ai/DeepSeek-V3.1", {"chat_template_kwargs": {"thinking": True}}, True),
        ("vllm", "deepseek-ai/DeepSeek-V3.1", {}, False),
        ("vllm", "deepseek-ai/DeepSeek-V3.1", EFFORT | TOOLS, False),
        # if the form of the answer is constrained from the first token on, there is no thinking in it
        ("vllm", "deepseek-ai/DeepSeek-R1", {"response_format": {"type": "json_object"}}, False),
        ("vllm", "deepseek-ai/DeepSeek-R1", {"guided_choice": ["a", "b"]}, False),
        ("vllm", "deepseek-ai/DeepSeek-R1", {"response_format": {"type": "text"}}, True),
        # a hosted API has a parser, or sends both tags
        ("groq", "deepseek-r1-distill-llama-70b", {}, False),
        ("together", "deepseek-ai/DeepSeek-R1", {}, False),
        ("fireworks", "deepseek-r1", {}, False),
        ("openrouter", "deepseek/deepseek-r1", {}, False),
        ("ollama", "deepseek-r1:8b", {}, False),
    ],
)
def test_a_text_begins_in_thought_only_if_a_parser_may_be_missing(dialect, model, fields, expected):
    """Contract C.9a: the template opened the tag, so it is missing in the text if an engine has no parser."""
    assert request_with_card(dialect, model, **fields).answer_format.begins_in_reasoning is expected


@pytest.mark.parametrize("answer", [{"response_format": {"type": "json_object"}}, {}])
def test_an_answer_with_json_emulated_in_the_prompt_may_begin_in_thought(answer):
    """The form is requested in the prompt; the host does not enforce it."""
    card = Card(thinking="always", reasoning_tags="prefilled", structured_output="none")
    assert request_with_card("vllm", "m", card=card, **answer).answer_format.begins_in_reasoning


def test_images_are_sent_only_to_models_with_vision():
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
    assert request_with_card("deepseek", "deepseek-flash", messages=image)
    with pytest.raises(UnsupportedParameter):
        request_with_card("deepseek", "deepseek-v4-pro", messages=image)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"tools": None}, False),
        ({"tools": []}, False),
        ({"tools": [TOOL], "tool_choice": "none"}, False),
        ({"tools": [TOOL]}, True),
        ({"tools": [TOOL], "tool_choice": None}, True),
    ],
)
def test_markup_is_read_as_a_call_only_if_tools_were_offered(fields, expected):
    assert request_with_card("vllm", "m", **fields).answer_format.may_call is expected


@pytest.mark.parametrize(
    ("name", "card", "expected"),
    [
        ("vllm", Card(), True),
        ("vllm", Card(leaks_markup=False), False),
        ("generic", Card(), True),
        ("openrouter", Card(), False),
        ("openrouter", Card(leaks_markup=True), True),
        ("openai", Card(), False),
    ],
)
def test_the_card_overrides_the_dialect_for_leaked_markup(name, card, expected):
    """A model of another family writes no such markup, and a reseller of DeepSeek's models may lack the parser."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER], "tools": [tool]}).encode())
    answer_format = DIALECTS[name].build_request(request, model="m", is_stream=True, card=card).answer_format
    assert answer_format.leaks_markup is expected
    assert json.loads(bytes(answer_format.tools)) == [tool]


NAMED_F = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["f", "g"]),
        (NAMED_F, ["f"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED_F]}}, ["f"]),
        ({"type": "custom", "custom": {"name": "c"}}, []),
    ],
)
def test_markup_is_read_only_as_a_call_of_allowed_tools(choice, names):
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    offered = request_with_card("generic", "m", tools=tools, tool_choice=choice).answer_format.tools
    assert [tool["function"]["name"] for tool in json.loads(bytes(offered))] == names


# --- a host that does not parse tool calls ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tools": [TOOL]}, None),
        ({"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}, None),
        ({"functions": [TOOL["function"]]}, None),
        ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [TOOL], "tool_choice": "none"}),
        ({}, {}),
    ],
)
def test_a_host_that_does_not_parse_calls_gets_no_tools_that_may_be_called(fields, sent):
    dialect = structs.replace(DIALECTS["vllm"], parses_tool_calls=False)
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())

    def built(*, drops_params):
        body = json.loads(dialect.build_request(request, model="m", is_stream=False, drops_params=drops_params).body)
        return {name: value for name, value in body.items() if name not in {"model", "messages"}}

    if sent is None:
        with pytest.raises(UnsupportedParameter) as caught:
            built(drops_params=False)
        assert caught.value.param == next(iter(fields))
        assert built(drops_params=True) == {}
    else:
        assert built(drops_params=False) == sent
