"""Agents work with a reasoning DeepSeek, which requires its reasoning back, although their clients drop it.

See contract B.1, row 10.
"""

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI

from tests.fakes import proxy
from tests.fakes.deepseek import ThinkingHost

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
QUESTION = {"role": "user", "content": "How warm is it in Paris?"}


@tool
def weather(city: str) -> str:
    """Return the temperature in a city."""
    return f"18 degrees in {city}"


@pytest.fixture
def host(upstream):
    """A fake DeepSeek that enforces the rules of the real one."""
    thinking_host = ThinkingHost()
    upstream.play(thinking_host)
    return thinking_host


@pytest.fixture
async def url(upstream, monkeypatch):
    """Run Tidegate in front of the host, with two callers."""
    monkeypatch.setenv("ALICE_KEY", "alice-key")
    monkeypatch.setenv("BOB_KEY", "bob-key")
    config = f"""
auth: {{callers: {{alice: {{key: "env:ALICE_KEY"}}, bob: {{key: "env:BOB_KEY"}}}}}}
upstreams: {{deepseek: {{base_url: "{upstream.url}", dialect: deepseek}}}}
models: {{thinker: {{targets: [{{upstream: deepseek, model: deepseek-v4-pro}}]}}}}
"""
    async with proxy.serving(config) as address:
        yield address


def client_of(url: str, key: str = "alice-key") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


async def first_turn(client: openai.AsyncOpenAI) -> list[dict]:
    """Return a conversation up to the tool's result, as a client keeps it that does not support reasoning."""
    answer = await client.chat.completions.create(model="thinker", messages=[QUESTION], tools=TOOLS)
    (call,) = answer.choices[0].message.tool_calls
    function = {"name": call.function.name, "arguments": call.function.arguments}
    assistant_message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call.id, "type": "function", "function": function}],
    }
    return [QUESTION, assistant_message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]


async def next_turn(client: openai.AsyncOpenAI, messages: list[dict], **fields) -> str | None:
    """Request the next turn; return the value of `x-tidegate-adjusted`."""
    raw = await client.chat.completions.with_raw_response.create(
        model="thinker", messages=messages, tools=TOOLS, **fields
    )
    assert raw.parse().choices[0].message.content == "It is 18 degrees in Paris."
    return raw.headers.get("x-tidegate-adjusted")


@pytest.mark.parametrize("make", [ChatOpenAI, ChatDeepSeek])
@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_plain_langchain_agent_loop_runs(url, host, make, is_streaming):
    """LangChain sends no reasoning back; the host still receives its own reasoning."""
    address = {"base_url": f"{url}/v1"} if make is ChatOpenAI else {"api_base": f"{url}/v1"}
    model = make(model="thinker", api_key="alice-key", max_retries=0, streaming=is_streaming, **address)
    bound = model.bind_tools([weather])
    messages = [HumanMessage("How warm is it in Paris?")]
    async with model.root_async_client:
        for _ in range(2):
            answer = await bound.ainvoke(messages)
            messages.append(answer)
            messages += [
                ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls
            ]
    assert answer.text == "It is 18 degrees in Paris."
    (assistant_message,) = [message for message in host.seen[-1] if message["role"] == "assistant"]
    assert assistant_message["reasoning_content"].split() == host.thoughts[0].split()


async def test_restored_reasoning_is_reported_in_a_header(url, host):
    async with client_of(url) as client:
        assert await next_turn(client, await first_turn(client)) == "reasoning_content=restored"


async def test_reasoning_that_the_client_sends_itself_is_kept(url, host):
    async with client_of(url) as client:
        messages = await first_turn(client)
        messages[1]["reasoning_content"] = "My own words."
        assert await next_turn(client, messages) is None
    assert host.seen[-1][1]["reasoning_content"] == "My own words."


async def test_another_callers_reasoning_is_not_restored(url, host):
    """For the same call id from another caller a placeholder is sent, which the host accepts."""
    async with client_of(url) as alice, client_of(url, "bob-key") as bob:
        assert await next_turn(bob, await first_turn(alice)) == "reasoning_content=stand-in"
    assert host.seen[-1][1]["reasoning_content"] == " "


async def test_a_turn_that_tidegate_did_not_serve_gets_the_placeholder(url, host):
    call = {"id": "call_elsewhere", "type": "function", "function": {"name": "weather", "arguments": ""}}
    messages = [
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_elsewhere", "content": "18 degrees"},
    ]
    async with client_of(url) as client:
        assert await next_turn(client, messages) == "reasoning_content=stand-in"
    assert host.seen[-1][1]["tool_calls"][0]["function"]["arguments"] == "{}"


async def test_nothing_is_restored_if_thinking_is_off(url, host):
    async with client_of(url) as client:
        messages = await first_turn(client)
        assert await next_turn(client, messages, reasoning_effort="none") is None
    assert "reasoning_content" not in host.seen[-1][1]


async def test_a_forced_tool_turns_thinking_off_and_this_is_reported(url, host):
    """LangChain forces a tool for structured output by function calling."""
    async with client_of(url) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="thinker", messages=[QUESTION], tools=TOOLS, tool_choice="required"
        )
    assert raw.headers["x-tidegate-adjusted"] == "thinking=off"
    assert raw.parse().choices[0].message.tool_calls[0].function.name == "weather"
