"""A stream that breaks after its first content is continued by another target, if the model's config says so."""

import json

import openai
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import PAUSE, ScenarioUpstream, answers, breaks_off, streams
from tests.fakes.wire import chunk, event, text_stream

SYSTEM = {"role": "system", "content": "Du bist ein Pirat."}
ASK = {"model": "m", "messages": [SYSTEM, {"role": "user", "content": "Erzähl."}], "stream": True}
HEAD = event(chunk({"role": "assistant", "content": ""}))
BEGIN = [
    HEAD,
    event(chunk({"content": "Es war einmal ein Schiff, "})),
    event(chunk({"content": "das fuhr über"})),
    PAUSE,
]
TEXT_SO_FAR = "Es war einmal ein Schiff, das fuhr über"
USAGE = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        yield running


@pytest.fixture(params=["vllm", "deepseek"])
def dialect(request):
    return request.param


def config(upstream, other, dialect="vllm", idle_s=60, **model):
    settings = json.dumps({"on_stream_failure": "continue"} | model)[1:-1]
    return f"""
upstreams:
  first: {{base_url: "{upstream.url}", dialect: vllm, idle_timeout_s: {idle_s}}}
  second: {{base_url: "{other.url}", dialect: {dialect}}}
routing: {{retry: {{repeats: 0}}}}
models:
  m: {{targets: [{{upstream: first, model: a}}, {{upstream: second, model: b}}], {settings}}}
"""


@pytest.fixture
async def client(upstream, other, dialect):
    async with (
        proxy.serving(config(upstream, other, dialect)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield client


async def read(client, upstream, **fields):
    """The chunks of the answer; once the first chunk was read, the host continues its script up to the break."""
    chunks = []
    async for each in await client.chat.completions.create(**ASK | fields):
        chunks.append(each)
        upstream.calls[0].go.set()
    return chunks


def text(chunks):
    return "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)


BREAKS = {
    "cut": breaks_off(*BEGIN),
    "ended without a finish reason": streams(*BEGIN, b"data: [DONE]\n\n"),
    "a malformed chunk": streams(*BEGIN, b"data: {oops\n\n"),
    "an error in the stream": streams(*BEGIN, event(b'{"error": {"message": "engine died", "code": 500}}')),
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
async def test_another_target_continues_the_answer_as_one_stream(client, upstream, other, dialect, script):
    """One id, one role, one end; repeated text is sent once; the usage is that of both targets (#40404)."""
    upstream.play(script)
    other.play(streams(*text_stream("das fuhr über", " das Meer.", usage=USAGE)))
    chunks = await read(client, upstream, stream_options={"include_usage": True}, max_tokens=100)
    assert text(chunks) == f"{TEXT_SO_FAR} das Meer."
    assert len({each.id for each in chunks}) == 1
    assert {each.model for each in chunks} == {"m"}
    assert [each.choices[0].delta.role for each in chunks if each.choices and each.choices[0].delta.role] == [
        "assistant"
    ]
    ends = [each for each in chunks if each.choices and each.choices[0].finish_reason]
    assert [each.choices[0].finish_reason for each in ends] == ["stop"]
    assert ends[0].x_tidegate == {"continued": 1, "targets": ["first/a", "second/b"]}
    usage = chunks[-1].usage
    assert usage.completion_tokens > USAGE["completion_tokens"]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_the_second_target_gets_the_text_so_far_in_its_own_dialect(client, upstream, other, dialect):
    """No message is put before the caller's own system message (#18229)."""
    upstream.play(breaks_off(*BEGIN))
    other.play(streams(*text_stream(" das Meer.")))
    await read(client, upstream, max_tokens=100)
    (call,) = other.calls
    body = json.loads(call.body)
    assert body["messages"][:2] == ASK["messages"]
    assert len(body["messages"]) == 3
    last = body["messages"][2]
    assert (last["role"], last["content"]) == ("assistant", TEXT_SO_FAR)
    assert body["max_tokens"] < 100
    if dialect == "deepseek":
        assert (call.path, last["prefix"]) == ("/v1/beta/chat/completions", True)
    else:
        assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


async def test_a_stream_that_stalls_is_continued_too(upstream, other, dialect):
    upstream.play(streams(*BEGIN, PAUSE))
    other.play(streams(*text_stream(" das Meer.")))
    async with (
        proxy.serving(config(upstream, other, dialect, idle_s=0.3)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        chunks = [each async for each in await client.chat.completions.create(**ASK)]
    assert text(chunks) == f"{TEXT_SO_FAR} das Meer."
    await upstream.calls[0].gone.wait()


async def error_of(client, upstream, **fields):
    with pytest.raises(openai.APIError) as caught:
        await read(client, upstream, **fields)
    return caught.value


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NOT_PLAIN = {
    "tools": {"tools": [TOOL]},
    "choices": {"n": 2},
    "logprobs": {"logprobs": True},
    "json": {"response_format": {"type": "json_object"}},
}


@pytest.mark.parametrize("fields", NOT_PLAIN.values(), ids=NOT_PLAIN)
async def test_what_is_not_plain_text_ends_with_the_error(upstream, other, fields):
    upstream.play(breaks_off(*BEGIN))
    other.play(streams(*text_stream("no")))
    async with (
        proxy.serving(config(upstream, other)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        await error_of(client, upstream, **fields)
    assert other.calls == []


async def test_reasoning_that_was_cut_off_ends_with_the_error(client, upstream, other):
    """Reasoning that has left for the caller cannot be taken back."""
    upstream.play(breaks_off(HEAD, event(chunk({"reasoning": "Let me think"})), PAUSE))
    other.play(streams(*text_stream("no")))
    await error_of(client, upstream)
    assert other.calls == []


async def test_without_the_setting_the_stream_ends_with_the_error(upstream, other):
    """Answers of two targets are not joined unless the config says so (#19077)."""
    upstream.play(breaks_off(*BEGIN))
    other.play(streams(*text_stream("no")))
    async with (
        proxy.serving(config(upstream, other, on_stream_failure="error")) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        error = await error_of(client, upstream)
    assert (error.type, error.code) == ("upstream_error", "upstream_unreachable")
    assert other.calls == []


async def test_a_target_whose_dialect_cannot_continue_gets_no_request(upstream, other):
    """It would refuse the prefix, or answer it; the caller receives the error of the break (#27967)."""
    upstream.play(breaks_off(*BEGIN))
    other.play(answers(b'{"error": {"message": "prefill is not supported"}}', status=400))
    async with (
        proxy.serving(config(upstream, other, "openai")) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        error = await error_of(client, upstream)
    assert error.code == "upstream_unreachable"
    assert other.calls == []


async def test_a_refusal_of_the_prefix_does_not_hide_the_break(client, upstream, other):
    upstream.play(breaks_off(*BEGIN))
    other.play(answers(b'{"error": {"message": "prefill is not supported"}}', status=400))
    error = await error_of(client, upstream)
    assert error.code == "upstream_unreachable"
    assert len(other.calls) == 1


async def test_any_host_can_continue_a_completion(upstream, other):
    def piece(text, finish=None):
        choice = {"index": 0, "text": text, "finish_reason": finish}
        return event(json.dumps({"id": "x", "object": "text_completion", "choices": [choice]}).encode())

    upstream.play(breaks_off(piece("there was "), PAUSE))
    other.play(streams(piece("a ship."), piece("", "stop"), b"data: [DONE]\n\n"))
    chunks = []
    async with (
        proxy.serving(config(upstream, other, "generic")) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        async for each in await client.completions.create(model="m", prompt="Once ", stream=True):
            chunks.append(each)
            upstream.calls[0].go.set()
    assert "".join(each.choices[0].text for each in chunks) == "there was a ship."
    assert json.loads(other.calls[0].body)["prompt"] == "Once there was "
    assert chunks[-1].x_tidegate == {"continued": 1, "targets": ["first/a", "second/b"]}


async def test_a_continuation_that_breaks_is_continued_too(upstream, other):
    """The third target receives the text of both; `.stream()` of the SDK joins all of it."""
    async with ScenarioUpstream().running() as third:
        upstream.play(breaks_off(*BEGIN))
        other.play(breaks_off(HEAD, event(chunk({"content": " das Meer"})), PAUSE))
        third.play(streams(*text_stream(" und sank.", usage=USAGE)))
        text_config = config(upstream, other).replace(
            "routing:", f'  third: {{base_url: "{third.url}", dialect: sglang}}\nrouting:'
        )
        text_config = text_config.replace("model: b}]", "model: b}, {upstream: third, model: c}]")
        async with (
            proxy.serving(text_config) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
            client.chat.completions.stream(model="m", messages=ASK["messages"]) as stream,
        ):
            async for stream_event in stream:
                if stream_event.type == "content.delta":
                    upstream.calls[0].go.set()
                    if other.calls:
                        other.calls[0].go.set()
            answer = await stream.get_final_completion()
        messages = json.loads(third.calls[0].body)["messages"]
    assert answer.choices[0].message.content == f"{TEXT_SO_FAR} das Meer und sank."
    assert answer.choices[0].message.role == "assistant"
    assert messages == [*ASK["messages"], {"role": "assistant", "content": f"{TEXT_SO_FAR} das Meer"}]
