"""How Tidegate treats its upstreams: keys, pools, timeouts, the next target, lists of models."""

import asyncio
import json

import openai
import pytest
from structlog.testing import capture_logs

from tests.fakes import proxy
from tests.fakes.upstream import SSE_HEAD, Call, ScenarioUpstream, answers, breaks_off, hangs, hangs_up, streams
from tests.fakes.wire import chunk, completion, event, text_stream

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def client_of(url: str, **headers: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="callers-own", max_retries=0, default_headers=headers)


@pytest.fixture
async def second():
    async with ScenarioUpstream().running() as running:
        yield running


async def test_the_request_goes_out_under_our_name_and_the_targets(url, upstream):
    """Callers' keys, cookies and SDK headers stay behind; nulls and engine-internal fields are left out."""
    upstream.play(answers(completion()))
    async with client_of(url, cookie="a=b", origin="http://evil") as client:
        await client.chat.completions.create(**ASK, temperature=None, extra_body={"top_k": 3, "request_id": "mine"})
    (call,) = upstream.calls
    sent = json.loads(call.body)
    assert sent == {"model": "there", "messages": ASK["messages"], "top_k": 3}
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


async def test_a_stream_always_asks_for_usage_and_hides_it(url, upstream):
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    upstream.play(streams(*text_stream("Hi", usage=usage)))
    async with client_of(url) as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**ASK, stream=True)]
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
            await client.chat.completions.create(**ASK | {"model": "host/x"})
    shown = [call.headers["authorization"] for call in upstream.calls]
    assert shown == ["Bearer key-one", "Bearer key-two", "Bearer key-one"]


async def test_connections_are_used_again(url, upstream):
    upstream.play(answers(completion()))
    async with client_of(url) as client:
        for _ in range(5):
            await client.chat.completions.create(**ASK)
    assert upstream.connections == 1


async def test_connections_are_used_again_after_streams(url, upstream):
    upstream.play(streams(*text_stream("Hi")))
    async with client_of(url) as client:
        for _ in range(5):
            async for _chunk in await client.chat.completions.create(**ASK, stream=True):
                pass
    assert upstream.connections == 1


async def test_a_stale_pooled_connection_is_tried_once_more_on_a_new_one(url, upstream):
    """The upstream closed it while it lay in the pool and our request crossed that."""

    async def closes_silently(call: Call) -> None:
        call.cut()

    upstream.play(answers(completion("one")), closes_silently, answers(completion("two")))
    async with client_of(url) as client:
        await client.chat.completions.create(**ASK)
        answer = await client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "two"
    assert len(upstream.calls) == 3


async def test_a_stale_connection_is_known_among_new_ones(url, upstream):
    """Others may connect while a request waits on the one that it has from the pool."""
    has_company = asyncio.Event()

    async def closes_silently_in_company(call: Call) -> None:
        await has_company.wait()
        call.cut()

    async def keeps_company(call: Call) -> None:
        has_company.set()
        await answers(completion("company"))(call)

    upstream.play(answers(completion("one")), closes_silently_in_company, keeps_company, answers(completion("two")))
    async with client_of(url) as client:
        await client.chat.completions.create(**ASK)
        stale = asyncio.create_task(client.chat.completions.create(**ASK))
        while len(upstream.calls) < 2:
            await upstream.next_call()
        await client.chat.completions.create(**ASK)
        answer = await stale
    assert answer.choices[0].message.content == "two"


async def test_a_new_connection_that_breaks_is_not_tried_again(url, upstream):
    """The upstream may have begun to work on the request."""
    upstream.play(hangs_up)
    async with client_of(url) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ASK)
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
        hangs_up,
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
    asked = ASK | {"model": "impatient" if script is hangs else "m"}
    if stream:
        made = await two_targets.chat.completions.create(**asked, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in made])
    else:
        text = (await two_targets.chat.completions.create(**asked)).choices[0].message.content
    assert text == "from b"
    assert json.loads(second.calls[0].body)["model"] == "b"


async def test_a_refused_connection_moves_on(two_targets, second):
    second.play(answers(completion("from b")))
    answer = await two_targets.chat.completions.create(**ASK | {"model": "c"})
    assert answer.choices[0].message.content == "from b"


async def test_the_callers_own_mistake_is_not_tried_elsewhere(two_targets, upstream, second):
    upstream.play(answers(b'{"error": {"message": "bad", "param": "seed"}}', status=400))
    with pytest.raises(openai.BadRequestError) as caught:
        await two_targets.chat.completions.create(**ASK)
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
async def test_a_stream_that_fails_before_its_first_content_is_tried_elsewhere(two_targets, upstream, second, script):
    """A role is said in advance by hosts that may fail yet."""
    upstream.play(script)
    second.play(streams(*text_stream("from b")))
    asked = ASK | {"model": "impatient" if script is says_a_role_and_hangs else "m"}
    made = await two_targets.chat.completions.create(**asked, stream=True)
    pieces = [piece.choices[0].delta async for piece in made]
    assert [piece.role for piece in pieces if piece.role] == ["assistant"]
    assert "".join(piece.content or "" for piece in pieces) == "from b"


async def test_a_stream_without_a_word_that_ends_in_good_order_is_an_answer(two_targets, upstream, second):
    upstream.play(streams(*text_stream()))
    made = await two_targets.chat.completions.create(**ASK, stream=True)
    assert [piece.choices[0].finish_reason async for piece in made] == [None, "stop"]
    assert second.calls == []


async def test_after_the_first_content_nothing_is_tried_elsewhere(two_targets, upstream, second):
    async def begins_and_breaks(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.go.wait()
        call.cut()

    upstream.play(begins_and_breaks)
    with pytest.raises(openai.APIError):
        async for _ in await two_targets.chat.completions.create(**ASK, stream=True):
            upstream.calls[-1].go.set()
    assert second.calls == []


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_a_silent_upstream_is_a_504(two_targets, upstream, stream):
    upstream.play(hangs)
    with pytest.raises(openai.InternalServerError) as caught:
        await two_targets.chat.completions.create(**ASK | {"model": "alone"}, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    for call in upstream.calls:
        await call.gone.wait()


async def test_an_upstream_that_falls_silent_in_the_middle_is_told_in_band(two_targets, upstream):
    async def begins_and_hangs(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.event(chunk({"content": "Hi"}))
        await call.gone.wait()

    upstream.play(begins_and_hangs)
    with pytest.raises(openai.APIError) as caught:
        async for _ in await two_targets.chat.completions.create(**ASK | {"model": "alone"}, stream=True):
            pass
    assert caught.value.code == "upstream_timeout"


async def test_an_event_without_an_end_is_given_up(url, upstream):
    async def endless(call: Call) -> None:
        await call.write(SSE_HEAD)
        await call.chunk(b"data: ")
        while not call.gone.is_set():
            await call.chunk(b"x" * 1_000_000)

    upstream.play(endless)
    async with client_of(url) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ASK, stream=True)
    assert caught.value.code == "upstream_failed"


@pytest.mark.parametrize(("dialect", "header"), [("generic", "x-request-id"), ("openrouter", "x-generation-id")])
async def test_a_hosts_own_id_of_a_request_is_logged_and_goes_no_further(upstream, dialect, header):
    """Row 178: its support will ask for it; the caller's id is ours."""
    head = f"{header}: theirs-1\r\n".encode()
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", dialect: {dialect}}}}}'
    upstream.play(answers(b"{}", status=500, head=head), answers(completion(), head=head))
    with capture_logs() as lines:
        async with proxy.serving(config) as url, client_of(url) as client:
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(**ASK | {"model": "host/x"})
            answer = await client.chat.completions.with_raw_response.create(**ASK | {"model": "host/x"})
    assert [line["upstream_request_id"] for line in lines if line["event"] in {"request", "upstream failed"}] == [
        "theirs-1",
        "theirs-1",
        "theirs-1",
    ]
    assert "theirs-1" not in str(answer.headers)


async def test_a_key_in_a_hosts_own_id_of_a_request_is_not_logged(upstream, monkeypatch):
    monkeypatch.setenv("HOST_KEY", "sk-of-the-host")
    config = f'upstreams: {{host: {{base_url: "{upstream.url}", api_keys: ["env:HOST_KEY"]}}}}'
    upstream.play(answers(completion(), head=b"x-request-id: for sk-of-the-host\r\n"))
    with capture_logs() as lines:
        async with proxy.serving(config) as url, client_of(url) as client:
            await client.chat.completions.create(**ASK | {"model": "host/x"})
    assert [line["upstream_request_id"] for line in lines if line["event"] == "request"] == ["for ***"]


# --- names --------------------------------------------------------------------------------------------------------

LIST = answers(b'{"object": "list", "data": [{"id": "org/big", "max_model_len": 4096, "permission": []}, {"id": "m"}]}')


async def test_a_prefix_names_the_upstream(url, upstream):
    upstream.play(answers(completion()))
    async with client_of(url) as client:
        answer = await client.chat.completions.create(**ASK | {"model": "host/org/some-model"})
    assert json.loads(upstream.calls[0].body)["model"] == "org/some-model"
    assert answer.model == "host/org/some-model"


async def test_a_name_that_an_upstream_lists_goes_there(url, upstream):
    upstream.play(LIST, answers(completion()))
    async with client_of(url) as client:
        await client.chat.completions.create(**ASK | {"model": "org/big"})
        await client.chat.completions.create(**ASK | {"model": "org/big"})
    assert [(call.method, call.path) for call in upstream.calls] == [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions"),
    ]


async def test_models_are_the_configured_ones_and_the_listed_ones_once_each(url, upstream):
    upstream.play(LIST)
    async with client_of(url) as client:
        cards = [card async for card in client.models.list()]
        big = await client.models.retrieve("org/big")
    assert [(card.id, card.owned_by) for card in cards] == [("m", "tidegate"), ("org/big", "host")]
    assert big.model_extra == {"max_model_len": 4096}


async def test_an_upstream_that_cannot_list_is_not_waited_for_by_others(upstream, second):
    config = f"""
upstreams:
  dead: {{base_url: "http://127.0.0.1:9/v1"}}
  alive: {{base_url: "{second.url}"}}
"""
    second.play(LIST)
    async with proxy.serving(config) as url, client_of(url) as client:
        assert [card.id async for card in client.models.list()] == ["org/big", "m"]


async def test_nobody_asks_an_upstream_at_start(url, upstream):
    """Start-up never waits for a host."""
    assert upstream.connections == 0


async def test_many_who_ask_at_once_are_one_question(url, upstream):
    upstream.play(LIST)
    async with client_of(url) as client:

        async def ids() -> list[str]:
            return [card.id async for card in client.models.list()]

        lists = await asyncio.gather(*(ids() for _ in range(8)))
    assert all(ids == ["m", "org/big"] for ids in lists)
    assert len(upstream.calls) == 1


async def test_a_configured_model_is_told_without_asking_anybody(url, upstream):
    async with client_of(url) as client:
        assert (await client.models.retrieve("m")).owned_by == "tidegate"
    assert upstream.connections == 0
