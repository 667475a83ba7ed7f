"""The allow-list of request fields for engines, in every endpoint."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.dialects.registry import DIALECTS
from tidegate.errors import MalformedRequest, ProxyError, UnsupportedParameter
from tidegate.protocol import chat, completions, embeddings

EVIL = "http://10.0.0.1/a"
PARSERS = {"chat": chat, "completions": completions, "embeddings": embeddings}
REQUESTS = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "embeddings": {"input": "hi"},
}
EVERYWHERE = pytest.mark.parametrize("endpoint", REQUESTS)
# the dialects that the config allows for an engine
ENGINES = {name: dialect.for_engine() for name, dialect in DIALECTS.items()}


def send(endpoint="chat", dialect="vllm", *, drops_params=False, **fields):
    """Return the fields that are sent to an engine, without the model, and what is reported as adjusted."""
    body = json.dumps({"model": "m"} | REQUESTS[endpoint] | fields).encode()
    request = PARSERS[endpoint].parse_request(body)
    built = ENGINES[dialect].build_request(request, model="m", is_stream=False, drops_params=drops_params)
    body = json.loads(built.body)
    del body["model"]
    return {name: value for name, value in body.items() if value != REQUESTS[endpoint].get(name)}, built.adjusted


SAMPLING = {
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "length_penalty": 1.0,
    "min_tokens": 1,
    "stop_token_ids": [2],
    "ignore_eos": True,
    "logit_bias": {"5": -1},
    "bad_words": ["http://a"],
    "prompt_logprobs": 1,
    "return_token_ids": True,
    "mirostat": 2,
    "mirostat_tau": 5.0,
    "n_probs": 3,
    "n_predict": 5,
    "samplers": ["top_k", "min_p"],
    "dry_multiplier": 0.5,
    "dry_sequence_breakers": ["\n", ":"],
    "cache_prompt": True,
    "grammar": 'root ::= "http://a"',
    "regex": "/a/b",
    "ebnf": "root ::= a",
    "structured_outputs": {"regex": "//a"},
    "mm_processor_kwargs": {"fps": 1, "size": {"shortest_edge": 5}},
    "media_io_kwargs": {"video": {"num_frames": 4, "video_backend": "opencv"}},
    "user": "ann",
}


@EVERYWHERE
@pytest.mark.parametrize("dialect", ["vllm", "sglang", "generic", "openai"])
def test_fields_that_engines_support_are_sent_unchanged(endpoint, dialect):
    if dialect == "vllm" or endpoint != "embeddings" or "embeddings" in DIALECTS[dialect].paths:
        assert send(endpoint, dialect, **SAMPLING) == (SAMPLING, [])


def test_thinking_and_output_constraints_are_sent():
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}}
    body = {
        "chat_template_kwargs": {"enable_thinking": False, "style": "See http://a"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        "tools": [{"type": "function", "function": {"name": "f", "description": EVIL, "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    assert send(**body) == (body, [])
    assert send("completions", guided_json=schema)[0] == {"structured_outputs": {"json": schema}}


@EVERYWHERE
@pytest.mark.parametrize("dialect", sorted(ENGINES))
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_data", EVIL),
        ("image_data", "AA=="),
        ("video_data", ["/etc/passwd"]),
        ("audio_data", [EVIL]),
        ("multimodal_data", [EVIL]),
        ("multi_modal_data", {"image": EVIL}),
        ("prompt_embeds", "AA=="),
        ("image_embeds", "AA=="),
        ("lora_path", "/a/b"),
        ("lora_request", {"lora_path": "/a/b"}),
        ("draft_model", "a/b"),
        ("adapters", "a/b"),
        ("chat_template", "{{ 1 }}"),
        ("file_id", "file-1"),
        ("image_url", {"url": EVIL}),
        ("extra_body", {"anything": {"under": [EVIL]}}),
        ("vendor", {EVIL: 1}),
        ("top_k", EVIL),
        ("bootstrap_host", "10.0.0.1"),
    ],
)
def test_a_field_that_names_something_to_open_is_refused_in_every_endpoint(endpoint, dialect, name, value):
    if endpoint not in DIALECTS[dialect].paths:
        return
    with pytest.raises(UnsupportedParameter) as caught:
        send(endpoint, dialect, **{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)
    body, adjusted = send(endpoint, dialect, drops_params=True, **{name: value})
    assert name not in body
    assert f"{name}=dropped" in adjusted


@pytest.mark.parametrize("value", [{"reasoning": {"effort": EVIL}}, {"reasoning_effort": EVIL}, {"thinking": [EVIL]}])
@pytest.mark.parametrize("dialect", ["vllm", "generic"])
def test_an_allowed_setting_may_not_name_a_url_or_path(value, dialect):
    with pytest.raises(UnsupportedParameter):
        send(dialect=dialect, **value)


def test_other_fields_are_dropped_and_reported():
    """A name with characters that do not belong in a header is reported as `other`."""
    body, adjusted = send(session_id="s1", provider={"order": ["a"]}, keep_alive=0, **{"a\r\nb: c": 1})
    assert body == {}
    assert adjusted == ["session_id=dropped", "provider=dropped", "other=dropped"]


def test_any_number_of_unknown_fields_makes_a_short_header():
    _, adjusted = send(**{f"unknown_{number}": 1 for number in range(1000)})
    assert len(", ".join(adjusted)) < 2000


def test_media_settings_may_not_contain_file_names():
    body, adjusted = send(mm_processor_kwargs={"images": ["a.png"], "fps": 2}, media_io_kwargs={"video": {"a": "b/c"}})
    assert body == {"mm_processor_kwargs": {"images": [], "fps": 2}, "media_io_kwargs": {"video": {}}}
    assert adjusted == ["media_io_kwargs.a=dropped"]


def test_a_template_gets_variables_but_no_template():
    """A template would be code; vLLM and SGLang pass these keys on to the code that renders the template."""
    given = {"a": 1, "chat_template": "{{ 1 }}", "tokenize": True}
    sent, adjusted = send(chat_template_kwargs=given)
    assert sent == {"chat_template_kwargs": {"a": 1}}
    assert adjusted == ["chat_template_kwargs.chat_template=dropped", "chat_template_kwargs.tokenize=dropped"]
    with pytest.raises(UnsupportedParameter):
        send(chat_template_kwargs={"a": EVIL})
    assert send(chat_template_kwargs={"a": EVIL}, drops_params=True) == ({}, ["chat_template_kwargs=dropped"])


@pytest.mark.parametrize("endpoint", ["completions", "embeddings"])
@pytest.mark.parametrize(
    "value",
    [[{"prompt_string": "a", "multimodal_data": [EVIL]}], ["hi", {"image": EVIL}], [[1, {"a": 1}]], [{}]],
)
@pytest.mark.parametrize("dialect", ["vllm", "generic"])
def test_a_prompt_is_text_or_tokens(endpoint, value, dialect):
    name = next(iter(REQUESTS[endpoint]))
    with pytest.raises(MalformedRequest) as caught:
        send(endpoint, dialect, **{name: value})
    assert caught.value.param.startswith(name)
    assert send(endpoint, dialect, **{name: ["{}", "http://a"]}) == ({name: ["{}", "http://a"]}, [])


def test_tools_are_only_functions():
    """The engine would send requests to a tool server."""
    tool = {"type": "function", "function": {"name": "f"}}
    odd = {"type": "function", "url": EVIL, "function": {"name": "f", "path": "/a/b"}}
    assert send(tools=[tool, odd]) == ({"tools": [tool, tool]}, ["tools.path=dropped", "tools.url=dropped"])
    for dialect in ("vllm", "generic", "openai"):
        with pytest.raises(UnsupportedParameter):
            send(dialect=dialect, tools=[tool, {"type": "mcp", "server_url": EVIL}])


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": EVIL}}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": ["#/a", EVIL]}}}]},
        {"functions": [{"name": "f", "parameters": {"$ref": EVIL}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": EVIL}}}},
        {"structured_outputs": {"json": {"$ref": "a.json"}}},
        {"guided_json": json.dumps({"$ref": EVIL})},
        {"json_schema": {"$ref": EVIL}},
    ],
)
def test_schemas_may_not_refer_to_other_documents(fields):
    with pytest.raises(MalformedRequest) as caught:
        send(**fields)
    assert caught.value.code == "unsupported_reference"


# --- generated requests --------------------------------------------------------------------------------------------

MARK = "10.0.0.1"
_ADDRESSES = """
    http://10.0.0.1/a HTTP://10.0.0.1 file:///10.0.0.1 data://10.0.0.1/a;base64,AA== data:,http://10.0.0.1/
    //10.0.0.1/a data:image/png;base64,AA== data:image/png;base64,AA==?http://10.0.0.1/ /10.0.0.1/b
"""
_KEYS = """
    type text url uuid image_url video_url audio_url input_audio input_video file data format detail file_data file_id
    filename path image images name id function arguments tools $ref json_schema schema json multimodal_data
    prompt_string anything
"""
_FIELDS = """
    image_data lora_path chat_template chat_template_kwargs mm_processor_kwargs extra_body rid reasoning thinking
    reasoning_effort structured_outputs guided_json metadata user audio prompt_embeds documents anything session_id
    modalities prediction web_search_options top_k service_tier cache_control
"""
ADDRESSES = st.sampled_from(_ADDRESSES.split())
KEYS = st.sampled_from(_KEYS.split())
VALUES = st.recursive(
    ADDRESSES | st.sampled_from(["text", "image_url", "function", "wav", 1, True, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
KINDS = ["text", "refusal", "image_url", "video_url", "audio_url", "input_audio", "input_video", "file", "thinking"]
PARTS = st.builds(lambda kind, rest: rest | {"type": kind}, st.sampled_from(KINDS), st.dictionaries(KEYS, VALUES))
ROLES = st.sampled_from(["user", "assistant", "system"])
CONTENT = st.text(max_size=3) | st.lists(PARTS, min_size=1, max_size=3)
MESSAGES = st.builds(
    lambda rest, role, content: rest | {"role": role, "content": content},
    st.dictionaries(KEYS | st.sampled_from(["tool_calls", "audio", "reasoning", "extra_content"]), VALUES, max_size=2),
    ROLES,
    CONTENT,
)
FIELDS = st.dictionaries(
    st.sampled_from(_FIELDS.split()),
    VALUES,
    max_size=3,
)
TOOLS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=2)
# Keys whose text only the model reads. `function` holds a call or a tool; a `$ref` in it must not lead elsewhere.
READ = {"text", "refusal", "reasoning", "reasoning_content", "arguments", "description", "name", "input", "prompt"}
READ |= {"contents", "title", "tool_call_id", "id", "content", "filename", "regex", "choice", "grammar"}
SCHEMAS = {"parameters", "schema", "json", "guided_json"}


def leaks(value, key=""):
    """Return the strings in fields that engines open, and references of schemas to other documents."""
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in [*leaks(name), *leaks(item, _within(key, name))]]
    if isinstance(value, list):
        return [found for item in value for found in leaks(item, key)]
    is_data = isinstance(value, str) and re.fullmatch(r"data:[\w.+/-]+;base64,[\w+/=,-]*", value)
    if not isinstance(value, str) or key in READ | SCHEMAS or is_data:
        return []
    return [value] if MARK in value or "://" in value else []


def _within(key, name):
    return key if key in SCHEMAS and name != "$ref" else name


@pytest.mark.parametrize(
    "dialect", ["generic", "llamacpp", "llama_cpp_python", "ollama", "openai", "sglang", "tgi", "vllm"]
)
@settings(max_examples=50)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=2), fields=FIELDS, tools=TOOLS, drops_params=st.booleans())
def test_no_engine_is_sent_a_url(dialect, messages, fields, tools, drops_params):
    body = json.dumps({"model": "m", "messages": messages, "tools": tools} | fields).encode()
    try:
        request = chat.parse_request(body)
        built = ENGINES[dialect].build_request(request, model="m", is_stream=True, drops_params=drops_params)
    except ProxyError as error:
        assert error.status == 400  # noqa: PT017 - most requests are refused; the others are checked below
        return
    assert leaks(json.loads(built.body)) == []
    assert all(re.fullmatch(r"[ -~]{1,120}", note) for note in built.adjusted)


@pytest.mark.parametrize("endpoint", ["completions", "embeddings"])
@given(given=VALUES, fields=FIELDS)
def test_no_engine_is_sent_a_url_in_the_other_endpoints(endpoint, given, fields):
    body = json.dumps({"model": "m"} | {"prompt": given, "input": given} | fields).encode()
    try:
        request = PARSERS[endpoint].parse_request(body)
        built = ENGINES["vllm"].build_request(request, model="m", is_stream=False)
    except ProxyError as error:
        assert error.status == 400  # noqa: PT017 - most requests are refused; the others are checked below
        return
    assert leaks(json.loads(built.body)) == []
