"""Start and stop of the server and its engines, with real processes and real signals."""

import asyncio
import os
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.fakes import proxy
from tests.fakes.processes import is_running
from tests.fakes.upstream import SSE_HEAD, Call, answers
from tests.fakes.wire import chunk, completion

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
TINY = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.fixture
def file(tmp_path, config):
    path = tmp_path / "tidegate.yaml"
    path.write_text(config)
    return str(path)


async def process_end(pid: int) -> None:
    """Wait until the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def half_a_stream(call: Call) -> None:
    """Send half a stream, and the rest when the test sets `go`."""
    await call.write(SSE_HEAD)
    await call.event(chunk({"content": "Hi"}))
    await call.go.wait()
    await call.event(chunk({"content": " you"}))
    await call.event(chunk(finish="stop"))
    await call.event(b"[DONE]")
    await call.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_running_streams_are_completed_and_new_connections_are_refused(file, upstream, session, number):
    upstream.play(half_a_stream)
    async with proxy.process("--config", file) as running:
        async with session.post(f"{running.url}/v1/chat/completions", json=REQUEST) as response:
            await response.content.readuntil(b'"Hi"')
            running.process.send_signal(number)
            await running.line("stopping")
            while await accepts(running.url):
                pass
            upstream.calls[0].go.set()
            rest = await response.content.read()
        assert b'" you"' in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        assert await running.process.wait() == 0


async def accepts(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def test_after_the_grace_time_streams_are_ended_with_an_error(file, upstream, session, config, tmp_path):
    short = tmp_path / "short.yaml"
    short.write_text(config.replace("shutdown_grace_s: 60", "shutdown_grace_s: 0.2"))
    upstream.play(half_a_stream)
    async with proxy.process("--config", str(short)) as running:
        async with session.post(f"{running.url}/v1/chat/completions", json=REQUEST) as response:
            await response.content.readuntil(b'"Hi"')
            running.process.terminate()
            rest = await response.content.read()
        assert b'"code":"shutting_down"' in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        line = await running.line("request")
        assert (line["status"], line["error"]) == (200, "shutting_down")
        assert await running.process.wait() == 0


async def test_a_second_signal_ends_running_streams_at_once(file, upstream, session):
    upstream.play(half_a_stream)
    async with proxy.process("--config", file) as running:
        async with session.post(f"{running.url}/v1/chat/completions", json=REQUEST) as response:
            await response.content.readuntil(b'"Hi"')
            running.process.send_signal(signal.SIGINT)
            await running.line("stopping")
            running.process.send_signal(signal.SIGINT)
            answer = await response.content.read()
        assert b'"code":"shutting_down"' in answer
        assert b"The server is going down" in answer
        assert await running.process.wait() == 0


async def test_the_engine_ends_with_its_parent(session):
    async with proxy.process() as running:
        pid = (await running.line("engine ready"))["pid"]
        running.process.terminate()
        assert await running.process.wait() == 0
        await process_end(pid)


@pytest.mark.parametrize("moment", ["engine ready", "engine starting"])
async def test_the_engine_ends_when_its_parent_is_killed(session, moment):
    """This holds while the model is being loaded, too."""
    async with proxy.process() as running:
        pid = (await running.line(moment))["pid"]
        running.process.kill()
        await running.process.wait()
        await process_end(pid)


async def orphaned_engine() -> int:
    """The process id of an engine whose Tidegate and warden were killed together."""
    async with proxy.process() as running:
        warden = (await running.line("engine ready"))["pid"]
        engine = int(Path(f"/proc/{warden}/task/{warden}/children").read_text())  # noqa: ASYNC240 - no file
        os.kill(warden, signal.SIGSTOP)  # otherwise it would notice the end of Tidegate, and stop the engine
        running.process.kill()
        os.kill(warden, signal.SIGKILL)
        await running.process.wait()
        await process_end(warden)
    return engine


async def test_the_next_start_ends_an_engine_whose_tidegate_and_warden_were_killed_together(tmp_path):
    """Otherwise the engine would hold the GPU's memory for ever."""
    path = tmp_path / "tidegate.yaml"
    path.write_text("engines: {another: {kind: llamacpp, model: absent.gguf}}")
    while not is_running(engine := await orphaned_engine()):
        pass  # the Tidegate of another test, which runs in parallel, was the next to start, and has ended the engine
    async with proxy.process("--config", str(path)) as running:
        await running.line("engine down", engine="another")
        assert not is_running(engine)


@pytest.mark.parametrize("victim", ["engine", "warden"])
async def test_an_engine_that_dies_is_restarted_and_a_request_waits_for_it(session, victim):
    """This holds for the engine process itself and for its warden, the small process that watches it."""
    async with proxy.process() as running:
        warden = (await running.line("engine ready"))["pid"]
        engine = int(Path(f"/proc/{warden}/task/{warden}/children").read_text())  # noqa: ASYNC240 - no file
        os.kill(engine if victim == "engine" else warden, signal.SIGKILL)
        down = await running.line("engine down")
        assert "it was killed" in down["reason"]
        await process_end(engine)
        async with session.get(f"{running.url}/readyz") as response:
            answer = (await response.json())["engines"]["tiny"]
            assert answer["restarts"] == 1
        assert (await running.line("engine ready"))["pid"] != warden
        async with session.post(f"{running.url}/v1/chat/completions", json=TINY) as response:
            assert (await response.json())["choices"][0]["message"]["content"]


async def test_an_engine_that_cannot_start_shows_the_reason_and_other_targets_are_served(session, upstream, tmp_path):
    """The reason is read from the engine's output; it also decides whether the start is tried again."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    path = tmp_path / "tidegate.yaml"
    path.write_text(f"""
upstreams: {{host: {{base_url: "{upstream.url}"}}}}
engines:
  broken: {{kind: llamacpp, model: "{broken}"}}
  absent: {{kind: llamacpp, model: "{tmp_path}/absent.gguf"}}
models:
  bad: {{targets: [{{engine: broken}}]}}
  good: {{targets: [{{upstream: host, model: x}}]}}
  either: {{targets: [{{engine: broken}}, {{upstream: host, model: x}}]}}
""")
    upstream.play(answers(completion("from the host")))
    async with proxy.process("--config", str(path)) as running:
        absent = await running.line("engine down", engine="absent")
        assert "absent.gguf does not exist" in absent["reason"]
        down = await running.line("engine down", engine="broken")
        assert "llama.cpp cannot read the model" in down["reason"]
        assert down["restart_in_s"] is None
        async with session.get(f"{running.url}/readyz") as response:
            answer = await response.json()
            assert response.status == 200
            shown = answer["engines"]["broken"]["reason"]
            assert all(part in shown for part in down["reason"].split(": "))
        for model, status in (("bad", 503), ("good", 200), ("either", 200)):
            body = REQUEST | {"model": model, "stream": False}
            async with session.post(f"{running.url}/v1/chat/completions", json=body) as response:
                assert response.status == status


async def test_a_disconnect_frees_the_engine_also_without_a_stream(session):
    """llama.cpp does not stop a JSON answer on a disconnect; so Tidegate always requests a stream from it."""
    body = TINY | {"max_tokens": 4000, "ignore_eos": True}
    async with proxy.process() as running:
        await running.line("engine ready")
        for _ in range(8):  # more than the engine's slots
            request = asyncio.create_task(session.post(f"{running.url}/v1/chat/completions", json=body))
            while not await is_at_engine(session, running.url):
                pass
            request.cancel()
            line = await running.line("request")
            assert (line["status"], line["error"]) == (499, "client_gone")
        async with session.post(f"{running.url}/v1/chat/completions", json=TINY) as response:
            assert response.status == 200


async def is_at_engine(session, url: str) -> bool:
    async with session.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return any(re.fullmatch(r"tidegate_target_requests_in_flight\{.*\} 1\.0", line) for line in lines)


async def test_no_log_line_contains_prompts_or_keys(session):
    secret = "xylophone-in-the-attic"
    body = TINY | {"messages": [{"role": "user", "content": secret}]}
    async with proxy.process(TIDEGATE_API_KEY="sk-very-secret") as running:
        await running.line("engine ready")
        for headers in ({"authorization": "Bearer sk-very-secret"}, {"authorization": "Bearer sk-wrong-one"}):
            async with session.post(f"{running.url}/v1/chat/completions", json=body, headers=headers) as response:
                answer = await response.text()
            line = await running.line("request")
            assert line["request_id"] == response.headers["x-request-id"]
        text = repr(running.lines) + running.banner
    assert "content" in answer or "error" in answer
    assert secret not in text
    assert "sk-very-secret" not in text
    assert "sk-wrong-one" not in text
