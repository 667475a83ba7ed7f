"""`tidegate engines`, which controls the engines of a running server: real processes, a real model, real signals."""

import asyncio
import json
import signal

import aiohttp
import pytest
from click.testing import CliRunner

from tests.fakes import proxy
from tests.fakes.upstream import ScenarioUpstream, answers
from tests.fakes.wire import completion
from tidegate.cli.main import main

TINY = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
LOADING = {
    "name": "r1",
    "kind": "vllm",
    "model": "m",
    "state": "starting",
    "reason": "the model is being loaded",
    "progress": {"phase": "loading weights", "done": 0.5},
    "left_s": 30.0,
    "restarts": 0,
    "in_flight": 0,
    "load": {},
}


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as opened:
        yield opened


async def engines(*arguments: str, key: str | None = None) -> tuple[int, str, str]:
    """Run `tidegate engines` in a thread, since a new process needs a second; `key` is in its environment."""
    run = CliRunner(env={"TIDEGATE_ADMIN_KEY": key}).invoke
    completed = await asyncio.to_thread(run, main, ["engines", *arguments])
    return completed.exit_code, completed.stdout, completed.stderr


async def ask(session, url: str) -> tuple[int, dict]:
    async with session.post(f"{url}/v1/chat/completions", json=TINY) as response:
        return response.status, await response.json()


async def test_an_engine_is_stopped_and_started_while_the_server_runs(session):
    async with proxy.process() as running:
        at = ("--url", running.url)
        pid = (await running.line("engine ready"))["pid"]
        status, listed, _ = await engines("list", *at)
        assert status == 0
        assert listed.splitlines()[1].split()[:4] == ["tiny", "llamacpp", "ready", "0"]

        assert await engines("stop", "tiny", *at) == (0, "tiny: stopped\n", "")
        assert (await running.line("engine goal set"))["goal"] == "stop"
        status, answer = await ask(session, running.url)
        assert (status, answer["error"]["code"]) == (503, "engine_unavailable")
        assert "stopped" in (await engines("list", *at))[1]

        assert await engines("start", "tiny", *at) == (0, "tiny: ready\n", "")
        assert (await running.line("engine ready"))["pid"] != pid
        status, answer = await ask(session, running.url)
        assert (status, answer["object"]) == (200, "chat.completion")
        status, output, _ = await engines("logs", "tiny", *at)
        assert status == 0
        assert "model loaded" in output


async def test_a_server_whose_engine_is_stopped_ends_well_on_ctrl_c():
    async with proxy.process() as running:
        await running.line("engine ready")
        await engines("stop", "tiny", "--url", running.url)
        running.process.send_signal(signal.SIGINT)
        assert await running.process.wait() == 0


async def test_an_impossible_order_is_refused_in_one_line(live):
    at = ("--url", live.url)
    for arguments, message in (
        (("stop", "tinny"), "There is no engine 'tinny' here."),
        (("sleep", "tiny"), "The engine tiny has no sleep_level or sleep_path, so it cannot sleep; stop it."),
    ):
        assert await engines(*arguments, *at) == (1, "", f"tidegate: {message}\n")
    status, _, err = await engines("list", "--url", "http://127.0.0.1:1")
    assert status == 1
    assert err.startswith("tidegate: http://127.0.0.1:1 does not answer (")
    assert err.count("\n") == 1
    assert (await engines("stop"))[0] == 2


async def test_the_admin_key_is_taken_from_the_environment_or_the_option():
    async with proxy.process(TIDEGATE_API_KEY="sk-caller", TIDEGATE_ADMIN_KEY="sk-admin") as running:
        at = ("--url", running.url)
        for arguments, key in (((), None), (("--key", "sk-caller"), None), ((), "sk-x")):
            status, out, err = await engines("list", *arguments, *at, key=key)
            assert (status, out) == (1, "")
            assert err == "tidegate: This path takes the admin key. Set TIDEGATE_ADMIN_KEY.\n"
        assert (await engines("list", *at, key="sk-admin"))[0] == 0
        assert (await engines("list", "--key", "sk-admin", *at, key="sk-x"))[0] == 0
        status, _, err = await engines("list", "--key", "sk-\n", *at)
        assert (status, err) == (1, "tidegate: the key cannot be sent in a header\n")


async def test_an_external_engine_is_listed_and_gets_requests_but_cannot_be_controlled(session, upstream):
    """Its models need not be configured one by one: `engine/name` is a model of it."""
    upstream.play(answers(completion("from there")))
    config = f'engines: {{stack: {{kind: external, base_url: "{upstream.url}", metrics_path: null}}}}'
    async with proxy.serving(config) as url:
        async with session.post(f"{url}/admin/engines/stack/stop", json={}) as response:
            assert response.status == 409
            assert "was not started by Tidegate" in (await response.json())["error"]["message"]
        while True:
            async with session.get(f"{url}/admin/engines/stack") as response:
                if (await response.json())["state"] == "ready":
                    break
        async with session.post(f"{url}/v1/chat/completions", json=TINY | {"model": "stack/an/adapter"}) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "from there"
        (sent,) = [json.loads(call.body) for call in upstream.calls if call.path == "/v1/chat/completions"]
        assert sent["model"] == "an/adapter"
        async with session.get(f"{url}/readyz") as response:
            status = (await response.json())["engines"]["stack"]
            counts = {"restarts": 0, "attempts": 0}  # Tidegate does not start it
            assert status == {"state": "ready", "reason": "", "progress": None, "left_s": None} | counts


# --- waiting, with scripted answers of the server -----------------------------------------------------------------


@pytest.fixture
async def server():
    """A server with scripted answers, and the option with its address."""
    async with ScenarioUpstream().running() as running:
        yield running, ("--url", f"http://127.0.0.1:{running.port}")


def reports(**fields):
    return answers(json.dumps(LOADING | fields).encode())


async def test_start_waits_until_the_engine_is_ready(server):
    upstream, at = server
    upstream.play(
        reports(state="failed", attempts=3),
        reports(state="failed", attempts=3),
        reports(attempts=4),
        reports(state="ready", attempts=4),
    )
    assert await engines("start", "r1", *at, "--key", "sk-1") == (0, "r1: ready\n", "")
    assert [(call.method, call.path) for call in upstream.calls] == [
        ("POST", "/admin/engines/r1/start"),
        *[("GET", "/admin/engines/r1")] * 3,
    ]
    assert {call.headers["authorization"] for call in upstream.calls} == {"Bearer sk-1"}


async def test_an_order_to_an_engine_with_replicas_waits_for_each(server):
    upstream, at = server

    def report(name, state):
        return LOADING | {"name": name, "state": state}

    both = {"engines": [report("r1:1", "starting"), report("r1:2", "ready")]}
    upstream.play(
        answers(json.dumps(both).encode()),
        *(answers(json.dumps(report(name, "ready")).encode()) for name in ("r1:1", "r1:2")),
    )
    assert await engines("start", "r1", *at) == (0, "r1:1: ready\nr1:2: ready\n", "")
    assert [call.path for call in upstream.calls[1:]] == ["/admin/engines/r1%3A1", "/admin/engines/r1%3A2"]


async def test_a_failed_start_is_reported_with_the_reason(server):
    upstream, at = server
    upstream.play(reports(), reports(state="failed", reason="out of memory"))
    assert await engines("start", "r1", *at) == (1, "", "tidegate: r1: failed: out of memory\n")


async def test_a_second_start_that_fails_at_once_is_reported_too(server):
    """The state is `failed` in every answer; only the number of attempts shows the second start."""
    upstream, at = server
    upstream.play(reports(state="failed", attempts=1), reports(state="failed", reason="out of memory", attempts=2))
    assert await engines("start", "r1", *at) == (1, "", "tidegate: r1: failed: out of memory\n")


async def test_the_wait_for_sleep_ends_if_a_request_keeps_the_engine_awake(server):
    upstream, at = server
    upstream.play(reports(state="ready"), reports(state="draining"), reports(state="ready"))
    assert await engines("sleep", "r1", *at) == (1, "", "tidegate: r1: it stays loaded, as requests need it again\n")


async def test_with_no_wait_only_the_order_is_sent(server):
    upstream, at = server
    upstream.play(reports())
    assert await engines("start", "r1", "--no-wait", *at) == (0, "r1: starting\n", "")
    assert len(upstream.calls) == 1


async def test_ctrl_c_ends_the_wait_and_not_the_engine(server):
    upstream, at = server
    polled = asyncio.Event()

    async def report_once(call):
        await reports()(call)
        polled.set()

    upstream.play(reports(), report_once)
    started = await proxy.start("engines", "start", "r1", *at)
    await polled.wait()
    started.send_signal(signal.SIGINT)
    out, err = await started.communicate()
    assert (started.returncode, out, err) == (130, b"", b"tidegate: not waiting any longer; r1 goes on\n")
    assert {call.method for call in upstream.calls[1:]} == {"GET"}


@pytest.mark.parametrize(
    "script",
    [
        answers(b"<html>", content_type="text/html"),
        answers(b"<html>", status=502, content_type="text/html"),
        answers(b"", status=302, head=b"location: http://127.0.0.1:1/\r\n"),
    ],
)
async def test_another_server_is_recognised_and_no_redirect_is_followed(server, script):
    upstream, at = server
    upstream.play(script)
    status, out, err = await engines("list", *at)
    assert (status, out) == (1, "")
    assert "is not Tidegate, or of another version" in err


async def test_adapters_of_the_config_are_listed_as_models(session):
    """Whether or not their engine runs."""
    engine = {"kind": "vllm", "model": "org/name", "python": "/nowhere", "adapters": {"sql": "/a"}}
    config = {"engines": {"r1": engine | {"start": "on_demand"}}}
    async with proxy.serving(json.dumps(config)) as url, session.get(f"{url}/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["r1", "r1/sql"]
