"""A real vLLM through Tidegate, asked with OpenAI's own SDK."""

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
    asks,
    said,
)

_OFF = {"thinking": {"type": "disabled"}}
_NAMED = {"type": "function", "function": {"name": "get_weather"}}
_FRANCE = asks("What is the capital of France?")


class City(BaseModel):
    """Nothing that a model without an idea could go on with for ever."""

    name: Literal["Paris", "Rome"]
    is_capital: bool


@pytest.fixture(params=["r1", "v4"])
def wire(request):
    """Both forms of DeepSeek's markup."""
    return request.param


@pytest.mark.parametrize("messages", [SUM, GREETING, STORY], ids=["sum", "greeting", "story"])
async def test_thinking_and_answer_come_apart(stage, wire, messages):
    answer, wanted = await stage.say(wire, messages), said(messages)
    message = answer.choices[0].message
    assert (message.reasoning_content.strip(), message.content) == (wanted.thinking, wanted.content)
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", wire)


async def test_thinking_is_switched_off(stage, wire):
    message = (await stage.say(wire, SUM, extra_body=_OFF)).choices[0].message
    assert message.content == said(SUM, is_thinking=False).content
    assert not hasattr(message, "reasoning_content")


@pytest.mark.parametrize("messages", [PARIS, PARIS_AND_ROME], ids=["one", "two"])
async def test_tools_are_called(stage, wire, messages):
    answer = await stage.say(wire, messages, tools=[WEATHER_TOOL])
    choice, wanted = answer.choices[0], said(messages)
    assert cities(choice.message.tool_calls) == wanted.cities
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.reasoning_content.strip() == wanted.thinking


@pytest.mark.parametrize("messages", [PARIS, PARIS_AND_ROME], ids=["one", "two"])
async def test_tools_are_called_in_a_stream(stage, wire, messages):
    async with stage.client.chat.completions.stream(
        model=wire, messages=messages, temperature=0, tools=[WEATHER_TOOL]
    ) as stream:
        choice = (await stream.get_final_completion()).choices[0]
    assert cities(choice.message.tool_calls) == said(messages).cities
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "")
    assert choice.message.reasoning_content.strip() == said(messages).thinking


async def test_tools_that_may_not_be_called_cost_an_engine_nothing(stage, wire):
    """A DeepSeek may write its markup all the same."""
    for number in range(4):
        choice = await final(stage, wire, is_stream=number % 2 == 1, tools=[WEATHER_TOOL], tool_choice="none")
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
        assert choice.message.content or choice.message.reasoning_content
    assert (await stage.status(wire))["state"] == "ready"
    assert (await stage.say(wire, PARIS, tools=[WEATHER_TOOL])).choices[0].message.tool_calls


@pytest.mark.parametrize(
    "fields", [{}, {"tool_choice": "required"}, {"tool_choice": _NAMED}], ids=["auto", "must", "named"]
)
async def test_a_model_without_a_tool_parser_is_not_asked_to_call_tools(stage, fields):
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.say("smollm2", PARIS, tools=[WEATHER_TOOL], max_tokens=4, **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")
    assert "'tools' is not supported with the model 'smollm2'" in caught.value.message


async def test_nor_is_it_refused_tools_that_it_may_not_call(stage):
    answer = await stage.say("smollm2", PARIS, tools=[WEATHER_TOOL], max_tokens=4, tool_choice="none")
    assert answer.choices[0].message.content


async def test_embeddings_of_a_chat_model_are_refused_and_do_not_eject_it(stage):
    for _ in range(4):
        with pytest.raises(openai.BadRequestError) as caught:
            await stage.client.embeddings.create(model="smollm2", input="Hi")
    assert (caught.value.code, caught.value.param) == ("unsupported_operation", "model")
    assert (await stage.say("smollm2", _FRANCE, max_tokens=4)).choices[0].message.content


async def test_the_turn_after_a_tool_is_answered_with_the_thinking_put_back(stage, wire):
    """By Tidegate: OpenAI's SDK does not send it, and V4 wants it."""
    called = (await stage.say(wire, PARIS, tools=[WEATHER_TOOL])).choices[0].message
    calls = [call.model_dump() for call in called.tool_calls]
    told = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "18C, sunny"}
    messages = [*PARIS, {"role": "assistant", "content": None, "tool_calls": calls}, told]
    message = (await stage.say(wire, messages, tools=[WEATHER_TOOL])).choices[0].message
    wanted = said(PARIS_ANSWERED)
    assert (message.reasoning_content.strip(), message.content) == (wanted.thinking, wanted.content)


async def test_a_stream_says_the_same_and_ends_with_its_usage(stage, wire):
    whole = await stage.say(wire, STORY)
    thinking, content, reasons, usage = "", "", [], None
    stream = await stage.say(wire, STORY, stream=True, stream_options={"include_usage": True})
    async for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            thinking += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    wanted = said(STORY)
    assert (thinking.strip(), content, reasons) == (wanted.thinking, wanted.content, ["stop"])
    assert usage == whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens > 200


async def test_v4_counts_its_reasoning_tokens(stage):
    """The parsers for R1 and V3 do not."""
    assert (await stage.say("v4", SUM)).usage.completion_tokens_details.reasoning_tokens > 5


@pytest.mark.parametrize("model", ["smollm2", "r1", "v4"])
async def test_an_answer_is_held_to_a_schema(stage, model):
    """Its words are what a model of this size makes of it."""
    answer = await stage.client.chat.completions.parse(
        model=model,
        messages=asks("Tell me of Paris, as JSON."),
        temperature=0,
        response_format=City,
        extra_body=_OFF if model != "smollm2" else None,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_many_callers_are_answered_each_with_their_own(stage, wire):
    asked = [SUM, GREETING, STORY, SUM, GREETING, STORY]
    answers = await asyncio.gather(*(stage.say(wire, messages) for messages in asked))
    assert [answer.choices[0].message.content for answer in answers] == [said(messages).content for messages in asked]


async def test_smollm2_talks(stage):
    answer = await stage.say("smollm2", _FRANCE, max_tokens=16)
    assert len(answer.choices[0].message.content.split()) > 3
    assert answer.usage.completion_tokens <= 16
    completed = await stage.client.completions.create(model="smollm2", prompt="Once upon a time", max_tokens=8)
    assert completed.choices[0].text


async def test_what_the_window_does_not_hold_is_refused_as_openai_refuses_it(stage):
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.say("smollm2", asks("word " * 3000))
    assert caught.value.code == "context_length_exceeded"


async def test_an_adapter_answers_under_its_own_name(stage):
    plain, other = [
        (await stage.say(model, _FRANCE, max_tokens=16)).choices[0].message.content
        for model in ("smollm2", "smollm2/odd")
    ]
    assert plain != other
    assert "smollm2/odd" in {model.id async for model in stage.client.models.list()}


async def test_adapters_come_and_go_while_it_runs(stage, adapter):
    at = "/admin/engines/smollm2/adapters"
    with pytest.raises(openai.NotFoundError):
        await stage.say("smollm2/late", _FRANCE, max_tokens=4)
    async with stage.session.post(at, json={"name": "late", "path": str(adapter)}) as told:
        assert (told.status, "late" in (await told.json())["message"]) == (200, True)
    assert (await stage.say("smollm2/late", _FRANCE, max_tokens=4)).choices[0].message.content
    async with stage.session.delete(f"{at}/late") as told:
        assert told.status == 200
    with pytest.raises(openai.NotFoundError):
        await stage.say("smollm2/late", _FRANCE, max_tokens=4)


async def final(stage, model: str, *, is_stream: bool, **fields):
    """The choice of the answer to the question for Paris."""
    if not is_stream:
        return (await stage.say(model, PARIS, **fields)).choices[0]
    async with stage.client.chat.completions.stream(model=model, messages=PARIS, temperature=0, **fields) as stream:
        return (await stream.get_final_completion()).choices[0]


def cities(calls) -> tuple[str, ...]:
    assert {call.function.name for call in calls} == {"get_weather"}
    return tuple(WeatherOf.model_validate_json(call.function.arguments).city for call in calls)


class WeatherOf(BaseModel):
    city: str
