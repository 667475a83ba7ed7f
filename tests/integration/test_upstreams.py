"""Requests to upstreams: keys, connection pools, timeouts, failover, lists of models."""

import asyncio
import json

import openai
import pytest
from structlog.testing import capture_logs

from tests.fakes import proxy
from tests.fakes.upstream import (
    SSE_HEAD,
    Call,
    ScenarioUpstream,
    answers,
    breaks_off,
    breaks_without_answer,
    hangs,
    streams,
)
from tests.fakes.wire import chunk, completion, event, text_stream

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def client_of(url: str, **headers: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="callers-own", max_retries=0, default_headers=headers)


@pytest.fixture
async def second():
    async with ScenarioUpstream().running() as running:
        yield running


async def test_the_upstream_request_has_tidegates_headers_and_the_targets_model_name(url, upstream):
    """The caller's key, cookies and SDK headers are not forwarded; nulls and engine-internal fields are left out."""
    upstream.play(answers(completion()))
    async with client_of(url, cookie="a=b", origin="http://evil") as client:
        await client.chat.completions.create(**REQUEST, temperature=None, extra_body={"top_k": 3, "request_id": "mine"})
    (call,) = upstream.calls
    sent = json.loads(call.body)
    assert sent == {"model": "there", "messages": REQUEST["messages"], "top_k": 3}
    assert call.path == "/v1/chat/completions"
    assert call.headers.keys() == {
        "host",
        "accept",
        "accept-encoding",
        "content-type",
        "content-length",
        "user-agent",
    }
    assert call.headers["accept-encoding"] == "identity"


async def test_a_stream_always_requests_usage_and_hides_it_if_the_caller_did_not_ask_for_it(url, upstream):
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    upstream.play(streams(*text_stream("Hi", usage=usage)))
    async with client_of(url) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**REQUEST, stream=True)]
    assert json.loads(upstream.calls[0].body)["stream_options"] == {"include_usage": True}
    assert all(chunk.usage is None for chunk in chunks)


async def test_keys_are_used_in_turn(upstream, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"key-{name}\n")
    keys = f"[file:{tmp_path}/one, file:{tmp_path}/two]"
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", api_keys: {keys}}}}}'
    upstream.play(answers(completion()))
    async with proxy.serving(config) as url, client_of(url) as client:
        for _ in range(3):
            await client.chat.completions.create(**REQUEST | {"model": "host/x"})
    shown = [call.headers["authorization"] for call in upstream.calls]
    assert shown == ["Bearer key-one", "Bearer key-two", "Bearer key-one"]


async def test_connections_are_used_again(url, upstream):
    upstream.play(answers(completion()))
    async with client_of(url) as client:
        for _ in range(5):
            await client.chat.completions.create(**REQUEST)
    assert upstream.connections == 1


async def test_connections_are_used_again_after_streams(url, upstream):
    upstream.play(streams(*text_stream("Hi")))
    async with client_of(url) as client:
        for _ in range(5):
            async for _chunk in await client.chat.completions.create(**REQUEST, stream=True):
                pass
    assert upstream.connections == 1


async def test_a_stale_pooled_connection_is_tried_once_more_on_a_new_one(url, upstream):
    """The upstream closed it while it was idle in the pool, just as the next request was being sent."""

    async def closes_silently(call: Call) -> None:
        call.cut()

    upstream.play(answers(completion("one")), closes_silently, answers(completion("two")))
    async with client_of(url) as client:
        await client.chat.completions.create(**REQUEST)
        answer = await client.chat.completions.create(**REQUEST)
    assert answer.choices[0].message.content == "two"
    assert len(upstream.calls) == 3


async def test_a_stale_connection_is_recognised_though_new_ones_are_opened(url, upstream):
    """Other requests may open connections while one waits on its pooled connection."""
    has_other_connection = asyncio.Event()

    async def closes_after_another_connected(call: Call) -> None:
        await has_other_connection.wait()
        call.cut()

    async def connects_meanwhile(call: Call) -> None:
        has_other_connection.set()
        await answers(completion("company"))(call)

    upstream.play(
        answers(completion("one")), closes_after_another_connected, connects_meanwhile, answers(completion("two"))
    )
    async with client_of(url) as client:
        await client.chat.completions.create(**REQUEST)
        stale = asyncio.create_task(client.chat.completions.create(**REQUEST))
        while len(upstream.calls) < 2:
            await upstream.next_call()
        await client.chat.completions.create(**REQUEST)
        answer = await stale
    assert answer.choices[0].message.content == "two"


async def test_a_new_connection_that_breaks_is_not_tried_again(url, upstream):
    """The upstream may have begun to work on the request."""
    upstream.play(breaks_without_answer)
    async with client_of(url) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**REQUEST)
    assert caught.value.code == "upstream_unreachable"
    assert len(upstream.calls) == 1


@pytest.fixture
async def two_targets(upstream, second):
    config = f"""
upstreams:
  first: {{base_url: "{upstream.url}"}}
  brief: {{base_url: "{upstream.url}", first_byte_timeout_s: 0.2, answer_timeout_s: 0.2, idle_timeout_s: 0.2}}
  second: {{base_url: "{second.url}"}}
  closed: {{base_url: "http://127.0.0.1:9/v1"}}
models:
  m: {{targets: [{{upstream: first, model: a}}, {{upstream: second, model: b}}]}}
  impatient: {{targets: [{{upstream: brief, model: a}}, {{upstream: second, model: b}}]}}
  c: {{targets: [{{upstream: closed, model: a}}, {{upstream: second, model: b}}]}}
  alone: {{targets: [{{upstream: brief, model: a}}]}}
"""
    async with proxy.serving(config) as url, client_of(url) as client:
        yield client


@pytest.mark.parametrize(
    "script",
    [
        hangs,
        breaks_without_answer,
        answers(b"{}", status=500),
        answers(b"{}", status=429),
        answers(b"{}", status=401),
        answers(b"{}", status=404),
        answers(b"<html>", content_type="text/html"),
        streams(),
        streams(event(b'{"error": {"message": "x"}}')),
    ],
    ids=["silent", "hangs up", "500", "429", "401", "404", "html", "empty stream", "error first"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_the_next_target_answers_when_the_first_fails(two_targets, upstream, second, script, stream):
    upstream.play(script)
    second.play(streams(*text_stream("from b")) if stream else answers(completion("from b")))
    request = REQUEST | {"model": "impatient" if script is hangs else "m"}
    if stream:
        stream_answer = await two_targets.chat.completions.create(**request, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream_answer])
    else:
        text = (await two_targets.chat.completions.create(**request)).choices[0].message.content
    assert text == "from b"
    assert json.loads(second.calls[0].body)["model"] == "b"


async def test_after_a_refused_connection_the_next_target_is_tried(two_targets, second):
    second.play(answers(completion("from b")))
    answer = await two_targets.chat.completions.create(**REQUEST | {"model": "c"})
    assert answer.choices[0].message.content == "from b"


async def test_an_invalid_request_is_not_tried_at_another_target(two_targets, upstream, second):
    upstream.play(answers(b'{"error": {"message": "bad", "param": "seed"}}', status=400))
    with pytest.raises(openai.BadRequestError) as caught:
        await two_targets.chat.completions.create(**REQUEST)
    assert caught.value.param == "seed"
    assert second.calls == []


ROLE = event(chunk({"role": "assistant", "content": ""}))


async def says_a_role_and_hangs(call: Call) -> None:
    await call.write(SSE_HEAD)
    await call.chunk(ROLE)
    await call.gone.wait()


@pytest.mark.parametrize(
    "script",
    [
        breaks_off(ROLE),
        breaks_off(ROLE, b": keep-alive\n\n", event(chunk({"content": ""}))),
        says_a_role_and_hangs,
        streams(ROLE),
        streams(ROLE, b"data: [DONE]\n\n"),
        streams(ROLE, event(b'{"error": {"message": "x"}}')),
        streams(ROLE, event(chunk(finish="insufficient_system_resource"))),
    ],
    ids=["break", "break after nothing", "silence", "end", "done", "error", "gave up"],
)
async def test_a_stream_that_fails_before_its_first_content_is_tried_at_another_target(
    two_targets, upstream, second, script
):
    """Some upstreams send the role before the model begins, and may still fail."""
    upstream.play(script)
    second.play(streams(*text_stream("from b")))
    request = REQUEST | {"model": "impatient" if script is says_a_role_and_hangs else "m"}
    stream_answer = await two_targets.chat.completions.create(**request, stream=True)
    chunks = [each.choices[0].delta async for each in stream_answer]
    assert [each.role for each in chunks if each.role] == ["assistant"]
    assert "".join(each.content or "" for each in chunks) == "from b"


async def test_a_stream_without_content_that_ends_properly_is_an_answer(two_targets, upstream, second):
    upstream.play(streams(*text_stream()))
    stream_answer = await two_targets.chat.completions.create(**REQUEST, stream=True)
    assert [each.choices[0].finish_reason async for each in stream_answer] == [None, "stop"]
    assert second.calls == []


async def test_after_the_first_content_no_other_target_is_tried(two_targets, upstream, second):
    async def begins_and_breaks(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.go.wait()
        call.cut()

    upstream.play(begins_and_breaks)
    with pytest.raises(openai.APIError):
        async for _ in await two_targets.chat.completions.create(**REQUEST, stream=True):
            upstream.calls[-1].go.set()
    assert second.calls == []


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_silent_upstream_is_a_504(two_targets, upstream, stream):
    upstream.play(hangs)
    with pytest.raises(openai.InternalServerError) as caught:
        await two_targets.chat.completions.create(**REQUEST | {"model": "alone"}, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    for call in upstream.calls:
        await call.gone.wait()


async def test_an_upstream_that_stops_sending_in_the_middle_is_an_error_in_band(two_targets, upstream):
    async def begins_and_hangs(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.gone.wait()

    upstream.play(begins_and_hangs)
    with pytest.raises(openai.APIError) as caught:
        async for _ in await two_targets.chat.completions.create(**REQUEST | {"model": "alone"}, stream=True):
            pass
    assert caught.value.code == "upstream_timeout"


async def test_an_endless_event_is_an_error(url, upstream):
    async def endless(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.chunk(b"data: ")
        while not call.gone.is_set():
            await call.chunk(b"x" * 1_000_000)

    upstream.play(endless)
    async with client_of(url) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**REQUEST, stream=True)
    assert caught.value.code == "upstream_failed"


@pytest.mark.parametrize(("dialect", "header"), [("generic", "x-request-id"), ("openrouter", "x-generation-id")])
async def test_the_upstreams_request_id_is_logged_and_not_sent_to_the_caller(upstream, dialect, header):
    """Row 178: the upstream's support needs it; the caller gets Tidegate's own request id."""
    head = f"{header}: theirs-1\r\n".encode()
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", dialect: {dialect}}}}}'
    upstream.play(answers(b"{}", status=500, head=head), answers(completion(), head=head))
    with capture_logs() as lines:
        async with proxy.serving(config) as url, client_of(url) as client:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(**REQUEST | {"model": "host/x"})
            answer = await client.chat.completions.with_raw_response.create(**REQUEST | {"model": "host/x"})
    assert [line["upstream_request_id"] for line in lines if line["event"] in {"request", "upstream failed"}] == [
        "theirs-1",
        "theirs-1",
        "theirs-1",
    ]
    assert "theirs-1" not in str(answer.headers)


async def test_a_key_in_the_upstreams_request_id_is_not_logged(upstream, monkeypatch):
    monkeypatch.setenv("HOST_KEY", "sk-of-the-host")
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", api_keys: ["env:HOST_KEY"]}}}}'
    upstream.play(answers(completion(), head=b"x-request-id: for sk-of-the-host\r\n"))
    with capture_logs() as lines:
        async with proxy.serving(config) as url, client_of(url) as client:
            await client.chat.completions.create(**REQUEST | {"model": "host/x"})
    assert [line["upstream_request_id"] for line in lines if line["event"] == "request"] == ["for ***"]


# --- names --------------------------------------------------------------------------------------------------------

LIST = answers(b'{"object": "list", "data": [{"id": "org/big", "max_model_len": 4096, "permission": []}, {"id": "m"}]}')


async def test_a_prefix_names_the_upstream(url, upstream):
    upstream.play(answers(completion()))
    async with client_of(url) as client:
        answer = await client.chat.completions.create(**REQUEST | {"model": "host/org/some-model"})
    assert json.loads(upstream.calls[0].body)["model"] == "org/some-model"
    assert answer.model == "host/org/some-model"


async def test_a_request_for_a_model_that_an_upstream_lists_goes_to_that_upstream(url, upstream):
    upstream.play(LIST, answers(completion()))
    async with client_of(url) as client:
        await client.chat.completions.create(**REQUEST | {"model": "org/big"})
        await client.chat.completions.create(**REQUEST | {"model": "org/big"})
    assert [(call.method, call.path) for call in upstream.calls] == [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions"),
    ]


async def test_the_list_of_models_has_the_configured_and_the_listed_ones_once_each(url, upstream):
    upstream.play(LIST)
    async with client_of(url) as client:
        cards = [card async for card in client.models.list()]
        big = await client.models.retrieve("org/big")
    assert [(card.id, card.owned_by) for card in cards] == [("m", "tidegate"), ("org/big", "host")]
    assert big.model_extra == {"max_model_len": 4096}


async def test_an_upstream_that_cannot_list_its_models_does_not_hide_those_of_others(upstream, second):
    config = f"""
upstreams:
  dead: {{base_url: "http://127.0.0.1:9/v1"}}
  alive: {{base_url: "{second.url}"}}
"""
    second.play(LIST)
    async with proxy.serving(config) as url, client_of(url) as client:
        assert [card.id async for card in client.models.list()] == ["org/big", "m"]


async def test_no_request_is_sent_to_an_upstream_at_start(url, upstream):
    """The start never waits for an upstream."""
    assert upstream.connections == 0


async def test_concurrent_requests_for_the_list_of_models_share_one_upstream_request(url, upstream):
    upstream.play(LIST)
    async with client_of(url) as client:

        async def ids() -> list[str]:
            return [card.id async for card in client.models.list()]

        lists = await asyncio.gather(*(ids() for _ in range(8)))
    assert all(ids == ["m", "org/big"] for ids in lists)
    assert len(upstream.calls) == 1


async def test_a_configured_model_is_retrieved_without_an_upstream_request(url, upstream):
    async with client_of(url) as client:
        assert (await client.models.retrieve("m")).owned_by == "tidegate"
    assert upstream.connections == 0
