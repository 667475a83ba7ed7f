"""The progress of a load as callers see it: in the stream that waits for it, and in the list of models."""

import asyncio
import json

import aiohttp
import openai
import pytest

from tests.fakes.processes import until
from tests.fakes.vllm_engine import FakeVllm, running_app

THOUGHTS, WHOLE = "t1 t2 ", "w3 w4 w5 w6 "
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
SHARDS = "Loading safetensors checkpoint shards:  {}% Completed | 1/4 [00:30<01:30, 30.0s/it]"


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as opened:
        yield opened


def models_of(engine: str = "r1", **keys) -> dict:
    return {"m": {"targets": [{"engine": engine}], "progress_in": "reasoning_content", **keys}}


def share_of(made):
    """The share of the start that is done, by the engine's last line of progress."""
    progress = made.engine().status.progress
    return None if progress is None else progress.done


async def loads(made, start, *shares: int) -> None:
    """Write these shares to the output, one after another, and then be ready."""
    for share in shares:
        start.tell("say", line=SHARDS.format(share))
        await until(lambda share=share: share_of(made) == share / 100)
    start.tell("listen")


def waiting_requests() -> int:
    """How many requests wait for an answer while they stream the progress."""
    return sum(task.get_name().startswith("answer to ") for task in asyncio.all_tasks())


async def events(response) -> list[bytes]:
    """All events of the response, up to its end."""
    return (await response.content.read()).decode().removesuffix("\n\n").split("\n\n")


# --- in the stream ------------------------------------------------------------------------------------------------


async def test_a_stream_contains_the_progress_of_the_load_and_then_the_answer(vllm):
    """OpenAI's SDK reads both as one answer."""
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(start="on_demand")}, models_of()) as made:
        stream = await made.ask(stream=True, stream_options={"include_usage": True})
        telling = asyncio.create_task(loads(made, await vllm.next_start(), 20, 24, 50))
        chunks = [chunk async for chunk in stream]
        await telling
    choices = [choice for chunk in chunks for choice in chunk.choices]
    reasoning = "".join(getattr(choice.delta, "reasoning_content", None) or "" for choice in choices)
    lines = reasoning.splitlines()
    assert lines[0] == "Starting the model"
    assert set(lines[1:-1]) <= {"Loading the weights: 20 %", "Loading the weights: 50 %"}
    assert lines[-2:] == ["Loading the weights: 50 %", THOUGHTS]
    assert "".join(choice.delta.content or "" for choice in choices) == WHOLE
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [6]


async def test_on_the_wire_all_events_are_openai_chunks(vllm, session):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config()}, models_of()) as made:
        start = await vllm.next_start()
        await made.until("starting")
        async with session.post(f"{made.url}/v1/chat/completions", json=ASK) as response:
            assert response.status == 200
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            start.tell("listen")
            lines = await events(response)
    assert lines.pop() == "data: [DONE]"
    first, second, *_, last = [json.loads(event.removeprefix("data: ")) for event in lines]
    envelope = {name: first[name] for name in ("id", "object", "created", "model")}

    def chunk(delta: dict, reason: str | None = None) -> dict:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return envelope | {"choices": [choice]}

    assert (envelope["object"], envelope["model"]) == ("chat.completion.chunk", "m")
    assert first == chunk({"role": "assistant", "content": "", "refusal": None})
    assert second == chunk({"reasoning_content": "Starting the model\n"})
    assert last == chunk({}, "stop")


@pytest.mark.parametrize(
    ("form", "names", "content"),
    [
        ("reasoning", ["reasoning"], WHOLE),
        ("both", ["reasoning_content", "reasoning"], WHOLE),
        ("think_tags", [], f"<think>Starting the model\n{THOUGHTS}</think>\n\n{WHOLE}"),
    ],
)
async def test_the_progress_has_the_format_that_the_model_uses_for_reasoning(vllm, session, form, names, content):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config()}, models_of(reasoning_format=form)) as made:
        start = await vllm.next_start()
        await made.until("starting")
        async with session.post(f"{made.url}/v1/chat/completions", json=ASK) as response:
            start.tell("listen")
            chunks = [json.loads(event.removeprefix("data: ")) for event in (await events(response))[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == content
    for name in ("reasoning_content", "reasoning"):
        reasoning = "".join(delta.get(name) or "" for delta in deltas)
        assert reasoning == (f"Starting the model\n{THOUGHTS}" if name in names else "")


@pytest.mark.parametrize("keys", [{"progress_in": None}, {"reasoning_format": "hidden"}])
async def test_a_failure_to_load_keeps_its_status_code_where_no_progress_is_shown(vllm, keys):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(queue_timeout_s=0.05)}, models_of(**keys)) as made:
        await vllm.next_start()
        await made.until("starting")
        with pytest.raises(openai.InternalServerError, match="is not ready"):
            await made.ask(stream=True)


async def test_a_failure_to_load_is_an_error_in_the_stream(vllm, session):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config()}, models_of()) as made:
        await vllm.next_start()
        await made.until("starting")
        stream = await made.ask(stream=True)
        async with session.post(f"{made.url}/v1/chat/completions", json=ASK) as response:
            made.engine().set_goal("stop")
            *_, error, done = await events(response)
        with pytest.raises(openai.APIError, match="is not ready"):
            async for _ in stream:
                pass
    failure = json.loads(error.removeprefix("data: "))["error"]
    assert (failure["code"], done) == ("engine_unavailable", "data: [DONE]")


async def test_a_stream_of_a_loaded_engine_contains_no_progress(vllm):
    async with running_app({"r1": vllm.config()}, models_of()) as made:
        await made.until("ready")
        chunks = [chunk async for chunk in await made.ask(stream=True)]
    reasoning = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert reasoning == THOUGHTS


async def test_a_stream_is_kept_alive_while_the_engine_loads(vllm, session):
    vllm.habits = ["waits"]
    server = {"comment_every_s": 0.02, "empty_chunk_every_s": 0.02}
    async with running_app({"r1": vllm.config()}, models_of(), server=server) as made:
        start = await vllm.next_start()
        await made.until("starting")
        async with session.post(f"{made.url}/v1/chat/completions", json=ASK) as response:
            seen = b""
            while seen.count(b'"delta":{}') < 2:
                seen += await response.content.readany()
            start.tell("listen")
            rest = await response.content.read()
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_request_whose_caller_disconnects_during_the_load_ends(vllm):
    """The engine starts nevertheless, for later requests."""
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config()}, models_of()) as made:
        start = await vllm.next_start()
        await made.until("starting")
        stream = await made.ask(stream=True)
        await anext(aiter(stream))
        assert waiting_requests() == 1
        await stream.close()
        await until(lambda: waiting_requests() == 0)
        assert made.app._metrics.in_flight == 0
        start.tell("listen")
        await made.until("ready")
        assert made.engine().requests.taken == 0
        assert start.all("came") == []


async def test_a_wake_that_evicts_another_engine_is_shown_too(vllm):
    async with FakeVllm("v3", vllm.home).listening() as other:
        keys = {"gpus": [0], "gpu_memory_utilization": 0.8, "start": "on_demand", "sleep_level": 1}
        engines = {"r1": vllm.config(**keys), "v3": other.config(**keys)}
        models = models_of() | {"v3": {"targets": [{"engine": "v3"}]}}
        async with running_app(engines, models) as made:
            await made.ask()
            await made.ask("v3")
            assert made.engine().status.state == "sleeping"
            chunks = [chunk async for chunk in await made.ask(stream=True)]
    reasoning = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert reasoning == f"Waking the model\n{THOUGHTS}"


# --- in the list --------------------------------------------------------------------------------------------------


async def status(made, model: str = "m") -> str | None:
    """The status of a model, which is the same alone and in the list."""
    one = await made.client.models.retrieve(model)
    [listed] = [each for each in (await made.client.models.list()).data if each.id == model]
    assert one == listed
    return (one.model_extra or {}).get("status")


async def test_the_list_of_models_has_the_load_status_of_each(vllm):
    """OpenAI's SDK reads the list as before."""
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(start="on_demand", sleep_level=1)}) as made:
        assert await status(made) == "unloaded"
        asking = asyncio.create_task(made.ask())
        start = await vllm.next_start()
        await made.until("starting")
        assert await status(made) == "loading"
        start.tell("listen")
        await asking
        assert await status(made) == "loaded"
        made.engine().set_goal("sleep")
        await made.until("sleeping")
        assert await status(made) == "sleeping"
        made.engine().set_goal("stop")
        await made.until("stopped")
        assert await status(made) == "unloaded"


async def test_the_best_engine_of_a_model_counts_and_hosted_upstreams_have_no_status(vllm, upstream):
    async with FakeVllm("v3", vllm.home).listening() as other:
        engines = {"r1": vllm.config(), "v3": other.config(start="on_demand")}
        models = {
            "both": {"targets": [{"engine": "v3"}, {"engine": "r1"}, {"upstream": "host", "model": "there"}]},
            "one": {"targets": [{"upstream": "host", "model": "there"}, {"engine": "v3"}]},
            "far": {"targets": [{"upstream": "host", "model": "there"}]},
        }
        async with running_app(engines, models, upstream=upstream) as made:
            await made.until("ready")
            statuses = [await status(made, name) for name in models]
    assert statuses == ["loaded", "unloaded", None]


async def test_an_engine_that_cannot_be_started_has_failed(vllm):
    async with running_app({"r1": vllm.config(python="/nowhere")}) as made:
        await until(lambda: made.engine().status.state == "failed")
        assert await status(made) == "failed"
