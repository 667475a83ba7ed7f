"""One set of questions for every dialect: the rules Q-… of the contract, section B.0, that hold whatever the host."""

import json

import pytest
from tidegate.config.cards import Card
from tidegate.dialects.registry import DIALECTS
from tidegate.errors import MalformedRequest, UnsupportedParameter
from tidegate.protocol import chat, embeddings

from tests.fakes.sink import RecordingSink
from tests.unit.chunks import chunk, tell

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
PICTURE = "data:image/png;base64,AA=="
ENGINES = ["llama_cpp_python", "llamacpp", "ollama", "sglang", "tgi", "vllm"]


def of(names):
    """The question, asked of these dialects."""
    return pytest.mark.parametrize("dialect", [pytest.param(DIALECTS[name], id=name) for name in names])


every = of(DIALECTS)
every_accent = of(name for name, dialect in DIALECTS.items() if not dialect.rules.is_reference)
engines = of(ENGINES)


def build(dialect, *, is_stream=False, card=None, drops_params=False, **fields):
    """What goes to a host; its body decoded."""
    request = chat.parse_request(json.dumps({"model": "public", "messages": [USER]} | fields).encode())
    built = dialect.build_request(
        request, model="their/model", is_stream=is_stream, card=card or Card(), drops_params=drops_params
    )
    return json.loads(built.body), built.adjusted


def embed(dialect, **fields):
    request = embeddings.parse_request(json.dumps({"model": "public", "input": "hi"} | fields).encode())
    return json.loads(dialect.build_request(request, model="their/model", is_stream=False).body)


def seen(url):
    """A user who shows a picture."""
    return [{"role": "user", "content": [TEXTS[0], {"type": "image_url", "image_url": {"url": url}}]}]


@every
def test_nulls_stay_here(dialect):
    """Q-NULL: at the top, and in messages but for the content."""
    plain, _ = build(dialect)
    message = USER | {"name": None, "tool_calls": None}
    given, _ = build(dialect, messages=[message], temperature=None, stop=None, tools=None, n=None, vendor=None)
    assert given == plain


@every
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_one_limit_goes_and_the_newer_wins(dialect, name):
    """Q-MAX: some hosts refuse both, others ignore one."""
    both, adjusted = build(dialect, max_tokens=9, max_completion_tokens=5)
    assert [value for key, value in both.items() if key in {"max_tokens", "max_completion_tokens"}] == [5]
    alone, _ = build(dialect, **{name: 7})
    assert [value for key, value in alone.items() if key in {"max_tokens", "max_completion_tokens"}] == [7]
    assert adjusted == []


@every
def test_a_limit_of_the_model_is_kept_and_said(dialect):
    body, adjusted = build(dialect, card=Card(max_output_tokens=8), max_tokens=9)
    assert [value for key, value in body.items() if key in {"max_tokens", "max_completion_tokens"}] == [8]
    assert adjusted == ["max_tokens=8"]


@every_accent
def test_roles_are_those_that_every_template_knows(dialect):
    """Q-DEV: `developer` is `system`; what a function gave is a tool's result."""
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    given = {"role": "function", "name": "f", "content": "1"}
    body, _ = build(dialect, messages=[{"role": "developer", "content": "s"}, USER, called, given])
    system, _, said, result = body["messages"]
    assert (system["role"], said["role"], result["role"]) == ("system", "assistant", "tool")
    assert said["tool_calls"][0]["id"] == result["tool_call_id"]
    assert not {"function_call", "name"} & (said.keys() | result.keys())


@every_accent
def test_texts_in_parts_are_one_text(dialect):
    """Q-TEXT: joined by nothing, whoever speaks."""
    said = {"role": "assistant", "content": TEXTS, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": TEXTS}
    asked = [{"role": "system", "content": TEXTS}, {"role": "user", "content": TEXTS}, said, result]
    body, _ = build(dialect, messages=asked)
    assert [message["content"] for message in body["messages"]] == ["ab"] * 4


@every_accent
@pytest.mark.parametrize("arguments", ["", "nonsense", "[1]", '"{}"'])
def test_arguments_of_past_calls_are_an_object(dialect, arguments):
    """Q-ARGS: hosts read them for their templates, and fail."""
    call = CALL | {"function": {"name": "f", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    body, _ = build(dialect, messages=[USER, {"role": "assistant", "content": None, "tool_calls": [call]}, result])
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


@every
@pytest.mark.parametrize(
    "fields",
    [{"tools": []}, {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {"tool_choice": "none"}],
)
def test_no_tools_are_no_tools(dialect, fields):
    """Q-TOOLS."""
    body, adjusted = build(dialect, **fields)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()
    assert "tool_choice" not in " ".join(adjusted)


@every
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
    """Clients use Anthropic's, Mistral's and the Responses API's spelling too."""
    assert build(dialect, drops_params=True, tools=[TOOL], tool_choice=odd) == build(
        dialect, drops_params=True, tools=[TOOL], tool_choice=plain
    )


@every
@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "none"}])
def test_a_choice_of_no_tools_is_none(dialect, choice):
    assert build(dialect, tool_choice=choice) == build(dialect)


MARK = {"cache_control": {"type": "ephemeral"}}


@every
def test_cache_control_is_sent_or_reported_as_dropped(dialect):
    """On a part, a message, a tool, its function, the whole request."""
    part = TEXTS[0] | MARK
    asked = [
        {"messages": [{"role": "user", "content": [part]}]},
        {"messages": [USER | MARK]},
        {"tools": [TOOL | MARK]},
        {"tools": [TOOL | {"function": TOOL["function"] | MARK}]},
        MARK,
    ]
    for fields in asked:
        body, adjusted = build(dialect, max_tokens=9, **fields)
        goes = dialect.rules.keeps_cache_control
        assert ("cache_control" in json.dumps(body)) == goes
        assert adjusted == ([] if goes else ["cache_control=dropped"])


@every
def test_a_tool_may_describe_cache_control(dialect):
    function = {"name": "f", "description": "Sets cache_control.", "parameters": {"type": "object"}}
    tool = {"type": "function", "function": function}
    body, adjusted = build(dialect, max_tokens=9, tools=[tool])
    assert (body["tools"], adjusted) == ([tool], [])


@every
def test_an_answer_that_says_nothing_has_a_content(dialect):
    said = {"role": "assistant", "content": None, "tool_calls": []}
    sent = build(dialect, messages=[USER, said, USER])[0]["messages"][1]
    assert (sent["content"], "tool_calls" in sent) == ("", False)


@every
def test_thinking_in_the_parts_of_past_answers_is_no_unknown_part(dialect):
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "ho"}]
    body, adjusted = build(dialect, messages=[USER, {"role": "assistant", "content": parts}, USER], max_tokens=9)
    said = body["messages"][1]
    assert said["content"] == (parts[1:] if dialect.rules.is_reference else "ho")
    name = dialect.rules.reasoning
    assert said.get(name) == (None if name is None else "Hm.")
    assert adjusted == ([] if name else ["reasoning_content=dropped"])


@every
def test_extra_content_is_sent_or_reported_as_dropped(dialect):
    extra = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    said = {"role": "assistant", "content": None, "tool_calls": [CALL | extra]}
    given = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    body, adjusted = build(dialect, messages=[USER, said, given])
    goes = dialect.rules.keeps_extra_content
    assert ("extra_content" in json.dumps(body)) == goes
    assert ("extra_content=dropped" in adjusted) != goes


@every_accent
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({"function_call": "auto"}, {"tool_choice": "auto"}),
        ({"function_call": "none"}, {"tool_choice": "none"}),
        ({"function_call": {"name": "f"}}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)
def test_functions_are_tools(dialect, old, new):
    """Of which one may be called at a time; nothing is said of it, as nothing but the spelling is changed."""
    asked, adjusted = build(dialect, drops_params=True, functions=[TOOL["function"]], **old)
    with_tools, also = build(dialect, drops_params=True, tools=[TOOL], parallel_tool_calls=False, **new)
    assert asked == with_tools
    assert [said.replace("function_call", "tool_choice").replace("functions", "tools") for said in adjusted] == also


@every
def test_no_functions_are_no_functions(dialect):
    """OpenAI itself may complain of an empty list."""
    body, _ = build(dialect, functions=[], function_call="none", tools=[TOOL])
    assert body["tools"] == [TOOL]
    assert dialect.rules.is_reference or not {"functions", "function_call"} & body.keys()


@of(["openai", "azure"])
def test_openai_gets_functions_as_they_are(dialect):
    asked = {"functions": [{"name": "f"}], "function_call": {"name": "f"}}
    assert asked.items() <= build(dialect, **asked)[0].items()


@every_accent
@pytest.mark.parametrize("stop", [[], "", [""]])
def test_an_empty_stop_is_none(dialect, stop):
    """Q-STOP."""
    assert "stop" not in build(dialect, stop=stop, drops_params=True)[0]


@every_accent
def test_a_stop_is_a_list(dialect):
    """Where the host has one."""
    assert build(dialect, stop="END", drops_params=True)[0].get("stop") == (
        None if "stop" in dialect.lacks else ["END"]
    )


@every
def test_usage_is_asked_of_streams_alone(dialect):
    """Q-SOPT: for our books, where the host can tell it."""
    streamed, _ = build(dialect, is_stream=True, stream=True, stream_options={"include_usage": False})
    assert streamed["stream"] is True
    assert streamed.get("stream_options") == ({"include_usage": True} if dialect.asks_usage else None)
    assert not {"stream", "stream_options"} & build(dialect, stream=False)[0].keys()


@every
def test_hints_are_dropped_and_the_rest_is_refused_by_name(dialect):
    """Q-DROP: unless the caller would rather miss it, which is said."""
    hints = {"user", "store", "metadata", "service_tier", "prompt_cache_key", "safety_identifier", "verbosity"}
    asked = dict.fromkeys(hints, "x") | {"n": 1, "logprobs": False, "presence_penalty": 0, "logit_bias": {}}
    assert not dialect.lacks & build(dialect, **asked)[0].keys()
    for name, value in {"n": 2, "logit_bias": {"1": 5}, "logprobs": True}.items():
        if name not in dialect.lacks:
            assert name in build(dialect, **{name: value})[0]
            continue
        with pytest.raises(UnsupportedParameter) as caught:
            build(dialect, **{name: value})
        assert (caught.value.status, caught.value.param) == (400, name)
        body, adjusted = build(dialect, drops_params=True, **{name: value})
        assert name not in body
        assert f"{name}=dropped" in adjusted


@every
def test_no_thinking_is_one_switch(dialect):
    """Q-EFFORT: of everything that callers say, `none` wins, and the host hears it once (row 159)."""
    if dialect.put_thinking is None:
        return  # it hears what the caller says
    body, _ = build(dialect, reasoning_effort="none", thinking={"type": "enabled"}, reasoning={"effort": "low"})
    assert len({"reasoning", "thinking", "reasoning_effort", "chat_template_kwargs"} & body.keys()) <= 1


@every
def test_pictures_go_to_models_that_see(dialect):
    assert build(dialect, card=Card(vision=True), messages=seen(PICTURE))[0]["messages"] == seen(PICTURE)
    with pytest.raises(UnsupportedParameter) as caught:
        build(dialect, card=Card(vision=False), messages=seen(PICTURE))
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[1].image_url")


def test_the_local_engines_are_those_that_may_not_fetch():
    assert sorted(name for name, dialect in DIALECTS.items() if not dialect.fetches_urls) == ENGINES


@engines
@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", " HTTP://x"]
)
def test_addresses_of_pictures_do_not_go_to_a_local_engine(dialect, url):
    """It would fetch anything."""
    with pytest.raises(MalformedRequest) as caught:
        build(dialect, card=Card(vision=True), messages=seen(url))
    assert (caught.value.status, caught.value.code) == (400, "unsupported_image_url")


@engines
def test_nor_by_way_of_embeddings(dialect):
    """Engines embed `messages` (vLLM) and objects that hold an image (SGLang)."""
    with pytest.raises(UnsupportedParameter) as refused:
        embed(dialect, messages=seen("http://10.0.0.1/a.png"))
    assert refused.value.param == "messages"
    with pytest.raises(MalformedRequest) as malformed:
        embed(dialect, input=["hi", {"image": "http://10.0.0.1/a.png"}])
    assert (malformed.value.param, malformed.value.code) == ("input[1]", "invalid_type")


@of(name for name, dialect in DIALECTS.items() if "embeddings" in dialect.paths)
@pytest.mark.parametrize("given", ["hi", ["a", "b"], [1, 2], [[1], [2]]])
def test_texts_and_tokens_are_embedded(dialect, given):
    assert embed(dialect, input=given)["input"] == given


@every
def test_what_only_the_operator_may_set_is_stripped(dialect):
    """Row 76o."""
    internal = ["request_id", "priority", "kv_transfer_params", "vllm_xargs", "cache_salt", "id_slot", "lora_path"]
    assert not set(internal) & build(dialect, **dict.fromkeys(internal, 1))[0].keys()


V3_CALL = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
DSML_CALL = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
JSON_CALL = '{"name": "f", "arguments": {}}'


@every
@pytest.mark.parametrize("markup", [V3_CALL, DSML_CALL, JSON_CALL])
def test_markup_is_text_where_no_tool_may_be_called(dialect, markup):
    """Byte for byte, in pieces of any size, whatever the host says at the end."""
    text = f"Well:\n{markup}\n"
    functions = {"functions": [TOOL["function"]], "function_call": "none"}
    for choice in ({"tools": [TOOL], "tool_choice": "none"}, functions):
        request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | choice).encode())
        built = dialect.build_request(request, model="m", is_stream=True, card=Card(leaks_markup=True))
        for size, reason in ((1, "stop"), (7, "tool_calls"), (len(text), "tool_calls")):
            pieces = [chunk({"content": text[at : at + size]}) for at in range(0, len(text), size)]
            sink = RecordingSink()
            assert tell(sink, *pieces, chunk(finish=reason), reading=built.reading) is None
            assert "".join(call[2] for call in sink.calls if call[0] == "content") == text
            assert (sink.calls[-1], built.text_calls) == (("finish", 0, "stop"), None)
