"""OpenAI's SDK and curl get answers of a real model from `tidegate serve` without any configuration."""

import asyncio
import json

import openai
import pytest

MODEL = "smollm2-135m"
REQUEST = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 24, "temperature": 0}


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
async def async_client(live):
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_sync_call_gets_an_answer(client):
    answer = client.chat.completions.create(**REQUEST)
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id.startswith("req_")


def test_a_sync_stream_holds_the_same_text_as_the_unary_answer(client):
    whole = client.chat.completions.create(**REQUEST).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**REQUEST, stream=True)]
    assert "".join(pieces) == whole
    assert len(pieces) > 2


async def test_an_async_stream_has_one_role_one_finish_reason_and_the_requested_usage(async_client):
    stream = await async_client.chat.completions.create(**REQUEST, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert len({chunk.id for chunk in chunks}) == 1
    assert len({chunk.created for chunk in chunks}) == 1
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert len([choice for choice in choices if choice.finish_reason]) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_an_async_call_gets_an_answer(async_client):
    answer = await async_client.chat.completions.create(**REQUEST)
    assert answer.choices[0].message.content


def test_the_stream_helper_assembles_the_answer(client):
    with client.chat.completions.stream(**REQUEST) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].message.content


async def test_the_async_stream_helper_assembles_the_answer(async_client):
    async with async_client.chat.completions.stream(**REQUEST) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content


def test_several_choices_are_in_order(client):
    answer = client.chat.completions.create(**REQUEST | {"temperature": 1}, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


def test_logprobs_have_openais_form(client):
    answer = client.chat.completions.create(**REQUEST, logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert entries
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)


def test_the_raw_stream_holds_only_data_lines(client):
    with client.chat.completions.with_streaming_response.create(**REQUEST, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])


def test_legacy_completions_answer_and_stream(client):
    request = {"model": MODEL, "prompt": "The sea is", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**request)
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**request, stream=True)]
    assert whole.object == "text_completion"
    assert "".join(pieces) == whole.choices[0].text
    assert whole.choices[0].text


def test_models_are_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such model")
    assert caught.value.code == "model_not_found"


def test_an_unsupported_operation_is_an_openai_error(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input="x")
    assert caught.value.code == "unsupported_operation"
    assert "This model does not serve embeddings" in caught.value.message


def test_the_paths_work_without_v1(live):
    with openai.OpenAI(base_url=live.url, api_key="unused", max_retries=0) as bare:
        assert bare.chat.completions.create(**REQUEST).choices[0].message.content


def test_a_prompt_over_the_window_is_context_length_exceeded(client):
    long = "word " * 20_000
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**REQUEST | {"messages": [{"role": "user", "content": long}]})
    assert caught.value.code == "context_length_exceeded"


async def test_curl_gets_an_answer_and_a_stream(live):
    whole = json.loads(await _curl(live.url, REQUEST))
    streamed = await _curl(live.url, REQUEST | {"stream": True})
    assert whole["choices"][0]["message"]["content"]
    assert streamed.endswith(b"data: [DONE]\n\n")


async def test_many_callers_at_once_are_all_answered(async_client):
    answers = await asyncio.gather(
        *(async_client.chat.completions.create(**REQUEST | {"max_tokens": 4}) for _ in range(12))
    )
    assert all(answer.choices[0].message.content for answer in answers)


async def _curl(url: str, body: dict) -> bytes:
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sSN", f"{url}/v1/chat/completions", "-H", "content-type: application/json", "-d", json.dumps(body)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await curl.communicate()
    assert curl.returncode == 0
    return out
