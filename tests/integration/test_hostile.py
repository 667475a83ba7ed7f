"""Upstreams and callers who mean harm: nobody else suffers, nothing is kept for ever, nothing crosses the line."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import openai
import pytest

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import SSE_HEAD, ScenarioUpstream, answers, hangs, streams
from tests.fakes.wire import chunk, completion, event, text_stream

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BRIEF = {"answer_timeout_s": 0.2, "first_byte_timeout_s": 0.2, "idle_timeout_s": 0.2}
FINE = answers(completion("fine"))
FINE_STREAM = streams(*text_stream("fine"))
JSON_HEAD = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        running.play(FINE)
        yield running


def config(upstream, other, *, first=None, second=None, server=None, health=None):
    targets = [{"upstream": "first", "model": "a"}, {"upstream": "second", "model": "b"}]
    return json.dumps(
        {
            "server": server or {},
            "upstreams": {
                "first": {"base_url": upstream.url} | (first or {}),
                "second": {"base_url": other.url} | (second or {}),
            },
            "models": {"m": {"targets": targets}, "one": {"targets": targets[:1]}},
            "routing": {"retry": {"repeats": 0}, "health": {"failures": 3, "probe": False} | (health or {})},
        }
    )


@asynccontextmanager
async def running_app(text, **options):
    async with (
        proxy.running_app(text, **options) as (url, app),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield url, app, client


async def say(client, **fields):
    answer = await client.chat.completions.create(**ASK | fields)
    if not fields.get("stream"):
        return answer.choices[0].message.content
    return "".join([each.choices[0].delta.content or "" async for each in answer if each.choices])


async def refusal(client, **fields):
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**ASK | fields)
    return caught.value


# --- upstreams ----------------------------------------------------------------------------------------------------


def floods(piece):
    async def script(call):
        await call.write(SSE_HEAD)
        await until_cut(call, lambda: call.chunk(piece * 2000))

    return script


async def until_cut(call, write):
    """Again and again, until the connection is gone."""
    try:
        while not call.gone.is_set():
            await write()
    finally:
        call.gone.set()


def drips(head, piece):
    async def script(call):
        async def drip():
            await call.write(piece)
            await asyncio.sleep(0.02)

        await call.write(head)
        await until_cut(call, drip)

    return script


NOTHING = event(json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": []}).encode())
EMPTY = event(chunk({"content": ""}))


@pytest.mark.parametrize("piece", [b": x\n\n", b"\n", NOTHING], ids=["comments", "newlines", "events without choices"])
async def test_a_flood_of_nothing_ends_and_the_next_target_answers(upstream, other, piece):
    """It never makes us wait, so that no timeout sees it."""
    upstream.play(floods(piece))
    other.play(FINE_STREAM)
    async with running_app(config(upstream, other)) as (_, _, client):
        assert await say(client, stream=True) == "fine"
    await upstream.calls[0].gone.wait()


async def test_a_flood_in_the_middle_is_an_error_in_the_stream(upstream, other):
    async def script(call):
        await call.write(SSE_HEAD)
        await call.event(chunk({"role": "assistant", "content": "Hi"}))
        await until_cut(call, lambda: call.chunk(b": x\n\n" * 2000))

    upstream.play(script)
    async with running_app(config(upstream, other)) as (_, _, client):
        with pytest.raises(openai.APIError, match="bytes that say nothing"):
            await say(client, stream=True)


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (drips(JSON_HEAD % 500, b" "), False),
        (drips(JSON_HEAD % 503, b" "), True),
        (drips(JSON_HEAD % 200, b" "), False),
        (drips(JSON_HEAD % 200, b" "), True),
        (drips(SSE_HEAD, b"%x\r\n%b\r\n" % (len(EMPTY), EMPTY)), True),
        (drips(SSE_HEAD, b"%x\r\n%b\r\n" % (len(NOTHING), NOTHING)), True),
    ],
    ids=["an error", "an error, streamed", "an answer", "an answer to a stream", "empty pieces", "no choices"],
)
async def test_what_drips_does_not_keep_the_next_target_from_being_asked(upstream, other, script, stream):
    upstream.play(script)
    other.play(FINE_STREAM if stream else FINE)
    async with running_app(config(upstream, other, first=BRIEF)) as (_, _, client):
        assert await say(client, stream=stream) == "fine"
    for call in upstream.calls:
        await call.gone.wait()


@pytest.mark.parametrize("stream", [True, False])
async def test_choices_that_nobody_asked_for_are_nobodys(upstream, other, stream):
    stray = {"index": 1, "finish_reason": "stop"}
    if stream:
        upstream.play(streams(event(chunk(choices=[stray | {"delta": {"content": "stray"}}])), *text_stream("fine")))
    else:
        body = json.loads(completion("fine"))
        body["choices"].append(stray | {"message": {"role": "assistant", "content": "stray"}})
        upstream.play(answers(json.dumps(body).encode()))
    async with running_app(config(upstream, other)) as (_, _, client):
        answer = await client.chat.completions.create(**ASK, stream=stream)
        told = [each async for each in answer] if stream else [answer]
    assert {choice.index for each in told for choice in each.choices} == {0}


# --- callers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beat_s", [30, 0.05], ids=["alone", "with heartbeats"])
async def test_who_reads_nothing_gives_its_place_up(upstream, other, beat_s):
    async def endless(call):
        await call.write(SSE_HEAD)
        await until_cut(call, lambda: call.event(chunk({"role": "assistant", "content": "x" * 4000})))

    upstream.play(endless, FINE)
    server = {"send_timeout_s": 0.2, "empty_chunk_every_s": beat_s}
    text = config(upstream, other, first={"concurrency": {"limit": 1, "queue": 0}}, server=server)
    async with running_app(text) as (url, app, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        reader._transport.pause_reading()
        body = json.dumps(ASK | {"model": "one", "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        call = await upstream.next_call()
        assert app._gates["first"].in_flight == 1
        await call.gone.wait()
        while app._gates["first"].in_flight:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        assert await say(client, model="one") == "fine"
        writer.close()


async def test_a_name_of_a_megabyte_is_no_name(upstream, other):
    """Names are kept in several places."""
    async with running_app(config(upstream, other)) as (_, app, client):
        told = await refusal(client, model="first/" + "x" * 1_000_000)
        assert (told.status_code, told.param) == (400, "model")
        assert len(app._runtime.serving.target_registry.all()) == 2
    assert upstream.calls == []


async def test_a_schema_that_nothing_fits_is_not_the_targets_fault(upstream, other):
    upstream.play(answers(completion("{}")))
    other.play(answers(completion("{}")))
    schema = {"type": "object", "required": ["b"], "properties": {"b": {"enum": []}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    without = {"dialect": "deepseek"}  # a host that cannot be held to a schema
    async with running_app(config(upstream, other, first=without, second=without)) as (_, app, client):
        for _ in range(4):
            told = await refusal(client, response_format=form)
            assert (told.status_code, told.code) == (502, "structured_output_invalid")
        target_registry = app._runtime.serving.target_registry
        assert [(each.health.state, each.latency.failure_rate) for each in target_registry.kept()] == [("ok", 0.0)] * 2
    assert (len(upstream.calls), len(other.calls)) == (8, 8)  # each asked twice; nobody a third time


async def test_invented_names_are_not_probed_and_do_not_push_others_out(upstream, other):
    upstream.play(answers(b'{"error": {"message": "no"}}', status=500))
    clock = FakeClock()
    async with running_app(config(upstream, other, health={"failures": 1, "probe": True}), clock=clock) as (
        _,
        app,
        client,
    ):
        for number in range(3):
            await refusal(client, model=f"first/junk{number}")
        asked = len(upstream.calls)
        clock.advance(10)
        await app._runtime.prober.look()
        assert len(upstream.calls) == asked


async def test_what_a_caller_asks_for_does_not_say_how_a_target_is_probed(upstream, other):
    """Embeddings of a model that chats are 404 for ever."""

    async def chats(call):
        known = call.path.endswith(("/chat/completions", "/models"))
        await (FINE if known else answers(b'{"error": {"message": "no"}}', status=404))(call)

    upstream.play(answers(b'{"error": {"message": "no"}}', status=500))
    clock = FakeClock()
    async with running_app(config(upstream, other, health={"failures": 1, "probe": True}), clock=clock) as (
        _,
        app,
        client,
    ):
        assert await say(client) == "fine"
        stats = app._runtime.serving.target_registry.kept()[0]
        assert stats.health.state == "ejected"
        upstream.play(chats)
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="first/a", input="Hi")
        clock.advance(10)
        await app._runtime.prober.look()
        assert stats.health.state == "trial"


async def test_a_probe_that_hangs_keeps_nobody_else_out(upstream, other):
    bad = answers(b'{"error": {"message": "no"}}', status=500)
    upstream.play(bad)
    other.play(bad)
    clock = FakeClock()
    async with running_app(config(upstream, other, health={"failures": 1, "probe": True}), clock=clock) as (
        _,
        app,
        client,
    ):
        await refusal(client)
        first, second = app._runtime.serving.target_registry.kept()
        upstream.play(hangs)
        other.play(FINE)
        clock.advance(10)
        app._runtime.prober._begin()
        while second.health.state != "trial":  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        assert first.health.state == "ejected"


# --- the line -----------------------------------------------------------------------------------------------------


def thinks(call_id):
    body = json.loads(completion(""))
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "", "reasoning_content": "CANARY", "tool_calls": [call]}
    body["choices"] = [{"index": 0, "finish_reason": "tool_calls", "message": message}]
    return json.dumps(body).encode()


@pytest.mark.parametrize("call_id", ["functions.f:0", "call_abcdefgh12345678"], ids=["Kimi's", "one of its own"])
@pytest.mark.parametrize(("reach", "leaves"), [("local_only", False), ("any", True)])
async def test_what_was_thought_in_the_house_stays_there(upstream, other, call_id, reach, leaves):
    """Also where another conversation comes along with the same id, and may leave."""

    async def engine(call):
        await answers(b"" if call.method == "GET" else thinks(call_id))(call)

    upstream.play(engine)
    other.play(FINE)
    text = json.dumps(
        {
            "engines": {"near": {"kind": "external", "base_url": upstream.url}},
            "upstreams": {"far": {"base_url": other.url, "dialect": "deepseek"}},
            "models": {
                "near": {"reach": reach, "targets": [{"engine": "near", "model": "kimi-k2"}]},
                "far": {"targets": [{"upstream": "far", "model": "deepseek-v4-pro"}]},
            },
        }
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "5"},
    ]
    async with running_app(text) as (_, app, client):
        while app.engines.by_name["near"].engine.status.state != "ready":  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        await client.chat.completions.create(model="near", messages=turns[:1], tools=tools)
        await client.chat.completions.create(model="far", messages=turns, tools=tools)
    has_left = b"CANARY" in other.calls[-1].body
    assert has_left == (leaves and not call_id.startswith("functions"))


@pytest.mark.parametrize("who", ["key", "config"])
async def test_nobody_elsewhere_is_asked_what_models_there_are_for_who_may_not_leave(upstream, monkeypatch, who):
    monkeypatch.setenv("ALICE_KEY", "alice-key")
    text = json.dumps(
        {
            "auth": {
                "callers": {"alice": {"key": "env:ALICE_KEY"} | ({"reach": "local_only"} if who == "key" else {})}
            },
            "upstreams": {"far": {"base_url": upstream.url}},
            "routing": {"reach": "local_only"} if who == "config" else {},
        }
    )
    headers = {"authorization": "Bearer alice-key"}
    async with proxy.serving(text) as url, aiohttp.ClientSession(url, headers=headers) as session:
        for path, status in (("/v1/models", 200), ("/v1/models/some-name", 404)):
            async with session.get(path) as told:
                assert told.status == status
    assert upstream.calls == []


EVIL = "http://169.254.169.254/latest"
PICTURE = {"type": "image_url", "image_url": {"url": EVIL}}


def shown(*parts):
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, *parts]}]}


@pytest.mark.parametrize("dialect", ["generic", "openai", "openrouter", "vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        shown(PICTURE),
        shown({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
        shown({"type": "image_url", "image_url": {"url": "data://169.254.169.254/a.png;base64,AA=="}}),
        shown({"type": "video_url", "uuid": "u1"} | PICTURE | {"type": "video_url"}),
        shown({"type": "input_audio", "input_audio": {"data": EVIL, "format": "wav"}}),
        shown({"type": "file", "file": {"file_data": EVIL}}),
        ("/v1/chat/completions", ASK | {"multimodal_data": [EVIL]}),
        ("/v1/chat/completions", ASK | {"extra_body": {"video_data": EVIL}}),
        ("/v1/completions", {"prompt": "hi", "image_data": EVIL}),
        ("/v1/completions", {"prompt": {"prompt_string": "hi", "multimodal_data": [EVIL]}}),
        ("/v1/completions", {"prompt": [{"prompt_string": "hi", "multimodal_data": [EVIL]}]}),
        ("/v1/embeddings", {"input": "hi", "audio_data": EVIL}),
        ("/v1/embeddings", {"input": [{"image": EVIL}]}),
    ],
)
async def test_no_engine_is_sent_what_it_would_fetch(upstream, dialect, path, fields):
    """An engine is in the operator's network, whatever its dialect."""

    async def engine(call):
        await answers(b"" if call.method == "GET" else completion("fetched"))(call)

    upstream.play(engine)
    near = {"kind": "external", "base_url": upstream.url, "dialect": dialect, "metrics_path": None}
    text = json.dumps({"engines": {"near": near}, "models": {"m": {"targets": [{"engine": "near", "model": "a"}]}}})
    async with running_app(text) as (url, app, _), aiohttp.ClientSession() as session:
        while app.engines.by_name["near"].engine.status.state != "ready":  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        async with session.post(url + path, json=fields | {"model": "m"}) as answer:
            assert answer.status == 400, await answer.text()
    assert [call.path for call in upstream.calls if call.method == "POST"] == []
