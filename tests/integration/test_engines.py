"""Starts, crashes and stops of an engine as callers see them, with a fake vLLM that is a real child process.

The fake has the behaviours of vLLM that are listed in the reference `vllm.md`, section 4.
"""

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import openai
import pytest
from msgspec import structs

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.processes import gone, is_running, until
from tests.fakes.upstream import answers, streams
from tests.fakes.vllm_engine import running_app
from tests.fakes.wire import completion, text_stream

WHOLE = "w3 w4 w5 w6 "  # after two tokens of reasoning
CORE_IS_GONE = (
    "(APIServer pid=1) WARNING 11-30 19:01:21 [core_client.py:817] [shutdown] MPClient: engine core exited unexpectedly"
)


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as opened:
        yield opened


def unary():
    return answers(completion("from the host"))


def streamed():
    return streams(*text_stream("from ", "the ", "host"))


async def content(stream) -> str:
    """The content of a stream."""
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def first_content(stream) -> None:
    """Read up to the first token."""
    async for chunk in stream:
        delta = chunk.choices[0].delta
        if delta.content or getattr(delta, "reasoning_content", None):
            return


async def readyz(session, url: str) -> dict:
    async with session.get(f"{url}/readyz") as response:
        return await response.json()


# --- starting -----------------------------------------------------------------------------------------------------


async def test_vllm_gets_the_flags_that_it_needs(vllm):
    """Through config, command, warden, launcher and the model's own template; the key is not among the flags."""
    adapters = {"runtime_adapters": True, "max_model_len": 4096, "sleep_level": 1}
    async with running_app({"r1": vllm.config(**adapters, args={"max_num_seqs": 7})}) as made:
        answer = await made.ask()
        flags = (await vllm.next_start()).flags
        assert flags.pop("uds") == made.engine().socket_path
        assert flags == {
            "served-model-name": "r1",
            "shutdown-timeout": "5",
            "enable-request-id-headers": True,
            "enable-prompt-tokens-details": True,
            "disable-uvicorn-access-log": True,
            "exclude-tools-when-tool-choice-none": True,
            "reasoning-parser": "deepseek_r1",
            "max-model-len": "4096",
            "enable-sleep-mode": True,
            "enable-lora": True,
            "max-num-seqs": "7",
        }
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("t1 t2 ", WHOLE)


async def test_while_the_engine_starts_callers_get_a_503_with_its_progress(vllm, session):
    """Operators see the same progress at /readyz."""
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(queue_timeout_s=0.01)}) as made:
        start = await vllm.next_start()
        start.tell("say", line="Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:30<01:30, 30.0s/it]")
        await until(lambda: made.engine().status.progress is not None)
        with pytest.raises(openai.InternalServerError, match=r"\(starting\).*loading the weights 25%") as caught:
            await made.ask()
        assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        ready = await readyz(session, made.url)
        assert ready["engines"]["r1"]["progress"] == {"phase": "loading the weights", "done": 0.25}
        assert ready["engines"]["r1"]["left_s"] is None  # which phases follow is unknown
        start.tell("say", line="Capturing CUDA graphs (decode, FULL):  10%|#   | 5/51 [00:03<00:30,  7.36it/s]")
        await until(lambda: made.engine().status.left_s is not None)
        ready = await readyz(session, made.url)
        assert ready["engines"]["r1"]["left_s"] > 0
        start.tell("listen")
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_waits_for_an_engine_that_starts_on_demand(vllm, stream):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(start="on_demand")}) as made:
        assert vllm.starts == []
        asking = asyncio.create_task(made.ask(stream=stream))
        (await vllm.next_start()).tell("listen")
        answer = await asking
        assert (await content(answer) if stream else answer.choices[0].message.content) == WHOLE


async def test_a_request_with_another_target_does_not_wait(vllm, upstream):
    """The engine starts nevertheless, for later requests."""
    upstream.play(unary())
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config(start="on_demand")}, upstream=upstream) as made:
        assert (await made.ask()).choices[0].message.content == "from the host"
        (await vllm.next_start()).tell("listen")
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE


async def test_the_idle_time_of_an_engine_begins_when_it_is_ready(vllm, upstream):
    """No request waited for it, but one has started it: it stays loaded for `idle_unload_s`."""
    upstream.play(unary())
    clock = FakeClock()
    vllm.habits = ["waits"]
    config = vllm.config(start="on_demand", idle_unload_s=60)
    async with running_app({"r1": config}, upstream=upstream, clock=clock) as made:
        await made.ask()
        start = await vllm.next_start()
        clock.advance(100)
        start.tell("listen")
        await made.until("ready")
        await start.looks(3)
        assert made.engine().status.state == "ready"
        clock.advance(61)
        await made.until("stopped")


async def test_an_engine_can_be_stopped_while_it_starts(vllm):
    """A waiting request is refused."""
    vllm.habits = ["waits", ""]
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        asking = asyncio.create_task(made.ask())
        await made.until("starting")
        made.engine().set_goal("stop")
        with pytest.raises(openai.InternalServerError, match="is not ready"):
            await asking
        await made.until("stopped")
        await gone(start.pid)
        made.engine().set_goal("run")
        assert (await made.ask()).choices[0].message.content == WHOLE


async def test_the_engines_metrics_have_a_label_with_its_name(vllm, session):
    vllm.habits = ["holds"]
    async with running_app({"r1": vllm.config(args={"max_num_seqs": 2})}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        requests = [asyncio.create_task(made.ask()) for _ in range(3)]
        await start.until("came", 3)
        await start.looks(2)
        async with session.get(f"{made.url}/metrics") as response:
            metrics = await response.text()
        assert 'vllm:num_requests_running{engine="r1",exported_engine="0"} 2\n' in metrics
        assert 'vllm:num_requests_waiting{engine="r1",exported_engine="0"} 1\n' in metrics
        async with session.get(f"{made.url}/admin/engines/r1") as response:
            assert (await response.json())["in_flight"] == 3
        start.steps()
        await asyncio.gather(*requests)


# --- ending -------------------------------------------------------------------------------------------------------


async def test_an_old_socket_file_does_not_prevent_a_start(vllm):
    """A killed engine leaves its socket file, and vLLM does not start if the file exists."""
    async with running_app({"r1": vllm.config()}) as made:
        first = await vllm.next_start()
        await made.until("ready")
        os.kill(first.pid, signal.SIGKILL)
        await vllm.next_start()
        await made.until("ready")
        assert made.engine().status.restarts == 1
        assert (await made.ask()).choices[0].message.content == WHOLE


async def test_an_engine_that_ends_by_itself_has_crashed_though_its_exit_status_is_0(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        start.tell("exit", status=0)
        await vllm.next_start()
        await made.until("ready")
        assert made.engine().status.restarts == 1


@pytest.mark.parametrize("victim", ["engine", "core"])
async def test_the_core_of_a_killed_engine_ends_with_it(vllm, victim):
    """A core that kept running would hold the GPU's memory for ever."""
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        core = await start.core()
        await made.until("ready")
        os.kill(start.pid if victim == "engine" else core, signal.SIGKILL)
        await gone(start.pid, core)
        await vllm.next_start()
        await made.until("ready")
        assert made.engine().status.restarts == 1


async def test_the_core_of_a_stopped_engine_ends_with_it(vllm):
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        made.engine().set_goal("stop")
        await made.until("stopped")
        await gone(start.pid, await start.core())
    assert len(vllm.starts) == 1


@pytest.mark.parametrize("moment", ["loading", "answering"])
async def test_nothing_is_left_of_an_engine_when_tidegate_is_killed(vllm, session, tmp_path, moment):
    """The engine and its core end; the next Tidegate removes the socket's folder."""
    vllm.habits = ["waits" if moment == "loading" else "holds"]
    file = tmp_path / "tidegate.yaml"
    file.write_text(json.dumps({"engines": {"r1": vllm.config()}, "models": {"m": {"targets": [{"engine": "r1"}]}}}))
    async with proxy.process("--config", str(file)) as running:
        start = await vllm.next_start()
        core = await start.core()
        folder = Path(start.flags["uds"]).parent
        if moment == "answering":
            await running.line("engine ready")
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            asking = asyncio.create_task(session.post(f"{running.url}/v1/chat/completions", json=body))
            await start.until("came")
        assert is_running(core)
        running.process.kill()
        await gone(start.pid, core)
        if moment == "answering":
            with pytest.raises(aiohttp.ClientError):
                await asking
    assert folder.exists()
    async with running_app({"r1": vllm.config(start="on_demand")}):
        assert not folder.exists()


async def test_an_engine_that_ignores_sigterm_is_killed_with_its_core(vllm):
    vllm.habits = ["stubborn"]
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        made.engine().kind.stop_s = 0.1
        made.engine().set_goal("stop")
        await made.until("stopped")
        await gone(start.pid, await start.core())


async def test_an_engine_that_writes_without_end_serves(vllm):
    vllm.habits = ["floods"]
    async with running_app({"r1": vllm.config()}) as made:
        assert (await made.ask()).choices[0].message.content == WHOLE
        assert sum(map(len, made.engine().lines)) < 4_000_000


# --- requests in flight -------------------------------------------------------------------------------------------


async def test_a_stop_lets_running_answers_finish_and_accepts_no_new_requests(vllm, upstream):
    upstream.play(unary())
    vllm.habits = ["holds"]
    async with running_app({"r1": vllm.config()}, upstream=upstream) as made:
        start = await vllm.next_start()
        await made.until("ready")
        stream = asyncio.create_task(made.ask(stream=True))
        await start.until("came")
        start.steps(1)
        reading = asyncio.create_task(content(await stream))
        made.engine().set_goal("stop")
        await made.until("draining")
        assert (await made.ask()).choices[0].message.content == "from the host"
        assert start.all("draining") == []  # SIGTERM is sent only when no request is running
        start.steps()
        assert await reading == WHOLE
        await made.until("stopped")


@pytest.mark.parametrize("shutdown_timeout", [0.05, 0])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_in_an_engine_that_is_stopped_does_not_hang(vllm, stream, shutdown_timeout):
    """A request that does not finish in time ends with an error; with 0, vLLM would wait for it without a limit."""
    vllm.habits = ["holds"]
    config = vllm.config(drain_timeout_s=0.05, args={"shutdown_timeout": shutdown_timeout})
    async with running_app({"r1": config}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        made.engine().kind.stop_s = 0.2
        asking = asyncio.create_task(made.ask(stream=stream))
        await start.until("came")
        if stream:
            start.steps(1)
            await first_content(await asking)
        made.engine().set_goal("stop")
        if stream:
            with pytest.raises(openai.APIError, match="broke") as caught:
                await content(asking.result())
            assert caught.value.code == "upstream_unreachable"
        else:
            with pytest.raises(openai.InternalServerError) as caught:
                await asking
            assert caught.value.status_code == 502
        await made.until("stopped")


async def test_a_stop_of_tidegate_lets_running_answers_finish_before_the_engine_ends(vllm, session, tmp_path):
    vllm.habits = ["holds"]
    file = tmp_path / "tidegate.yaml"
    file.write_text(json.dumps({"engines": {"r1": vllm.config()}, "models": {"m": {"targets": [{"engine": "r1"}]}}}))
    async with proxy.process("--config", str(file)) as running:
        start = await vllm.next_start()
        await running.line("engine ready")
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        asking = asyncio.create_task(session.post(f"{running.url}/v1/chat/completions", json=body))
        await start.until("came")
        start.steps(1)
        response = await asking
        running.process.terminate()
        await running.line("stopping")
        start.steps()
        assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
        assert await running.process.wait() == 0
        await gone(start.pid, await start.core())
        assert not Path(start.flags["uds"]).parent.exists()


async def test_requests_go_to_another_target_while_an_engine_ends_by_a_foreign_sigterm(vllm, upstream):
    """While vLLM drains, its health route answers 200 and new requests fail; running ones finish, and it restarts."""
    upstream.play(unary())
    vllm.habits = ["holds", ""]
    async with running_app({"r1": vllm.config()}, upstream=upstream) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask(stream=True))
        await start.until("came")
        start.steps(1)
        reading = asyncio.create_task(content(await asking))
        os.kill(start.pid, signal.SIGTERM)
        await start.until("draining")
        assert await made.app.engines._parts["r1"].control.answers()
        assert (await made.ask()).choices[0].message.content == "from the host"
        start.steps()
        assert await reading == WHOLE
        await vllm.next_start()
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE


async def test_a_crash_is_an_error_in_the_stream_though_vllm_sends_done(vllm, session):
    """VLLM ends the stream with an error object and `[DONE]`."""
    vllm.habits = ["holds", ""]
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        asking = asyncio.create_task(made.ask(stream=True))
        await start.until("came")
        start.steps(1)
        stream = await asking
        os.kill(await start.core(), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="The upstream failed while it worked on the request") as caught:
            await content(stream)
        assert caught.value.body["type"] == "upstream_error"
        assert caught.value.code == "upstream_failed"
        await vllm.next_start()
        await made.until("ready")


@pytest.mark.parametrize("how", ["in prefill", "in its queue", "unary"])
async def test_after_a_crash_before_the_first_token_another_target_answers(vllm, upstream, how):
    """Whether the engine still sends an error, or has ended at once."""
    vllm.habits = ["holds", "holds"]
    config = vllm.config(args={"max_num_seqs": 1})
    async with running_app({"r1": config}, upstream=upstream) as made:
        for dies in ("core", "engine"):
            upstream.play(unary() if how == "unary" else streamed())
            start = await vllm.next_start()
            await made.until("ready")
            ahead = asyncio.create_task(made.ask()) if how == "in its queue" else None
            if ahead is not None:
                await start.until("came")
            asking = asyncio.create_task(made.ask(stream=how != "unary"))
            await start.until("came", 1 if ahead is None else 2)
            os.kill(await start.core() if dies == "core" else start.pid, signal.SIGKILL)
            answer = await asking
            text = answer.choices[0].message.content if how == "unary" else await content(answer)
            assert text == "from the host"
            if ahead is not None:
                await ahead


@pytest.mark.parametrize("phase", ["before it listens", "when it is ready"])
async def test_an_engine_that_dies_by_itself_is_started_again(vllm, phase):
    vllm.habits = ["waits", ""]
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        if phase == "when it is ready":
            start.tell("listen")
            await made.until("ready")
        start.tell("say", line="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        start.tell("exit", status=1)
        await vllm.next_start()
        await made.until("ready")
        assert (await made.ask()).choices[0].message.content == WHOLE
        status = made.engine().status
        assert (status.restarts, status.attempts) == (int(phase == "when it is ready"), 2)


@pytest.mark.parametrize(
    ("ends_by", "reason"),
    [
        ("a signal", "it crashed (SIGSEGV)"),
        ("its status", "it ended with status 0; see tidegate engines logs r1"),
        ("its core", "its core was ended by a signal"),
    ],
)
async def test_an_older_error_is_not_the_reason_for_an_end(vllm, ends_by, reason):
    """The error belongs to a request, may quote its caller, and was followed by a good health check."""
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        engine = made.engine()
        engine.reconfigure(engine.kind, structs.replace(engine.settings, backoff_s=3600))
        start.tell("say", line="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        await until(lambda: "CUDA out of memory" in engine.lines[-1])
        await start.looks(3)
        if ends_by == "its core":
            start.tell("say", line=CORE_IS_GONE)
        if ends_by == "a signal":
            os.kill(start.pid, signal.SIGSEGV)
        else:
            start.tell("exit", status=0)
        await until(lambda: engine.status.restarts == 1)  # it may be `failed` before its process has ended
        assert engine.status.reason.startswith(reason)


async def test_an_engine_whose_starts_all_fail_is_given_up_with_the_reason(vllm):
    vllm.habits = ["waits"]
    async with running_app({"r1": vllm.config()}) as made:
        for _ in range(5):
            start = await vllm.next_start()
            start.tell("say", line="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
            start.tell("exit", status=1)
        await until(lambda: "tidegate engines start r1" in made.engine().status.reason)
        with pytest.raises(openai.InternalServerError, match="the GPU's memory is full: lower gpu_memory_utilization"):
            await made.ask()
    assert len(vllm.starts) == 5


# --- adapters -----------------------------------------------------------------------------------------------------


async def test_an_adapter_is_loaded_into_a_running_engine_and_requested_by_its_name(vllm, session):
    async with running_app({"r1": vllm.config(runtime_adapters=True)}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        path = f"{made.url}/admin/engines/r1/adapters"
        for status in (200, 400):
            async with session.post(path, json={"name": "sql", "path": "/adapters/sql"}) as response:
                assert response.status == status
        assert (await made.ask("r1/sql")).choices[0].message.content == WHOLE
        assert start.all("came")[-1]["model"] == "sql"
        async with session.delete(f"{path}/sql") as response:
            assert response.status == 200


async def test_an_adapter_is_available_after_a_sleep_and_after_a_crash(vllm, session):
    """An engine that wakes still has it, and a restarted one loads it again."""
    async with running_app({"r1": vllm.config(runtime_adapters=True, sleep_level=1)}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        async with session.post(
            f"{made.url}/admin/engines/r1/adapters", json={"name": "sql", "path": "/adapters/sql"}
        ) as response:
            assert response.status == 200
        made.engine().set_goal("sleep")
        await made.until("sleeping")
        assert (await made.ask("r1/sql")).choices[0].message.content == WHOLE
        os.kill(start.pid, signal.SIGKILL)
        again = await vllm.next_start()
        await made.until("ready")
        assert (await made.ask("r1/sql")).choices[0].message.content == WHOLE
        assert [line["path"] for line in again.all("adapter")] == ["/adapters/sql"]


async def test_a_request_just_after_a_crash_waits_for_the_restart(vllm):
    """If the model has no other target."""
    async with running_app({"r1": vllm.config()}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        os.kill(start.pid, signal.SIGKILL)
        await made.until("failed")
        assert (await made.ask()).choices[0].message.content == WHOLE
