"""Start, stop, and what happens to the engine: real processes, real signals."""

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

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
TINY = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
def file(tmp_path, config):
    path = tmp_path / "tidegate.yaml"
    path.write_text(config)
    return str(path)


async def gone(pid: int) -> None:
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


async def begins(call: Call) -> None:
    """Half a stream, and the rest when the test says so."""
    await call.write(SSE_HEAD)
    await call.event(chunk({"content": "Hi"}))
    await call.go.wait()
    await call.event(chunk({"content": " you"}))
    await call.event(chunk(finish="stop"))
    await call.event(b"[DONE]")
    await call.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_running_streams_end_well_and_new_connections_are_refused(file, upstream, session, number):
    upstream.play(begins)
    async with proxy.process("--config", file) as running:
        async with session.post(f"{running.url}/v1/chat/completions", json=ASK) as response:
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


async def test_after_the_grace_time_streams_are_cut_with_an_error(file, upstream, session, config, tmp_path):
    short = tmp_path / "short.yaml"
    short.write_text(config.replace("shutdown_grace_s: 60", "shutdown_grace_s: 0.2"))
    upstream.play(begins)
    async with proxy.process("--config", str(short)) as running:
        async with session.post(f"{running.url}/v1/chat/completions", json=ASK) as response:
            await response.content.readuntil(b'"Hi"')
            running.process.terminate()
            rest = await response.content.read()
        assert b'"code":"shutting_down"' in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        line = await running.line("request")
        assert (line["status"], line["error"]) == (200, "shutting_down")
        assert await running.process.wait() == 0


async def test_a_second_signal_does_not_wait(file, upstream, session):
    upstream.play(begins)
    async with proxy.process("--config", file) as running:
        async with session.post(f"{running.url}/v1/chat/completions", json=ASK) as response:
            await response.content.readuntil(b'"Hi"')
            running.process.send_signal(signal.SIGINT)
            await running.line("stopping")
            running.process.send_signal(signal.SIGINT)
            told = await response.content.read()
        assert b'"code":"shutting_down"' in told
        assert b"The server is going down" in told
        assert await running.process.wait() == 0


async def test_the_engine_ends_with_its_parent(session):
    async with proxy.process() as running:
        pid = (await running.line("engine ready"))["pid"]
        running.process.terminate()
        assert await running.process.wait() == 0
        await gone(pid)


@pytest.mark.parametrize("moment", ["engine ready", "engine starting"])
async def test_the_engine_ends_when_its_parent_is_killed(session, moment):
    """Also while the model is being loaded."""
    async with proxy.process() as running:
        pid = (await running.line(moment))["pid"]
        running.process.kill()
        await running.process.wait()
        await gone(pid)


async def orphaned_engine() -> int:
    """The pid of an engine whose Tidegate and warden were killed together."""
    async with proxy.process() as running:
        warden = (await running.line("engine ready"))["pid"]
        engine = int(Path(f"/proc/{warden}/task/{warden}/children").read_text())  # noqa: ASYNC240 - no file
        os.kill(warden, signal.SIGSTOP)  # it would see the end of Tidegate before its own
        running.process.kill()
        os.kill(warden, signal.SIGKILL)
        await running.process.wait()
        await gone(warden)
    return engine


async def test_the_next_start_ends_an_engine_whose_tidegate_and_warden_were_killed_together(tmp_path):
    """It would hold the GPU's memory for ever."""
    path = tmp_path / "tidegate.yaml"
    path.write_text("engines: {another: {kind: llamacpp, model: absent.gguf}}")
    while not is_running(engine := await orphaned_engine()):
        pass  # a Tidegate of another test, which runs beside this one, was the next to start
    async with proxy.process("--config", str(path)) as running:
        await running.line("engine down", engine="another")
        assert not is_running(engine)


@pytest.mark.parametrize("victim", ["engine", "warden"])
async def test_an_engine_that_dies_comes_back_and_a_request_waits_for_it(session, victim):
    """Whether it was the engine itself or the small process that watches it."""
    async with proxy.process() as running:
        warden = (await running.line("engine ready"))["pid"]
        engine = int(Path(f"/proc/{warden}/task/{warden}/children").read_text())  # noqa: ASYNC240 - no file
        os.kill(engine if victim == "engine" else warden, signal.SIGKILL)
        down = await running.line("engine down")
        assert "it was killed" in down["reason"]
        await gone(engine)
        async with session.get(f"{running.url}/readyz") as response:
            told = (await response.json())["engines"]["tiny"]
            assert told["restarts"] == 1
        assert (await running.line("engine ready"))["pid"] != warden
        async with session.post(f"{running.url}/v1/chat/completions", json=TINY) as response:
            assert (await response.json())["choices"][0]["message"]["content"]


async def test_an_engine_that_cannot_start_says_why_and_the_rest_is_served(session, upstream, tmp_path):
    """The reason is read from the engine's own output, and says whether there is use in trying; the others answer."""
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
            told = await response.json()
            assert response.status == 200
            shown = told["engines"]["broken"]["reason"]
            assert all(part in shown for part in down["reason"].split(": "))
        for model, status in (("bad", 503), ("good", 200), ("either", 200)):
            ask = ASK | {"model": model, "stream": False}
            async with session.post(f"{running.url}/v1/chat/completions", json=ask) as response:
                assert response.status == status


async def test_a_caller_who_leaves_frees_the_engine_also_without_a_stream(session):
    """llama.cpp would go on with a unary answer; asked for a stream it stops, and the one slot is free again."""
    ask = TINY | {"max_tokens": 4000, "ignore_eos": True}
    async with proxy.process() as running:
        await running.line("engine ready")
        for _ in range(8):  # more than the engine's slots
            asking = asyncio.create_task(session.post(f"{running.url}/v1/chat/completions", json=ask))
            while not await is_at_engine(session, running.url):
                pass
            asking.cancel()
            line = await running.line("request")
            assert (line["status"], line["error"]) == (499, "client_gone")
        async with session.post(f"{running.url}/v1/chat/completions", json=TINY) as response:
            assert response.status == 200


async def is_at_engine(session, url: str) -> bool:
    async with session.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return any(re.fullmatch(r"tidegate_target_requests_in_flight\{.*\} 1\.0", line) for line in lines)


async def test_no_line_of_the_log_holds_what_was_said(session):
    secret = "xylophone-in-the-attic"
    ask = TINY | {"messages": [{"role": "user", "content": secret}]}
    async with proxy.process(TIDEGATE_API_KEY="sk-very-secret") as running:
        await running.line("engine ready")
        for headers in ({"authorization": "Bearer sk-very-secret"}, {"authorization": "Bearer sk-wrong-one"}):
            async with session.post(f"{running.url}/v1/chat/completions", json=ask, headers=headers) as response:
                answer = await response.text()
            line = await running.line("request")
            assert line["request_id"] == response.headers["x-request-id"]
        text = repr(running.lines) + running.banner
    assert "content" in answer or "error" in answer
    assert secret not in text
    assert "sk-very-secret" not in text
    assert "sk-wrong-one" not in text
