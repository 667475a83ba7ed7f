"""A config that is read again while requests run."""

import asyncio
import json
import signal
import time

import aiohttp
import openai
import pytest
from click.testing import CliRunner
from tidegate.cli.main import main
from tidegate.config import load
from tidegate.config.evals import EvalFile, EvalScore, to_json
from tidegate.routing.targets import Target

from tests.fakes import proxy
from tests.fakes.upstream import PAUSE, ScenarioUpstream, answers, streams
from tests.fakes.wire import chunk, completion, event, text_stream

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class House:
    """A running Tidegate whose config is a file."""

    def __init__(self, path, url, app):
        self.path = path
        self.url = url
        self.app = app

    async def reload(self):
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/admin/reload", json={}) as told:
            return told.status, await told.json()

    async def ask(self, **fields):
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0) as client:
            return await client.chat.completions.create(**ASK | fields)

    async def say(self):
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
        yield House(path, url, app)


async def test_the_new_config_holds_and_says_what_is_new(running_app, other):
    assert await running_app.say() == "the old one"
    running_app.path.write_text(config(other), encoding="utf-8")
    status, told = await running_app.reload()
    assert status == 200
    assert [line.partition(":")[0] for line in told["changed"]] == ["upstreams.far.base_url"]
    assert told["needs_restart"] == []
    assert await running_app.say() == "the new one"


async def test_streams_end_whole_on_the_config_they_began_with(running_app, upstream, other):
    """Fault 75."""
    begin, *rest = text_stream("from ", "the old")[1:]
    upstream.play(streams(event(chunk({"role": "assistant", "content": ""})), begin, PAUSE, *rest))
    async with openai.AsyncOpenAI(base_url=f"{running_app.url}/v1", api_key="-", max_retries=0) as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        chunks = [await anext(stream)]
        running_app.path.write_text(config(other), encoding="utf-8")
        assert (await running_app.reload())[0] == 200
        assert await running_app.say() == "the new one"
        upstream.calls[0].go.set()
        chunks += [each async for each in stream]
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "from the old"
    while running_app.app._leaving:  # noqa: ASYNC110 - the old connections are closed when nobody needs them
        await asyncio.sleep(0)


async def test_who_asks_for_a_model_that_an_upstream_is_just_listing_is_answered_by_the_config_of_before(
    running_app, upstream, other
):
    listing = json.dumps({"object": "list", "data": [{"id": "fresh", "object": "model", "created": 1}]}).encode()

    async def lists(call):
        await call.go.wait()
        await answers(listing)(call)

    upstream.play(lists, answers(completion("the old one")))
    asking = asyncio.create_task(running_app.ask(model="fresh"))
    while not upstream.calls:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    running_app.path.write_text(config(other), encoding="utf-8")
    assert (await running_app.reload())[0] == 200
    upstream.calls[0].go.set()
    assert (await asking).choices[0].message.content == "the old one"


@pytest.mark.parametrize(
    ("text", "why"),
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
async def test_a_broken_config_leaves_the_old_one_serving_and_says_so(running_app, text, why):
    """Fault 76."""
    running_app.path.write_text(text, encoding="utf-8")
    status, told = await running_app.reload()
    assert (status, told["error"]["code"]) == (409, "conflict")
    assert why in told["error"]["message"]
    assert await running_app.say() == "the old one"


async def test_a_rotated_key_is_shown_at_once_and_the_connections_stay(running_app, upstream, monkeypatch):
    await running_app.say()
    monkeypatch.setenv("FAR_KEY", "second-key")
    assert (await running_app.reload())[0] == 200
    await running_app.say()
    assert [call.headers["authorization"] for call in upstream.calls] == ["Bearer first-key", "Bearer second-key"]
    assert upstream.connections == 1


async def test_an_eval_counts_once_however_often_it_is_read(running_app, upstream, tmp_path):
    path = tmp_path / "evals.json"
    path.write_bytes(to_json(EvalFile("1", time.time(), (EvalScore("far/there", "chat", 4, 4),))))
    told = json.loads(config(upstream))
    told["routing"]["evals"] = str(path)
    running_app.path.write_text(json.dumps(told), encoding="utf-8")
    for _ in range(3):
        assert (await running_app.reload())[0] == 200
    assert running_app.app.qualities.mean(Target("far", "there"), "chat") == pytest.approx(0.75, abs=1e-3)
    running_app.path.write_text(config(upstream), encoding="utf-8")
    await running_app.reload()
    assert running_app.app.qualities.mean(Target("far", "there"), "chat") == 0.5


async def test_callers_keys_are_others_at_once(running_app, upstream, monkeypatch):
    monkeypatch.setenv("CALLER_KEY", "secret-caller")
    told = json.loads(config(upstream)) | {"auth": {"keys": ["env:CALLER_KEY"]}}
    running_app.path.write_text(json.dumps(told), encoding="utf-8")
    await running_app.reload()
    with pytest.raises(openai.AuthenticationError):
        await running_app.ask()


async def test_who_may_not_administer_may_not_reload(running_app):
    headers = {"x-forwarded-for": "10.0.0.1"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{running_app.url}/admin/reload", json={}, headers=headers) as told,
    ):
        assert told.status == 403
    async with aiohttp.ClientSession() as session, session.get(f"{running_app.url}/admin/reload") as told:
        assert told.status == 405


async def test_many_reloads_at_once_are_done_one_after_the_other(running_app, upstream, other):
    running_app.path.write_text(config(other), encoding="utf-8")
    told = await asyncio.gather(*(running_app.reload() for _ in range(8)))
    assert {status for status, _ in told} == {200}
    assert sorted(len(body["changed"]) for _, body in told) == [0] * 7 + [1]
    assert await running_app.say() == "the new one"


async def test_the_command_says_what_has_changed_or_why_not(running_app, other):
    def command():
        return CliRunner().invoke(main, ["reload", "--url", running_app.url])

    assert "\nnothing has changed\n" in (await asyncio.to_thread(command)).stdout  # the server's log is there too
    running_app.path.write_text(config(other, connect_timeout_s=1), encoding="utf-8")
    done = await asyncio.to_thread(command)
    assert "upstreams.far.connect_timeout_s: 5.0 -> 1.0\n" in done.stdout
    running_app.path.write_text("nonsense", encoding="utf-8")
    done = await asyncio.to_thread(command)
    assert done.exit_code == 1
    assert done.stderr.startswith("tidegate: The config is refused, the one before stays: ")


async def test_sighup_reads_the_file_again(upstream, other, tmp_path):
    upstream.play(answers(completion("the old one")))
    path = tmp_path / "tidegate.yaml"
    path.write_text(config(upstream), encoding="utf-8")
    async with proxy.process("--config", str(path), FAR_KEY="k") as running:
        running_app = House(path, running.url, None)
        assert await running_app.say() == "the old one"
        path.write_text("nonsense", encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        await running.line("reload refused")
        assert await running_app.say() == "the old one"
        path.write_text(config(other), encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        line = await running.line("reloaded")
        assert [told.partition(":")[0] for told in line["changed"]] == ["upstreams.far.base_url"]
        assert await running_app.say() == "the new one"
