"""The rules Q-… of the contract, section B.0, that apply to every dialect, checked for each of them."""

import json

import pytest

from tests.fakes.sink import RecordingSink
from tests.unit.chunks import chunk, feed
from tidegate.config.cards import Card
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import MalformedRequest, UnsupportedParameter
from tidegate.protocol import chat, embeddings

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
IMAGE = "data:image/png;base64,AA=="
ENGINES = ["llama_cpp_python", "llamacpp", "ollama", "sglang", "tgi", "vllm"]


def for_dialects(names):
    """Return a decorator that runs a test for each of these dialects."""
    return pytest.mark.parametrize("dialect", [pytest.param(DIALECTS[name], id=name) for name in names])


every_dialect = for_dialects(DIALECTS)
every_translated = for_dialects(name for name, dialect in DIALECTS.items() if not dialect.rules.is_reference)
every_engine = for_dialects(ENGINES)


def build(dialect, *, is_stream=False, card=None, drops_params=False, **fields):
    """Return the decoded body that is sent to a host, and what is reported as adjusted."""
    request = chat.parse_request(json.dumps({"model": "public", "messages": [USER]} | fields).encode())
    built = dialect.build_request(
        request, model="their/model", is_stream=is_stream, card=card or Card(), drops_params=drops_params
    )
    return json.loads(built.body), built.adjusted


def embed(dialect, **fields):
    request = embeddings.parse_request(json.dumps({"model": "public", "input": "hi"} | fields).encode())
    return json.loads(dialect.build_request(request, model="their/model", is_stream=False).body)


def with_image(url):
    """Return the messages of a user who sends an image."""
    return [{"role": "user", "content": [TEXTS[0], {"type": "image_url", "image_url": {"url": url}}]}]


@every_dialect
def test_nulls_are_not_sent(dialect):
    """Q-NULL: at the top level, and in messages except for the content."""
    plain, _ = build(dialect)
    message = USER | {"name": None, "tool_calls": None}
    given, _ = build(dialect, messages=[message], temperature=None, stop=None, tools=None, n=None, vendor=None)
    assert given == plain


@every_dialect
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_one_limit_is_sent_and_the_newer_name_wins(dialect, name):
    """Q-MAX: some hosts refuse both names, others ignore one of them."""
    both, adjusted = build(dialect, max_tokens=9, max_completion_tokens=5)
    assert [value for key, value in both.items() if key in {"max_tokens", "max_completion_tokens"}] == [5]
    alone, _ = build(dialect, **{name: 7})
    assert [value for key, value in alone.items() if key in {"max_tokens", "max_completion_tokens"}] == [7]
    assert adjusted == []


@every_dialect
def test_a_limit_of_the_model_is_applied_and_reported(dialect):
    body, adjusted = build(dialect, card=Card(max_output_tokens=8), max_tokens=9)
    assert [value for key, value in body.items() if key in {"max_tokens", "max_completion_tokens"}] == [8]
    assert adjusted == ["max_tokens=8"]


@every_translated
def test_roles_are_those_that_every_template_supports(dialect):
    """Q-DEV: `developer` becomes `system`; the result of a function becomes the result of a tool."""
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    given = {"role": "function", "name": "f", "content": "1"}
    body, _ = build(dialect, messages=[{"role": "developer", "content": "s"}, USER, called, given])
    system, _, message, result = body["messages"]
    assert (system["role"], message["role"], result["role"]) == ("system", "assistant", "tool")
    assert message["tool_calls"][0]["id"] == result["tool_call_id"]
    assert not {"function_call", "name"} & (message.keys() | result.keys())


@every_translated
def test_texts_in_parts_become_one_text(dialect):
    """Q-TEXT: they are joined without a separator, in messages of every role."""
    message = {"role": "assistant", "content": TEXTS, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": TEXTS}
    messages = [{"role": "system", "content": TEXTS}, {"role": "user", "content": TEXTS}, message, result]
    body, _ = build(dialect, messages=messages)
    assert [message["content"] for message in body["messages"]] == ["ab"] * 4


@every_translated
@pytest.mark.parametrize("arguments", ["", "nonsense", "[1]", '"{}"'])
def test_arguments_of_past_calls_are_an_object(dialect, arguments):
    """Q-ARGS: hosts decode them for their templates, and fail on other values."""
    call = CALL | {"function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    body, _ = build(dialect, messages=[USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result])
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


@every_dialect
@pytest.mark.parametrize(
    "fields",
    [{"tools": []}, {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {"tool_choice": "none"}],
)
def test_an_empty_list_of_tools_is_left_out(dialect, fields):
    """Q-TOOLS."""
    body, adjusted = build(dialect, **fields)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()
    assert "tool_choice" not in " ".join(adjusted)


@every_dialect
@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "required"}, "required"),
        ({"type": "any"}, "required"),
        ("any", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choices_of_other_apis_are_normalised(dialect, odd, plain):
    """Clients also use the spellings of Anthropic, Mistral and the Responses API."""
    assert build(dialect, drops_params=True, tools=[TOOL], tool_choice=odd) == build(
        dialect, drops_params=True, tools=[TOOL], tool_choice=plain
    )


@every_dialect
@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "none"}])
def test_a_tool_choice_without_tools_is_left_out(dialect, choice):
    assert build(dialect, tool_choice=choice) == build(dialect)


MARK = {"cache_control": {"type": "ephemeral"}}


@every_dialect
def test_cache_control_is_sent_or_reported_as_dropped(dialect):
    """On a part, a message, a tool, its function, and the whole request."""
    part = TEXTS[0] | MARK
    places = [
        {"messages": [{"role": "user", "content": [part]}]},
        {"messages": [USER | MARK]},
        {"tools": [TOOL | MARK]},
        {"tools": [TOOL | {"function": TOOL["function"] | MARK}]},
        MARK,
    ]
    for fields in places:
        body, adjusted = build(dialect, max_tokens=9, **fields)
        is_kept = dialect.rules.keeps_cache_control
        assert ("cache_control" in json.dumps(body)) == is_kept
        assert adjusted == ([] if is_kept else ["cache_control=dropped"])


@every_dialect
def test_a_tool_may_describe_cache_control(dialect):
    function = {"name": "f", "description": "Sets cache_control.", "parameters": {"type": "object"}}
    tool = {"type": "function", "function": function}
    body, adjusted = build(dialect, max_tokens=9, tools=[tool])
    assert (body["tools"], adjusted) == ([tool], [])


@every_dialect
def test_an_answer_without_content_and_calls_gets_an_empty_content(dialect):
    message = {"role": "assistant", "content": None, "tool_calls": []}
    sent = build(dialect, messages=[USER, message, USER])[0]["messages"][1]
    assert (sent["content"], "tool_calls" in sent) == ("", False)


@every_dialect
def test_thinking_in_the_parts_of_past_answers_is_accepted(dialect):
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "ho"}]
    body, adjusted = build(dialect, messages=[USER, {"role": "assistant", "content": parts}, USER], max_tokens=9)
    message = body["messages"][1]
    assert message["content"] == (parts[1:] if dialect.rules.is_reference else "ho")
    name = dialect.rules.reasoning
    assert message.get(name) == (None if name is None else "Hm.")
    assert adjusted == ([] if name else ["reasoning_content=dropped"])


@every_dialect
def test_extra_content_is_sent_or_reported_as_dropped(dialect):
    extra = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    message = {"role": "assistant", "content": None, "tool_calls": [CALL | extra]}
    given = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    body, adjusted = build(dialect, messages=[USER, message, given])
    is_kept = dialect.rules.keeps_extra_content
    assert ("extra_content" in json.dumps(body)) == is_kept
    assert ("extra_content=dropped" in adjusted) != is_kept


@every_translated
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({"function_call": "auto"}, {"tool_choice": "auto"}),
        ({"function_call": "none"}, {"tool_choice": "none"}),
        ({"function_call": {"name": "f"}}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)
def test_functions_become_tools(dialect, old, new):
    """At most one of them may be called at a time. Nothing is reported, as only the spelling is changed."""
    with_functions, adjusted = build(dialect, drops_params=True, functions=[TOOL["function"]], **old)
    with_tools, also = build(dialect, drops_params=True, tools=[TOOL], parallel_tool_calls=False, **new)
    assert with_functions == with_tools
    assert [note.replace("function_call", "tool_choice").replace("functions", "tools") for note in adjusted] == also


@every_dialect
def test_an_empty_list_of_functions_is_left_out(dialect):
    """For OpenAI it is sent, as OpenAI decides about it."""
    body, _ = build(dialect, functions=[], function_call="none", tools=[TOOL])
    assert body["tools"] == [TOOL]
    assert dialect.rules.is_reference or not {"functions", "function_call"} & body.keys()


@for_dialects(["openai", "azure"])
def test_openai_is_sent_functions_unchanged(dialect):
    fields = {"functions": [{"name": "f"}], "function_call": {"name": "f"}}
    assert fields.items() <= build(dialect, **fields)[0].items()


@every_translated
@pytest.mark.parametrize("stop", [[], "", [""]])
def test_an_empty_stop_is_left_out(dialect, stop):
    """Q-STOP."""
    assert "stop" not in build(dialect, stop=stop, drops_params=True)[0]


@every_translated
def test_a_stop_is_sent_as_a_list(dialect):
    """It is left out if the host does not support it."""
    assert build(dialect, stop="END", drops_params=True)[0].get("stop") == (
        None if "stop" in dialect.unsupported_fields else ["END"]
    )


@every_dialect
def test_usage_is_requested_only_for_streams(dialect):
    """Q-SOPT: Tidegate needs it for its accounting, and requests it if the host supports that."""
    streamed, _ = build(dialect, is_stream=True, stream=True, stream_options={"include_usage": False})
    assert streamed["stream"] is True
    assert streamed.get("stream_options") == ({"include_usage": True} if dialect.takes_stream_options else None)
    assert not {"stream", "stream_options"} & build(dialect, stream=False)[0].keys()


@every_dialect
def test_hints_are_dropped_and_other_fields_are_refused_by_name(dialect):
    """Q-DROP: unless the caller allows dropping them, which is reported."""
    hints = {"user", "store", "metadata", "service_tier", "prompt_cache_key", "safety_identifier", "verbosity"}
    fields = dict.fromkeys(hints, "x") | {"n": 1, "logprobs": False, "presence_penalty": 0, "logit_bias": {}}
    assert not dialect.unsupported_fields & build(dialect, **fields)[0].keys()
    for name, value in {"n": 2, "logit_bias": {"1": 5}, "logprobs": True}.items():
        if name not in dialect.unsupported_fields:
            assert name in build(dialect, **{name: value})[0]
            continue
        with pytest.raises(UnsupportedParameter) as caught:
            build(dialect, **{name: value})
        assert (caught.value.status, caught.value.param) == (400, name)
        body, adjusted = build(dialect, drops_params=True, **{name: value})
        assert name not in body
        assert f"{name}=dropped" in adjusted


@every_dialect
def test_thinking_is_switched_off_by_one_field(dialect):
    """Q-EFFORT: the effort `none` overrides every other switch of the caller, and is sent once (row 159)."""
    if dialect.put_thinking is None:
        return  # the caller's switches are sent unchanged
    body, _ = build(dialect, reasoning_effort="none", thinking={"type": "enabled"}, reasoning={"effort": "low"})
    assert len({"reasoning", "thinking", "reasoning_effort", "chat_template_kwargs"} & body.keys()) <= 1


@every_dialect
def test_images_are_sent_only_to_models_with_vision(dialect):
    assert build(dialect, card=Card(vision=True), messages=with_image(IMAGE))[0]["messages"] == with_image(IMAGE)
    with pytest.raises(UnsupportedParameter) as caught:
        build(dialect, card=Card(vision=False), messages=with_image(IMAGE))
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[1].image_url")


def test_the_local_engines_are_the_dialects_that_may_not_fetch_urls():
    assert sorted(name for name, dialect in DIALECTS.items() if not dialect.fetches_urls) == ENGINES


@every_engine
@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", " HTTP://x"]
)
def test_urls_of_images_are_not_sent_to_a_local_engine(dialect, url):
    """The engine would fetch any URL."""
    with pytest.raises(MalformedRequest) as caught:
        build(dialect, card=Card(vision=True), messages=with_image(url))
    assert (caught.value.status, caught.value.code) == (400, "unsupported_image_url")


@every_engine
def test_urls_of_images_are_not_sent_in_embeddings_either(dialect):
    """Engines embed `messages` (vLLM) and objects that hold an image (SGLang)."""
    with pytest.raises(UnsupportedParameter) as refused:
        embed(dialect, messages=with_image("http://10.0.0.1/a.png"))
    assert refused.value.param == "messages"
    with pytest.raises(MalformedRequest) as malformed:
        embed(dialect, input=["hi", {"image": "http://10.0.0.1/a.png"}])
    assert (malformed.value.param, malformed.value.code) == ("input[1]", "invalid_type")


@for_dialects(name for name, dialect in DIALECTS.items() if "embeddings" in dialect.paths)
@pytest.mark.parametrize("given", ["hi", ["a", "b"], [1, 2], [[1], [2]]])
def test_texts_and_tokens_are_embedded(dialect, given):
    assert embed(dialect, input=given)["input"] == given


@every_dialect
def test_operator_fields_are_stripped(dialect):
    """Row 76o."""
    internal = ["request_id", "priority", "kv_transfer_params", "vllm_xargs", "cache_salt", "id_slot", "lora_path"]
    assert not set(internal) & build(dialect, **dict.fromkeys(internal, 1))[0].keys()


V3_CALL = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
DSML_CALL = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
JSON_CALL = '{"name": "f", "arguments": {}}'


@every_dialect
@pytest.mark.parametrize("markup", [V3_CALL, DSML_CALL, JSON_CALL])
def test_markup_is_text_if_no_tool_may_be_called(dialect, markup):
    """Every byte is kept, whatever the size of the chunks and the host's finish reason."""
    text = f"Well:\n{markup}\n"
    functions = {"functions": [TOOL["function"]], "function_call": "none"}
    for choice in ({"tools": [TOOL], "tool_choice": "none"}, functions):
        request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | choice).encode())
        built = dialect.build_request(request, model="m", is_stream=True, card=Card(leaks_markup=True))
        for size, reason in ((1, "stop"), (7, "tool_calls"), (len(text), "tool_calls")):
            chunks = [chunk({"content": text[at : at + size]}) for at in range(0, len(text), size)]
            sink = RecordingSink()
            assert feed(sink, *chunks, chunk(finish=reason), answer_format=built.answer_format) is None
            assert "".join(call[2] for call in sink.calls if call[0] == "content") == text
            assert (sink.calls[-1], built.text_calls) == (("finish", 0, "stop"), None)
