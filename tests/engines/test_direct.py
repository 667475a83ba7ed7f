"""The environment and the models, without Tidegate: vLLM serves them, with the answers that the other tests need."""

import pytest

from tests.engines.direct import serving
from tests.engines.models.dialogues import PARIS, STORY, SUM, WEATHER_TOOL, expected_answer, user_message

_FLAGS = {
    "r1": ("--reasoning-parser", "deepseek_r1", "--tool-call-parser", "deepseek_v3"),
    "v4": (
        *("--tokenizer-mode", "deepseek_v4"),
        *("--reasoning-parser", "deepseek_v4", "--tool-call-parser", "deepseek_v4"),
    ),
}
_CHOICES = (
    {},
    {"tool_choice": "auto"},
    {"tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    {"tool_choice": "none"},
)
_COMMON = ("--enable-auto-tool-choice", "--shutdown-timeout", "30")


@pytest.fixture(params=["r1", "v4"])
def wire(request):
    return request.param


@pytest.fixture
def checkpoint(request, wire):
    return request.getfixturevalue({"r1": "tiny_deepseek", "v4": "tiny_deepseek_v4"}[wire])


async def test_the_tiny_deepseek_thinks_calls_tools_and_ends_at_sigterm(vllm_python, checkpoint, wire, tmp_path):
    async with serving(vllm_python, checkpoint, tmp_path, *_FLAGS[wire], *_COMMON) as vllm:
        for messages in (SUM, STORY):
            message, wanted = await vllm.chat(messages=messages), expected_answer(messages)
            assert (message["reasoning"].strip(), message["content"].strip()) == (wanted.thinking, wanted.content)
        message = await vllm.chat(messages=PARIS, tools=[WEATHER_TOOL])
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
        assert message["reasoning"].strip() == expected_answer(PARIS).thinking
        assert calls == [("get_weather", '{"city": "Paris"}')]
        assert await vllm.stop() == 0


async def test_smollm2_answers(vllm_python, smollm2, tmp_path):
    """The text is not compared: when two tokens are almost equally likely, another processor may choose the other."""
    async with serving(vllm_python, smollm2, tmp_path) as vllm:
        message = await vllm.chat(messages=user_message("What is the capital of France?"), max_tokens=16)
        assert len(message["content"].split()) > 3
        request = {"messages": PARIS, "tools": [WEATHER_TOOL]}
        statuses = [await vllm.status(**request, **choice) for choice in _CHOICES]
        assert statuses == [400, 400, 400, 400, 200]  # without a tool parser; `RoutingRequest.needs_tools` goes by that
        assert await vllm.stop() == 0
