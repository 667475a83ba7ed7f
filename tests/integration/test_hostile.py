"""Hostile upstreams and callers: others are not affected, memory is bounded, no private byte is sent outside."""

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


def floods(chunk_bytes):
    async def script(call):
        await call.write(SSE_HEAD)
        await write_until_closed(call, lambda: call.chunk(chunk_bytes * 2000))

    return script


async def write_until_closed(call, write):
    """Call `write` again and again, until the connection is closed."""
    try:
        while not call.gone.is_set():
            await write()
    finally:
        call.gone.set()


def drips(head, chunk_bytes):
    async def script(call):
        async def drip():
            await call.write(chunk_bytes)
            await asyncio.sleep(0.02)

        await call.write(head)
        await write_until_closed(call, drip)

    return script


NO_CHOICES = event(json.dumps({"id": "x", "object": "chat.completion.chunk", "choices": []}).encode())
EMPTY = event(chunk({"content": ""}))


@pytest.mark.parametrize(
    "chunk_bytes", [b": x\n\n", b"\n", NO_CHOICES], ids=["comments", "newlines", "events without choices"]
)
async def test_a_flood_without_content_ends_and_the_next_target_answers(upstream, other, chunk_bytes):
    """The flood never makes Tidegate wait, so that no timeout applies."""
    upstream.play(floods(chunk_bytes))
    other.play(FINE_STREAM)
    async with running_app(config(upstream, other)) as (_, _, client):
        assert await say(client, stream=True) == "fine"
    await upstream.calls[0].gone.wait()


async def test_a_flood_in_the_middle_is_an_error_in_the_stream(upstream, other):
    async def script(call):
        await call.write(SSE_HEAD)
        await call.event(chunk({"role": "assistant", "content": "Hi"}))
        await write_until_closed(call, lambda: call.chunk(b": x\n\n" * 2000))

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
        (drips(SSE_HEAD, b"%x\r\n%b\r\n" % (len(NO_CHOICES), NO_CHOICES)), True),
    ],
    ids=["an error", "an error, streamed", "an answer", "an answer to a stream", "empty pieces", "no choices"],
)
async def test_a_host_that_sends_byte_by_byte_does_not_prevent_failover(upstream, other, script, stream):
    upstream.play(script)
    other.play(FINE_STREAM if stream else FINE)
    async with running_app(config(upstream, other, first=BRIEF)) as (_, _, client):
        assert await say(client, stream=stream) == "fine"
    for call in upstream.calls:
        await call.gone.wait()


@pytest.mark.parametrize("stream", [True, False])
async def test_choices_that_were_not_requested_are_dropped(upstream, other, stream):
    stray = {"index": 1, "finish_reason": "stop"}
    if stream:
        upstream.play(streams(event(chunk(choices=[stray | {"delta": {"content": "stray"}}])), *text_stream("fine")))
    else:
        body = json.loads(completion("fine"))
        body["choices"].append(stray | {"message": {"role": "assistant", "content": "stray"}})
        upstream.play(answers(json.dumps(body).encode()))
    async with running_app(config(upstream, other)) as (_, _, client):
        answer = await client.chat.completions.create(**ASK, stream=stream)
        response = [each async for each in answer] if stream else [answer]
    assert {choice.index for each in response for choice in each.choices} == {0}


# --- callers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beat_s", [30, 0.05], ids=["alone", "with heartbeats"])
async def test_a_caller_that_reads_nothing_loses_its_slot(upstream, other, beat_s):
    async def endless(call):
        await call.write(SSE_HEAD)
        await write_until_closed(call, lambda: call.event(chunk({"role": "assistant", "content": "x" * 4000})))

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
        assert app._concurrency["first"].in_flight == 1
        await call.gone.wait()
        while app._concurrency["first"].in_flight:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        assert await say(client, model="one") == "fine"
        writer.close()


async def test_a_model_name_of_a_megabyte_is_refused(upstream, other):
    """Names are stored in several places."""
    async with running_app(config(upstream, other)) as (_, app, client):
        response = await refusal(client, model="first/" + "x" * 1_000_000)
        assert (response.status_code, response.param) == (400, "model")
        assert len(app._runtime.serving.target_registry.all()) == 2
    assert upstream.calls == []


async def test_a_schema_that_no_answer_fits_is_not_the_targets_fault(upstream, other):
    upstream.play(answers(completion("{}")))
    other.play(answers(completion("{}")))
    schema = {"type": "object", "required": ["b"], "properties": {"b": {"enum": []}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    without = {"dialect": "deepseek"}  # a host that cannot be held to a schema
    async with running_app(config(upstream, other, first=without, second=without)) as (_, app, client):
        for _ in range(4):
            response = await refusal(client, response_format=form)
            assert (response.status_code, response.code) == (502, "structured_output_invalid")
        target_registry = app._runtime.serving.target_registry
        assert [(each.health.state, each.latency.failure_rate) for each in target_registry.configured()] == [
            ("ok", 0.0)
        ] * 2
    # each of the four requests is sent to each target twice, and no third time
    assert (len(upstream.calls), len(other.calls)) == (8, 8)


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
        calls_before = len(upstream.calls)
        clock.advance(10)
        await app._runtime.prober.probe_now()
        assert len(upstream.calls) == calls_before


async def test_a_callers_failed_request_does_not_change_how_a_target_is_probed(upstream, other):
    """Embeddings of a chat model are always 404."""

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
        stats = app._runtime.serving.target_registry.configured()[0]
        assert stats.health.state == "ejected"
        upstream.play(chats)
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="first/a", input="Hi")
        clock.advance(10)
        await app._runtime.prober.probe_now()
        assert stats.health.state == "trial"


async def test_a_probe_that_hangs_does_not_delay_other_targets(upstream, other):
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
        first, second = app._runtime.serving.target_registry.configured()
        upstream.play(hangs)
        other.play(FINE)
        clock.advance(10)
        app._runtime.prober._start_due_probes()
        while second.health.state != "trial":  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        assert first.health.state == "ejected"


# --- the privacy line ---------------------------------------------------------------------------------------------


def thinks(call_id):
    body = json.loads(completion(""))
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "", "reasoning_content": "CANARY", "tool_calls": [call]}
    body["choices"] = [{"index": 0, "finish_reason": "tool_calls", "message": message}]
    return json.dumps(body).encode()


@pytest.mark.parametrize("call_id", ["functions.f:0", "call_abcdefgh12345678"], ids=["Kimi's", "one of its own"])
@pytest.mark.parametrize(("reach", "may_leave"), [("local_only", False), ("any", True)])
async def test_reasoning_of_local_only_requests_is_not_sent_outside(upstream, other, call_id, reach, may_leave):
    """Also if another conversation, which may be sent outside, uses the same id."""

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
        while app.engines.by_name["near"].engine.status.state != "ready":  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        await client.chat.completions.create(model="near", messages=turns[:1], tools=tools)
        await client.chat.completions.create(model="far", messages=turns, tools=tools)
    has_left = b"CANARY" in other.calls[-1].body
    assert has_left == (may_leave and not call_id.startswith("functions"))


@pytest.mark.parametrize("setting", ["key", "config"])
async def test_no_hosted_upstream_is_asked_for_its_models_under_local_only(upstream, monkeypatch, setting):
    monkeypatch.setenv("ALICE_KEY", "alice-key")
    text = json.dumps(
        {
            "auth": {
                "callers": {"alice": {"key": "env:ALICE_KEY"} | ({"reach": "local_only"} if setting == "key" else {})}
            },
            "upstreams": {"far": {"base_url": upstream.url}},
            "routing": {"reach": "local_only"} if setting == "config" else {},
        }
    )
    headers = {"authorization": "Bearer alice-key"}
    async with proxy.serving(text) as url, aiohttp.ClientSession(url, headers=headers) as session:
        for path, status in (("/v1/models", 200), ("/v1/models/some-name", 404)):
            async with session.get(path) as response:
                assert response.status == status
    assert upstream.calls == []


EVIL = "http://169.254.169.254/latest"
IMAGE = {"type": "image_url", "image_url": {"url": EVIL}}


def message_with(*parts):
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, *parts]}]}


@pytest.mark.parametrize("dialect", ["generic", "openai", "openrouter", "vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        message_with(IMAGE),
        message_with({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
        message_with({"type": "image_url", "image_url": {"url": "data://169.254.169.254/a.png;base64,AA=="}}),
        message_with({"type": "video_url", "uuid": "u1"} | IMAGE | {"type": "video_url"}),
        message_with({"type": "input_audio", "input_audio": {"data": EVIL, "format": "wav"}}),
        message_with({"type": "file", "file": {"file_data": EVIL}}),
        ("/v1/chat/completions", ASK | {"multimodal_data": [EVIL]}),
        ("/v1/chat/completions", ASK | {"extra_body": {"video_data": EVIL}}),
        ("/v1/completions", {"prompt": "hi", "image_data": EVIL}),
        ("/v1/completions", {"prompt": {"prompt_string": "hi", "multimodal_data": [EVIL]}}),
        ("/v1/completions", {"prompt": [{"prompt_string": "hi", "multimodal_data": [EVIL]}]}),
        ("/v1/embeddings", {"input": "hi", "audio_data": EVIL}),
        ("/v1/embeddings", {"input": [{"image": EVIL}]}),
    ],
)
async def test_no_engine_gets_a_url_that_it_would_fetch(upstream, dialect, path, fields):
    """An engine is in the operator's network, whatever its dialect."""

    async def engine(call):
        await answers(b"" if call.method == "GET" else completion("fetched"))(call)

    upstream.play(engine)
    near = {"kind": "external", "base_url": upstream.url, "dialect": dialect, "metrics_path": None}
    text = json.dumps({"engines": {"near": near}, "models": {"m": {"targets": [{"engine": "near", "model": "a"}]}}})
    async with running_app(text) as (url, app, _), aiohttp.ClientSession() as session:
        while app.engines.by_name["near"].engine.status.state != "ready":  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        async with session.post(url + path, json=fields | {"model": "m"}) as answer:
            assert answer.status == 400, await answer.text()
    assert [call.path for call in upstream.calls if call.method == "POST"] == []
