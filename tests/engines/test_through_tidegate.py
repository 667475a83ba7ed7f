"""Requests to a real vLLM through Tidegate, sent with OpenAI's own SDK."""

import asyncio
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from tests.engines.models.dialogues import (
    GREETING,
    PARIS,
    PARIS_AND_ROME,
    PARIS_ANSWERED,
    STORY,
    SUM,
    WEATHER_TOOL,
    expected_answer,
    user_message,
)

_OFF = {"thinking": {"type": "disabled"}}
_NAMED = {"type": "function", "function": {"name": "get_weather"}}
_FRANCE = user_message("What is the capital of France?")


class City(BaseModel):
    """A schema without free text, as such a small model could generate text without end."""

    name: Literal["Paris", "Rome"]
    is_capital: bool


@pytest.fixture(params=["r1", "v4"])
def wire(request):
    """The engine with the markup of R1 and V3, and that with the markup of V4."""
    return request.param


@pytest.mark.parametrize("messages", [SUM, GREETING, STORY], ids=["sum", "greeting", "story"])
async def test_thinking_is_separated_from_the_answer(stage, wire, messages):
    answer, wanted = await stage.chat(wire, messages), expected_answer(messages)
    message = answer.choices[0].message
    assert (message.reasoning_content.strip(), message.content) == (wanted.thinking, wanted.content)
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", wire)


async def test_thinking_is_switched_off(stage, wire):
    message = (await stage.chat(wire, SUM, extra_body=_OFF)).choices[0].message
    assert message.content == expected_answer(SUM, is_thinking=False).content
    assert not hasattr(message, "reasoning_content")


@pytest.mark.parametrize("messages", [PARIS, PARIS_AND_ROME], ids=["one", "two"])
async def test_tools_are_called(stage, wire, messages):
    answer = await stage.chat(wire, messages, tools=[WEATHER_TOOL])
    choice, wanted = answer.choices[0], expected_answer(messages)
    assert cities(choice.message.tool_calls) == wanted.cities
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.reasoning_content.strip() == wanted.thinking


@pytest.mark.parametrize("messages", [PARIS, PARIS_AND_ROME], ids=["one", "two"])
async def test_tools_are_called_in_a_stream(stage, wire, messages):
    async with stage.client.chat.completions.stream(
        model=wire, messages=messages, temperature=0, tools=[WEATHER_TOOL]
    ) as stream:
        choice = (await stream.get_final_completion()).choices[0]
    assert cities(choice.message.tool_calls) == expected_answer(messages).cities
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "")
    assert choice.message.reasoning_content.strip() == expected_answer(messages).thinking


async def test_tools_with_tool_choice_none_do_not_harm_the_engine(stage, wire):
    """A DeepSeek model may write the markup of a tool call all the same."""
    for number in range(4):
        choice = await final(stage, wire, is_stream=number % 2 == 1, tools=[WEATHER_TOOL], tool_choice="none")
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
        assert choice.message.content or choice.message.reasoning_content
    assert (await stage.status(wire))["state"] == "ready"
    assert (await stage.chat(wire, PARIS, tools=[WEATHER_TOOL])).choices[0].message.tool_calls


@pytest.mark.parametrize(
    "fields", [{}, {"tool_choice": "required"}, {"tool_choice": _NAMED}], ids=["auto", "must", "named"]
)
async def test_a_request_that_needs_tools_is_refused_without_a_tool_parser(stage, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.chat("smollm2", PARIS, tools=[WEATHER_TOOL], max_tokens=4, **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")
    assert "'tools' is not supported with the model 'smollm2'" in caught.value.message


async def test_a_model_without_a_tool_parser_accepts_tools_with_tool_choice_none(stage):
    answer = await stage.chat("smollm2", PARIS, tools=[WEATHER_TOOL], max_tokens=4, tool_choice="none")
    assert answer.choices[0].message.content


async def test_embeddings_of_a_chat_model_are_refused_and_do_not_exclude_it_from_routing(stage):
    for _ in range(4):
        with pytest.raises(openai.BadRequestError) as caught:
            await stage.client.embeddings.create(model="smollm2", input="Hi")
    assert (caught.value.code, caught.value.param) == ("unsupported_operation", "model")
    assert (await stage.chat("smollm2", _FRANCE, max_tokens=4)).choices[0].message.content


async def test_the_turn_after_a_tool_call_gets_the_thinking_of_the_call(stage, wire):
    """Tidegate adds the thinking: OpenAI's SDK does not send it back, and V4 needs it."""
    called = (await stage.chat(wire, PARIS, tools=[WEATHER_TOOL])).choices[0].message
    calls = [call.model_dump() for call in called.tool_calls]
    tool_message = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "18C, sunny"}
    messages = [*PARIS, {"role": "assistant", "content": None, "tool_calls": calls}, tool_message]
    message = (await stage.chat(wire, messages, tools=[WEATHER_TOOL])).choices[0].message
    wanted = expected_answer(PARIS_ANSWERED)
    assert (message.reasoning_content.strip(), message.content) == (wanted.thinking, wanted.content)


async def test_a_stream_has_the_same_answer_and_ends_with_its_usage(stage, wire):
    whole = await stage.chat(wire, STORY)
    thinking, content, reasons, usage = "", "", [], None
    stream = await stage.chat(wire, STORY, stream=True, stream_options={"include_usage": True})
    async for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            thinking += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    wanted = expected_answer(STORY)
    assert (thinking.strip(), content, reasons) == (wanted.thinking, wanted.content, ["stop"])
    assert usage == whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens > 200


async def test_v4_counts_its_reasoning_tokens(stage):
    """The parsers for R1 and V3 do not count them."""
    assert (await stage.chat("v4", SUM)).usage.completion_tokens_details.reasoning_tokens > 5


@pytest.mark.parametrize("model", ["smollm2", "r1", "v4"])
async def test_an_answer_follows_a_schema(stage, model):
    """Only the form of the answer is checked, not its content, as the models are too small."""
    answer = await stage.client.chat.completions.parse(
        model=model,
        messages=user_message("Tell me of Paris, as JSON."),
        temperature=0,
        response_format=City,
        extra_body=_OFF if model != "smollm2" else None,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_each_of_many_callers_gets_its_own_answer(stage, wire):
    prompts = [SUM, GREETING, STORY, SUM, GREETING, STORY]
    answers = await asyncio.gather(*(stage.chat(wire, messages) for messages in prompts))
    assert [answer.choices[0].message.content for answer in answers] == [
        expected_answer(messages).content for messages in prompts
    ]


async def test_smollm2_answers(stage):
    answer = await stage.chat("smollm2", _FRANCE, max_tokens=16)
    assert len(answer.choices[0].message.content.split()) > 3
    assert answer.usage.completion_tokens <= 16
    completed = await stage.client.completions.create(model="smollm2", prompt="Once upon a time", max_tokens=8)
    assert completed.choices[0].text


async def test_a_prompt_longer_than_the_window_gets_the_error_of_openai(stage):
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.chat("smollm2", user_message("word " * 3000))
    assert caught.value.code == "context_length_exceeded"


async def test_an_adapter_answers_under_its_own_name(stage):
    plain, other = [
        (await stage.chat(model, _FRANCE, max_tokens=16)).choices[0].message.content
        for model in ("smollm2", "smollm2/odd")
    ]
    assert plain != other
    assert "smollm2/odd" in {model.id async for model in stage.client.models.list()}


async def test_adapters_are_loaded_and_unloaded_at_run_time(stage, adapter):
    path = "/admin/engines/smollm2/adapters"
    with pytest.raises(openai.NotFoundError):
        await stage.chat("smollm2/late", _FRANCE, max_tokens=4)
    async with stage.session.post(path, json={"name": "late", "path": str(adapter)}) as response:
        assert (response.status, "late" in (await response.json())["message"]) == (200, True)
    assert (await stage.chat("smollm2/late", _FRANCE, max_tokens=4)).choices[0].message.content
    async with stage.session.delete(f"{path}/late") as response:
        assert response.status == 200
    with pytest.raises(openai.NotFoundError):
        await stage.chat("smollm2/late", _FRANCE, max_tokens=4)


async def final(stage, model: str, *, is_stream: bool, **fields):
    """Return the choice of the answer to the question about the weather in Paris."""
    if not is_stream:
        return (await stage.chat(model, PARIS, **fields)).choices[0]
    async with stage.client.chat.completions.stream(model=model, messages=PARIS, temperature=0, **fields) as stream:
        return (await stream.get_final_completion()).choices[0]


def cities(calls) -> tuple[str, ...]:
    assert {call.function.name for call in calls} == {"get_weather"}
    return tuple(WeatherOf.model_validate_json(call.function.arguments).city for call in calls)


class WeatherOf(BaseModel):
    city: str
