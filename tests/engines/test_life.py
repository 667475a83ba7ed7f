"""A real vLLM under Tidegate: callers disconnect, it is drained, started, killed and put to sleep.

The printed times are shown with `-s`.
"""

import asyncio
import time

import openai
import pytest

from tests.engines import cpu
from tests.engines.crash import crash
from tests.engines.models.dialogues import STORY, SUM, expected_answer, user_message
from tests.engines.sessions import until_ended
from tests.engines.stage import ENDLESS

_GENERATED = "vllm:generation_tokens_total"
_PHASES = [
    "reading the config",
    "starting the engine",
    "loading the weights",
    "making the KV cache",
    "starting the server",
]


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "unary"])
async def test_a_caller_that_disconnects_ends_the_engines_work(stage, is_stream):
    before = await stage.metric("smollm2", _GENERATED)
    request = asyncio.create_task(stage.chat("smollm2", user_message("Tell me a story."), stream=is_stream, **ENDLESS))
    await stage.until_running("smollm2", 1)
    disconnected_s = time.perf_counter()
    if is_stream:
        await (await request).close()
    else:
        request.cancel()
    await stage.until_running("smollm2", 0)
    print(f"no work after {1000 * (time.perf_counter() - disconnected_s):.0f} ms")
    # the complete answer would have filled the window, which also holds a prompt of about 40 tokens
    assert await stage.metric("smollm2", _GENERATED) - before < cpu.MAX_MODEL_LEN / 2


async def test_a_stop_lets_answers_end_and_a_start_shows_its_progress(stage):
    stream = await stage.chat("r1", STORY, stream=True)
    chunks = [await anext(stream)]
    stopping = asyncio.create_task(stage.command("stop", "r1", "--url", stage.url))
    began_s, old = time.perf_counter(), stage.processes("r1")
    await stage.until_state("r1", "draining")
    with pytest.raises(openai.InternalServerError, match="draining"):
        await stage.chat("r1", SUM)
    chunks += [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected_answer(STORY).content
    assert await stopping == "r1: stopped\n"
    print(f"drained and stopped after {time.perf_counter() - began_s:.1f} s")
    await until_ended(*old)

    await stage.command("start", "r1", "--no-wait", "--url", stage.url)
    phases = [(await stage.line("r1", "engine loading"))["phase"]]
    status = await stage.status("r1")
    assert (status["state"], status["progress"]["phase"]) == ("starting", phases[0])
    with pytest.raises(
        openai.InternalServerError, match=phases[0]
    ) as caught:  # `queue_timeout_s` is 0.1 s, so it does not wait
        await stage.chat("r1", SUM)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert phases[0] in await stage.command("list", "--url", stage.url)
    while phases[-1] != _PHASES[-1]:
        phases.append((await stage.line("r1", "engine loading"))["phase"])
    assert phases == _PHASES
    print(f"ready after {await stage.ready('r1')} s, alone")
    assert (await stage.chat("r1", SUM)).choices[0].message.content == expected_answer(SUM).content


@pytest.mark.parametrize("victim", ["vllm/server.py", "VLLM::EngineCore"])
async def test_callers_of_a_killed_engine_get_an_error_and_it_restarts_without_leftover_processes(stage, victim):
    restarts = (await stage.status("r1"))["restarts"]
    await crash(stage, "r1", victim)
    assert (await stage.status("r1"))["restarts"] == restarts + 1
    assert (await stage.chat("r1", SUM)).choices[0].message.content == expected_answer(SUM).content


async def test_a_sleeping_engine_is_woken_by_a_request(stage):
    """On a CPU, vLLM only pauses when it sleeps."""
    assert await stage.command("sleep", "v4", "--url", stage.url) == "v4: sleeping\n"
    assert (await stage.chat("v4", SUM)).choices[0].message.content == expected_answer(SUM).content
    await stage.until_state("v4", "ready")
    await stage.command("sleep", "v4", "--url", stage.url)
    assert await stage.command("wake", "v4", "--url", stage.url) == "v4: ready\n"


async def test_the_command_line_shows_the_engines(stage):
    listed = (await stage.command("list", "--url", stage.url)).splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [[name, "vllm", "ready"] for name in ("smollm2", "r1", "v4")]
    assert "Application startup complete" in await stage.command("logs", "v4", "--url", stage.url)
    printed = await stage.command("command", "v4", "--config", str(stage.config))
    assert "--tokenizer-mode deepseek_v4" in printed


async def test_its_metrics_have_its_name_as_a_label(stage):
    await stage.chat("v4", SUM)
    async with stage.session.get("/metrics") as response:
        assert 'vllm:num_requests_running{engine="v4"' in await response.text()
