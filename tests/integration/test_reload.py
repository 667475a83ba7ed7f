"""Reloading the config while requests are running."""

import asyncio
import json
import signal
import time

import aiohttp
import openai
import pytest
from click.testing import CliRunner

from tests.fakes import proxy
from tests.fakes.upstream import PAUSE, ScenarioUpstream, answers, streams
from tests.fakes.wire import chunk, completion, event, text_stream
from tidegate.cli.main import main
from tidegate.config import load
from tidegate.config.evals import EvalFile, EvalScore, to_json
from tidegate.routing.targets import Target

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Tidegate:
    """A running Tidegate with a config file."""

    def __init__(self, path, url, app):
        self.path = path
        self.url = url
        self.app = app

    async def reload(self):
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/admin/reload", json={}) as answer:
            return answer.status, await answer.json()

    async def ask(self, **fields):
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0) as client:
            return await client.chat.completions.create(**REQUEST | fields)

    async def answer_text(self):
        return (await self.ask()).choices[0].message.content


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        running.play(answers(completion("the new one")))
        yield running


def config(upstream, **fields):
    host = {"base_url": upstream.url, "api_keys": ["env:FAR_KEY"]} | fields
    routing = {"retry": {"repeats": 0}}
    return json.dumps(
        {
            "upstreams": {"far": host},
            "models": {"m": {"targets": [{"upstream": "far", "model": "there"}]}},
            "routing": routing,
        }
    )


@pytest.fixture
async def running_app(upstream, tmp_path, monkeypatch):
    monkeypatch.setenv("FAR_KEY", "first-key")
    path = tmp_path / "tidegate.yaml"
    path.write_text(config(upstream), encoding="utf-8")
    upstream.play(answers(completion("the old one")))

    def prepare(app):
        app._read_config = lambda: (load.load(path), str(path))

    async with proxy.running_app(config(upstream), prepare=prepare) as (url, app):
        yield Tidegate(path, url, app)


async def test_the_new_config_is_used_and_the_report_shows_what_changed(running_app, other):
    assert await running_app.answer_text() == "the old one"
    running_app.path.write_text(config(other), encoding="utf-8")
    status, answer = await running_app.reload()
    assert status == 200
    assert [line.partition(":")[0] for line in answer["changed"]] == ["upstreams.far.base_url"]
    assert answer["needs_restart"] == []
    assert await running_app.answer_text() == "the new one"


async def test_streams_are_completed_on_the_config_they_began_with(running_app, upstream, other):
    """Fault 75."""
    begin, *rest = text_stream("from ", "the old")[1:]
    upstream.play(streams(event(chunk({"role": "assistant", "content": ""})), begin, PAUSE, *rest))
    async with openai.AsyncOpenAI(base_url=f"{running_app.url}/v1", api_key="-", max_retries=0) as client:
        stream = await client.chat.completions.create(**REQUEST, stream=True)
        chunks = [await anext(stream)]
        running_app.path.write_text(config(other), encoding="utf-8")
        assert (await running_app.reload())[0] == 200
        assert await running_app.answer_text() == "the new one"
        upstream.calls[0].go.set()
        chunks += [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "from the old"
    while running_app.app._closing_tasks:  # noqa: ASYNC110 - the old connections are closed when no request needs them
        await asyncio.sleep(0)


async def test_a_request_that_waits_for_a_model_list_during_a_reload_is_answered_by_the_old_config(
    running_app, upstream, other
):
    listing = json.dumps({"object": "list", "data": [{"id": "fresh", "object": "model", "created": 1}]}).encode()

    async def lists(call):
        await call.go.wait()
        await answers(listing)(call)

    upstream.play(lists, answers(completion("the old one")))
    request = asyncio.create_task(running_app.ask(model="fresh"))
    while not upstream.calls:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    running_app.path.write_text(config(other), encoding="utf-8")
    assert (await running_app.reload())[0] == 200
    upstream.calls[0].go.set()
    assert (await request).choices[0].message.content == "the old one"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("upstreams: [", "not valid YAML"),
        ("", "so there is nothing to serve"),
        ("upstreams: {far: {base_ulr: x}}", "did you mean base_url?"),
        ("models: {m: {targets: [{upstream: nobody, model: x}]}}", "no upstream is called nobody"),
        ('upstreams: {far: {base_url: "http://h/v1", api_keys: ["env:NOT_SET_ANYWHERE"]}}', "NOT_SET_ANYWHERE"),
        ("engines: {e: {kind: llamacpp, model: /nowhere.gguf}}", "engines.e"),
        ("routing: {evals: /nowhere.json}", "routing.evals"),
    ],
)
async def test_a_broken_config_is_refused_with_the_reason_and_the_old_one_stays_in_force(running_app, text, reason):
    """Fault 76."""
    running_app.path.write_text(text, encoding="utf-8")
    status, answer = await running_app.reload()
    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert reason in answer["error"]["message"]
    assert await running_app.answer_text() == "the old one"


async def test_a_rotated_key_is_used_at_once_and_the_connections_are_kept(running_app, upstream, monkeypatch):
    await running_app.answer_text()
    monkeypatch.setenv("FAR_KEY", "second-key")
    assert (await running_app.reload())[0] == 200
    await running_app.answer_text()
    assert [call.headers["authorization"] for call in upstream.calls] == ["Bearer first-key", "Bearer second-key"]
    assert upstream.connections == 1


async def test_an_eval_file_counts_once_however_often_it_is_read(running_app, upstream, tmp_path):
    path = tmp_path / "evals.json"
    path.write_bytes(to_json(EvalFile("1", time.time(), (EvalScore("far/there", "chat", 4, 4),))))
    new_config = json.loads(config(upstream))
    new_config["routing"]["evals"] = str(path)
    running_app.path.write_text(json.dumps(new_config), encoding="utf-8")
    for _ in range(3):
        assert (await running_app.reload())[0] == 200
    assert running_app.app.qualities.mean(Target("far", "there"), "chat") == pytest.approx(0.75, abs=1e-3)
    running_app.path.write_text(config(upstream), encoding="utf-8")
    await running_app.reload()
    assert running_app.app.qualities.mean(Target("far", "there"), "chat") == 0.5


async def test_new_keys_of_callers_are_required_at_once(running_app, upstream, monkeypatch):
    monkeypatch.setenv("CALLER_KEY", "secret-caller")
    new_config = json.loads(config(upstream)) | {"auth": {"keys": ["env:CALLER_KEY"]}}
    running_app.path.write_text(json.dumps(new_config), encoding="utf-8")
    await running_app.reload()
    with pytest.raises(openai.AuthenticationError):
        await running_app.ask()


async def test_only_the_administrator_can_reload(running_app):
    headers = {"x-forwarded-for": "10.0.0.1"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running_app.url}/admin/reload", json={}, headers=headers) as answer,
    ):
        assert answer.status == 403
    async with aiohttp.ClientSession() as session, session.get(f"{running_app.url}/admin/reload") as answer:
        assert answer.status == 405


async def test_many_reloads_at_once_are_done_one_after_the_other(running_app, upstream, other):
    running_app.path.write_text(config(other), encoding="utf-8")
    answers = await asyncio.gather(*(running_app.reload() for _ in range(8)))
    assert {status for status, _ in answers} == {200}
    assert sorted(len(body["changed"]) for _, body in answers) == [0] * 7 + [1]
    assert await running_app.answer_text() == "the new one"


async def test_the_command_shows_what_has_changed_or_why_the_config_is_refused(running_app, other):
    def command():
        return CliRunner().invoke(main, ["reload", "--url", running_app.url])

    # standard output contains the server's log too
    assert "\nnothing has changed\n" in (await asyncio.to_thread(command)).stdout
    running_app.path.write_text(config(other, connect_timeout_s=1), encoding="utf-8")
    result = await asyncio.to_thread(command)
    assert "upstreams.far.connect_timeout_s: 5.0 -> 1.0\n" in result.stdout
    running_app.path.write_text("nonsense", encoding="utf-8")
    result = await asyncio.to_thread(command)
    assert result.exit_code == 1
    assert result.stderr.startswith("tidegate: The new config is refused, the old one stays in force: ")


async def test_sighup_reads_the_file_again(upstream, other, tmp_path):
    upstream.play(answers(completion("the old one")))
    path = tmp_path / "tidegate.yaml"
    path.write_text(config(upstream), encoding="utf-8")
    async with proxy.process("--config", str(path), FAR_KEY="k") as running:
        running_app = Tidegate(path, running.url, None)
        assert await running_app.answer_text() == "the old one"
        path.write_text("nonsense", encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        await running.line("reload refused")
        assert await running_app.answer_text() == "the old one"
        path.write_text(config(other), encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        line = await running.line("reloaded")
        assert [change.partition(":")[0] for change in line["changed"]] == ["upstreams.far.base_url"]
        assert await running_app.answer_text() == "the new one"
