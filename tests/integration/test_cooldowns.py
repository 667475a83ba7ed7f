"""A host that asks to wait gets no requests for that time, except for a single trial."""

import asyncio
import json

import openai
import pytest

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import Call, ScenarioUpstream, Script, answers, streams
from tests.fakes.wire import completion, text_stream

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BUSY = json.dumps({"error": {"message": "Try again later.", "type": "server_error"}}).encode()
LIMIT_S = 30
STATUSES = [429, 503]
ROUTING = "routing: {retry: {repeats: 0}, health: {probe: false, max_cooldown_s: 1000}}"


def busy(status: int, *headers: bytes) -> Script:
    return answers(BUSY, status=status, head=b"".join(b"%b\r\n" % header for header in headers))


def well(*, stream: bool) -> Script:
    return streams(*text_stream("fine")) if stream else answers(completion("fine"))


def waits_for_go(script: Script) -> Script:
    """The script, which answers when the test sets `go`."""

    async def waiting(call: Call) -> None:
        await call.go.wait()
        await script(call)

    return waiting


@pytest.fixture
def clock():
    return FakeClock(now_s=1792567680.0)  # Wed, 21 Oct 2026 07:28:00 GMT


@pytest.fixture
def stage(upstream, clock):
    """Tidegate with one model at the scenario upstream; time moves only when the test advances the clock."""
    config = f"""
{ROUTING}
upstreams: {{host: {{base_url: "{upstream.url}"}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""
    return proxy.running_app(config, clock=clock)


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)


async def ask(client: openai.AsyncOpenAI, *, stream: bool = False, model: str = "m") -> int:
    """The status of the answer."""
    try:
        answer = await client.chat.completions.create(**ASK | {"model": model}, stream=stream)
        if stream:
            assert [chunk async for chunk in answer]
    except openai.APIStatusError as error:
        return error.status_code
    return 200


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("status", STATUSES)
async def test_a_host_gets_no_requests_for_as_long_as_it_asked(upstream, stage, clock, status, stream):
    upstream.play(busy(status, b"retry-after: 30"), well(stream=stream))
    async with stage as (url, _), client_of(url) as client:
        assert await ask(client, stream=stream) == status
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**ASK, stream=stream)
        assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (status, "30")
        assert len(upstream.calls) == 1
        clock.advance(30)
        assert await ask(client, stream=stream) == 200


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("status", STATUSES)
async def test_during_a_long_wait_a_single_request_is_sent_as_the_trial(upstream, stage, clock, status, stream):
    upstream.play(busy(status, b"retry-after: 600"), waits_for_go(well(stream=stream)), well(stream=stream))
    async with stage as (url, _), client_of(url) as client:
        assert await ask(client, stream=stream) == status
        clock.advance(59)
        assert await ask(client, stream=stream) == status
        assert len(upstream.calls) == 1
        clock.advance(1)
        unfinished = {asyncio.create_task(ask(client, stream=stream)) for _ in range(20)}
        while len(unfinished) > 1:
            done, unfinished = await asyncio.wait(unfinished, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result() for task in done} == {status}
        assert len(upstream.calls) == 2
        upstream.calls[1].go.set()
        assert await unfinished.pop() == 200
        assert [await ask(client, stream=stream) for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("again", [600, 20])
@pytest.mark.parametrize("status", STATUSES)
async def test_the_answer_to_the_trial_replaces_the_wait(upstream, stage, clock, status, again):
    upstream.play(busy(status, b"retry-after: 600"), busy(status, b"retry-after: %d" % again), well(stream=False))
    async with stage as (url, _), client_of(url) as client:
        assert await ask(client) == status
        clock.advance(60)
        assert await ask(client) == status
        assert len(upstream.calls) == 2
        clock.advance(19 if again == 20 else 59)
        if again == 20:  # a trial during the wait, after ejection_s (5 s)
            assert await ask(client) == 200
            return
        assert await ask(client) == status
        assert len(upstream.calls) == 2
        clock.advance(1)
        assert await ask(client) == 200


@pytest.mark.parametrize("status", STATUSES)
async def test_a_trial_without_an_outcome_leaves_the_cooldown(upstream, stage, clock, status):
    """The caller of the trial disconnected, or sent a bad request."""
    upstream.play(
        busy(status, b"retry-after: 600"), waits_for_go(well(stream=False)), busy(400), busy(500), well(stream=False)
    )
    async with stage as (url, _), client_of(url) as client:
        assert await ask(client) == status
        upstream._arrived.clear()
        clock.advance(60)
        leaving = asyncio.create_task(ask(client))
        call = await upstream.next_call()
        leaving.cancel()
        async with asyncio.timeout(LIMIT_S):
            await call.gone.wait()
        await asyncio.gather(leaving, return_exceptions=True)
        for expected in (400, 502):
            assert await ask(client) == status
            clock.advance(60)
            assert await ask(client) == expected
        assert await ask(client) == status
        clock.advance(60)
        assert await ask(client) == await ask(client) == 200


@pytest.mark.parametrize("status", STATUSES)
async def test_no_wait_is_longer_than_the_config_allows(upstream, stage, clock, status):
    upstream.play(busy(status, b"retry-after: 1000000"), waits_for_go(well(stream=False)), well(stream=False))
    async with stage as (url, _), client_of(url) as client:
        assert await ask(client) == status
        clock.advance(1000)
        upstream.play(well(stream=False))
        assert await asyncio.gather(*(ask(client) for _ in range(5))) == [200] * 5


@pytest.mark.parametrize("date", [b"", b"date: Wednesday, 21-Oct-26 08:28:00 GMT"], ids=["no Date", "a Date"])
@pytest.mark.parametrize(
    "date_format", [b"Wed, 21 Oct 2026 %d:28:20 GMT", b"Wednesday, 21-Oct-26 %d:28:20 GMT", b"Wed Oct 21 %d:28:20 2026"]
)
@pytest.mark.parametrize(
    ("status", "header"), [(429, b"retry-after"), (503, b"retry-after"), (429, b"x-ratelimit-reset")]
)
async def test_a_wait_may_be_a_date(upstream, stage, clock, status, header, date_format, date):
    """By the host's clock, if its Date header is known."""
    text = (date_format % (8 if date else 7)).replace(b" 7:", b" 07:").replace(b" 8:", b" 08:")
    upstream.play(busy(status, header + b": " + text, *([date] if date else [])), well(stream=False))
    async with stage as (url, _), client_of(url) as client:
        assert await ask(client) == status
        clock.advance(4.9)  # a single request may be sent after 5
        assert await ask(client) == status
        clock.advance(15.1)
        assert await asyncio.gather(ask(client), ask(client)) == [200, 200]
    assert len(upstream.calls) == 3


@pytest.mark.parametrize("status", STATUSES)
async def test_the_next_target_answers_and_only_the_failed_one_is_in_cooldown(upstream, clock, status):
    upstream.play(busy(status, b"retry-after: 600"), well(stream=False))
    other = ScenarioUpstream()
    other.play(well(stream=False))
    async with other.running():
        config = f"""
{ROUTING}
upstreams: {{first: {{base_url: "{upstream.url}"}}, second: {{base_url: "{other.url}"}}}}
models:
  m: {{targets: [{{upstream: first, model: a}}, {{upstream: second, model: b}}]}}
  n: {{targets: [{{upstream: first, model: c}}]}}
"""
        async with proxy.running_app(config, clock=clock) as (url, _), client_of(url) as client:
            assert [await ask(client) for _ in range(3)] == [200] * 3
            assert (len(upstream.calls), len(other.calls)) == (1, 3)
            # a key's limit applies to all models, an overload to one
            assert await ask(client, model="n") == (200 if status == 503 else 429)


async def test_keys_of_one_account_are_limited_together(upstream, clock, tmp_path):
    """The text of the host's error does not matter."""
    for name in "ab":
        (tmp_path / name).write_text(f"key-{name}")
    upstream.play(busy(429, b"retry-after: 30"), well(stream=False))
    keys = ", ".join(f'{{kind: api_key, key: "file:{tmp_path}/{name}", account: ours}}' for name in "ab")
    config = f"""
{ROUTING}
upstreams: {{host: {{base_url: "{upstream.url}", credentials: [{keys}]}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""
    async with proxy.running_app(config, clock=clock) as (url, _), client_of(url) as client:
        assert await ask(client) == await ask(client) == 429
        assert len(upstream.calls) == 1
        clock.advance(30)
        assert await ask(client) == 200


async def test_an_ejected_target_is_not_probed_during_its_cooldown(upstream, clock):
    """In a long cooldown the probe is the trial."""
    upstream.play(busy(503, b"retry-after: 600"), answers(b"{}"), busy(503, b"retry-after: 100"), well(stream=False))
    config = f"""
routing: {{retry: {{repeats: 0}}, health: {{failures: 1}}}}
upstreams: {{host: {{base_url: "{upstream.url}"}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""
    async with proxy.running_app(config, clock=clock) as (url, app), client_of(url) as client:
        prober = app._runtime.prober
        assert await ask(client) == 503
        for seconds in (0, 59):
            clock.advance(seconds)
            await prober.probe_now()
        assert len(upstream.calls) == 1
        clock.advance(1)
        await prober.probe_now()
        assert [call.path for call in upstream.calls[1:]] == ["/v1/models", "/v1/chat/completions"]
        clock.advance(9)  # the probe's Retry-After counts: the next trial is after a tenth of 100 s
        await prober.probe_now()
        assert await ask(client) == 503
        assert len(upstream.calls) == 3
        clock.advance(1)
        await prober.probe_now()
        assert await ask(client) == 200


async def test_the_administrator_sees_cooldowns(upstream, stage, clock):
    upstream.play(busy(503, b"retry-after: 30"))
    async with stage as (url, app), client_of(url) as client:
        assert await ask(client) == 503
        (report,) = app._runtime.services.explainer.configured().targets
    assert report.limited_for_s == 30
