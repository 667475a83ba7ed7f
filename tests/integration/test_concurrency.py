"""The concurrency limit over real sockets: which requests get a slot, wait (in which order), or are refused."""

import asyncio
import json
from contextlib import asynccontextmanager

import openai
import pytest

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import SSE_HEAD, Call, ScenarioUpstream, answers
from tests.fakes.wire import chunk, completion

LONG_TIMEOUT = {"queue_timeout_s": 60}
CALLERS = {"alice": "default", "bob": "default", "urgent": "interactive", "night": "batch"}


async def answers_on_go(call: Call) -> None:
    """Answer with the request's prompt, when the test sets `go`."""
    await call.go.wait()
    await answers(completion(prompt(call)))(call)


async def starts_on_go(call: Call) -> None:
    await call.go.wait()
    await starts_and_hangs(call)


async def starts_and_hangs(call: Call) -> None:
    await call.write(SSE_HEAD)
    await call.event(chunk({"role": "assistant", "content": "first"}))
    await call.gone.wait()


def prompt(call: Call) -> str:
    return json.loads(call.body)["messages"][0]["content"]


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        running.play(answers_on_go)
        yield running


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """Each caller's key is its name."""
    for name in CALLERS:
        monkeypatch.setenv(f"{name.upper()}_KEY", name)


def config(upstream, other=None, *, second=None, model=None, **concurrency):
    """A config for the tests: model `one` is at the first host only, `m` at the second too.

    The first host has one slot, or the settings in `concurrency`.
    """
    first = {"base_url": upstream.url, "concurrency": {"limit": 1, "queue_timeout_s": 60} | concurrency}
    targets = [{"upstream": "first", "model": "a"}]
    models = {"one": {"targets": targets} | (model or {})}
    upstreams = {"first": first}
    if other is not None:
        upstreams["second"] = {"base_url": other.url} | (second or {})
        models["m"] = {"targets": [*targets, {"upstream": "second", "model": "b"}]}
    callers = {name: {"key": f"env:{name.upper()}_KEY", "priority": CALLERS[name]} for name in CALLERS}
    return json.dumps({"upstreams": upstreams, "models": models, "auth": {"callers": callers}})


class Stage:
    """Tidegate, a client, and Tidegate's concurrency limits, by whose numbers a test waits."""

    def __init__(self, app, client):
        self._app = app
        self.limits = app._concurrency
        self.client = client

    async def ask(self, text="Hi", caller="alice", **fields):
        client = self.client.with_options(api_key=caller)
        defaults = {"model": "one", "messages": [{"role": "user", "content": text}]}
        return await client.chat.completions.with_raw_response.create(**defaults | fields)

    async def say(self, text="Hi", caller="alice", **fields):
        """The text of the answer, or the stream once it has begun."""
        answer = (await self.ask(text, caller, **fields)).parse()
        return answer if isinstance(answer, openai.AsyncStream) else answer.choices[0].message.content

    async def reaches_host(self, upstream, text="Hi", caller="alice", **fields):
        """A task whose request has reached the host."""
        calls_before = len(upstream.calls)
        pending = asyncio.create_task(self.say(text, caller, **fields))
        await until(lambda: len(upstream.calls) > calls_before)
        return pending

    async def queues(self, text="Hi", caller="alice", *, target="first", **fields):
        """A task whose request waits for a slot."""
        waiting = self.limits[target].waiting
        pending = asyncio.create_task(self.say(text, caller, **fields))
        await until(lambda: self.limits[target].waiting > waiting)
        return pending

    async def refusal(self, text="Hi", caller="alice", **fields):
        with pytest.raises(openai.APIStatusError) as caught:
            await self.ask(text, caller, **fields)
        return caught.value

    def engine_is_ready(self, name):
        return self._app.engines.by_name[name].engine.status.state == "ready"

    def numbers(self, target="first"):
        return self.limits[target].in_flight, self.limits[target].waiting


@asynccontextmanager
async def running_app(text, **options):
    async with (
        proxy.running_app(text, **options) as (url, app),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="alice", max_retries=0) as client,
    ):
        yield Stage(app, client)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0)


async def served(upstream, pending):
    """Let the host answer one request after the other; returns their prompts, in order.

    Fails if the host ever has two requests at once.
    """
    for number in range(len(pending)):
        await until(lambda number=number: len(upstream.calls) > number)
        assert len(upstream.calls) == number + 1
        upstream.calls[number].go.set()
    await asyncio.gather(*pending)
    return [prompt(call) for call in upstream.calls]


def assert_busy(refusal, text):
    assert (refusal.status_code, refusal.type, refusal.code) == (429, "rate_limit_error", "target_busy")
    assert int(refusal.response.headers["retry-after"]) >= 1
    assert text in refusal.message


# --- in which order -----------------------------------------------------------------------------------------------


async def test_one_slot_is_used_by_one_request_after_the_other_and_callers_take_turns(upstream):
    """Alice's five requests came first; Bob's, which came after them, is next but one."""
    upstream.play(answers_on_go)
    async with running_app(config(upstream)) as stage:
        pending = [await stage.reaches_host(upstream, "a0")]
        pending += [await stage.queues(f"a{number}") for number in range(1, 5)]
        pending += [await stage.queues(f"b{number}", "bob") for number in (1, 2)]
        assert stage.numbers() == (1, 6)
        assert await served(upstream, pending) == ["a0", "a1", "b1", "a2", "b2", "a3", "a4"]
        await until(lambda: stage.numbers() == (0, 0))


async def test_fairness_counts_tokens_and_not_requests(upstream):
    """Alice allows answers four times as long as Bob's."""
    upstream.play(answers_on_go)
    async with running_app(config(upstream)) as stage:
        pending = [await stage.reaches_host(upstream, "a0")]
        pending += [await stage.queues(f"a{number}", max_tokens=200) for number in (1, 2)]
        pending += [await stage.queues(f"b{number}", "bob", max_tokens=50) for number in (1, 2, 3, 4)]
        assert await served(upstream, pending) == ["a0", "a1", "b1", "b2", "b3", "b4", "a2"]


async def test_urgent_requests_come_first_and_batch_requests_last_but_do_not_starve(upstream):
    """One of each class; then three more urgent ones, before default's share makes it the next."""
    upstream.play(answers_on_go)
    async with running_app(config(upstream)) as stage:
        pending = [await stage.reaches_host(upstream, "first")]
        pending += [await stage.queues(text, "night") for text in ("n1", "n2")]
        pending += [await stage.queues(text, "alice") for text in ("a1", "a2")]
        pending += [await stage.queues(text, "urgent") for text in ("u1", "u2", "u3", "u4")]
        assert await served(upstream, pending) == ["first", "u1", "a1", "n1", "u2", "u3", "u4", "a2", "n2"]


@pytest.mark.parametrize(
    ("caller", "headers", "order"),
    [
        ("urgent", {"x-tidegate-priority": "batch"}, ["first", "waits", "asks"]),
        ("urgent", {}, ["first", "asks", "waits"]),
        ("bob", {"x-tidegate-priority": "interactive"}, ["first", "waits", "asks"]),
    ],
    ids=["a lower priority", "the key's priority", "a higher priority"],
)
async def test_a_caller_may_lower_the_priority_of_its_key_but_not_raise_it(upstream, caller, headers, order):
    upstream.play(answers_on_go)
    async with running_app(config(upstream)) as stage:
        pending = [await stage.reaches_host(upstream, "first"), await stage.queues("waits")]
        pending.append(await stage.queues("asks", caller, extra_headers=headers))
        assert await served(upstream, pending) == order


async def test_batch_leaves_a_slot_for_urgent_requests(upstream):
    upstream.play(answers_on_go)
    async with running_app(config(upstream, limit=10)) as stage:
        pending = [await stage.reaches_host(upstream, f"night{number}", "night") for number in range(9)]
        pending.append(await stage.queues("night9", "night"))
        pending.append(await stage.reaches_host(upstream, "now", "urgent"))
        assert stage.numbers() == (10, 1)
        for call in upstream.calls:
            call.go.set()
        await until(lambda: len(upstream.calls) == 11)
        upstream.calls[-1].go.set()
        assert (await asyncio.gather(*pending))[-1] == "now"


# --- other targets ------------------------------------------------------------------------------------------------


async def test_while_the_first_target_is_full_the_next_answers_at_once(upstream, other):
    """No request waits, and a full target does not count as an attempt; when it has a slot again, it is first again."""
    upstream.play(answers_on_go)
    async with running_app(config(upstream, other)) as stage:
        first = await stage.reaches_host(upstream, "first", model="m")
        second = asyncio.create_task(stage.ask("second", model="m"))
        call = await other.next_call()
        assert stage.numbers() == (1, 0)
        call.go.set()
        headers = (await second).headers
        assert (headers["x-tidegate-target"], headers["x-tidegate-attempts"]) == ("second/b", "1")
        upstream.calls[0].go.set()
        assert await first == "first"
        await until(lambda: stage.numbers() == (0, 0))
        third = await stage.reaches_host(upstream, "third", model="m")
        upstream.calls[1].go.set()
        assert await third == "third"
    assert len(other.calls) == 1


async def test_when_all_targets_are_full_a_request_waits_for_the_preferred_one(upstream, other):
    upstream.play(answers_on_go)
    async with running_app(config(upstream, other, second={"concurrency": {"limit": 1}})) as stage:
        first = await stage.reaches_host(upstream, "first", model="m")
        second = await stage.reaches_host(other, "second", model="m")
        third = await stage.queues("third", model="m")
        assert (stage.numbers("first"), stage.numbers("second")) == ((1, 1), (1, 0))
        upstream.calls[0].go.set()
        await until(lambda: len(upstream.calls) == 2)
        upstream.calls[1].go.set()
        other.calls[0].go.set()
        assert await asyncio.gather(first, second, third) == ["first", "second", "third"]


async def healthy_and_answers_on_go(call: Call) -> None:
    """An engine whose health check succeeds, and which answers when the test sets `go`."""
    await (answers(b"") if call.method == "GET" else answers_on_go)(call)


@asynccontextmanager
async def app_with_engine(engine, other, **model):
    """`m` is at an engine with one slot and a queue of one, then at the second host."""
    engine.play(healthy_and_answers_on_go)
    near = {"kind": "external", "base_url": engine.url, "concurrency": {"limit": 1, "queue": 1} | LONG_TIMEOUT}
    targets = [{"engine": "near", "model": "a"}, {"upstream": "second", "model": "b"}]
    text = {
        "engines": {"near": near},
        "upstreams": {"second": {"base_url": other.url}},
        "models": {"m": {"policy": "local_first", "targets": targets} | model},
    }
    async with running_app(json.dumps(text)) as stage:
        await until(lambda: stage.engine_is_ready("near"))
        yield stage


def callers_requests(engine):
    """The requests that callers have sent to the engine, without health checks."""
    return [call for call in engine.calls if call.method == "POST"]


async def test_local_first_waits_in_the_engines_queue_while_that_has_room(upstream, other):
    """Full slots are no reason to go to a hosted upstream; a full queue is."""
    async with app_with_engine(upstream, other) as stage:
        first = asyncio.create_task(stage.say("first", model="m"))
        await until(lambda: callers_requests(upstream))
        second = await stage.queues("second", model="m", target="near")
        third = asyncio.create_task(stage.say("third", model="m"))
        (await other.next_call()).go.set()
        assert await third == "third"
        assert stage.numbers("near") == (1, 1)
        callers_requests(upstream)[0].go.set()
        await until(lambda: len(callers_requests(upstream)) == 2)
        callers_requests(upstream)[1].go.set()
        assert await asyncio.gather(first, second) == ["first", "second"]
    assert len(other.calls) == 1


async def test_local_first_waits_in_the_queue_no_longer_than_overflow_ttft_s(upstream, other):
    async with app_with_engine(upstream, other, overflow_ttft_s=0.05) as stage:
        first = asyncio.create_task(stage.say("first", model="m"))
        await until(lambda: callers_requests(upstream))
        second = await stage.queues("second", model="m", target="near")
        (await other.next_call()).go.set()
        assert await second == "second"
        callers_requests(upstream)[0].go.set()
        assert await first == "first"
    assert len(callers_requests(upstream)) == 1


async def test_when_one_target_is_full_and_the_other_fails_a_retry_is_allowed(upstream, other):
    """The error is that of the failure, with the time until the full one has a slot."""
    other.play(answers(b'{"error": {"message": "broken"}}', status=500))
    async with app_with_engine(upstream, other) as stage:
        pending = [asyncio.create_task(stage.say(text, model="m")) for text in ("first", "second")]
        await until(lambda: stage.numbers("near") == (1, 1))
        refusal = await stage.refusal("third", model="m")
        assert (refusal.status_code, "broken" in refusal.message) == (502, True)
        headers = refusal.response.headers
        assert (headers["retry-after"], headers["x-tidegate-target"]) == ("1", "second/b")
        assert "x-should-retry" not in headers
        callers_requests(upstream)[0].go.set()
        await until(lambda: len(callers_requests(upstream)) == 2)
        callers_requests(upstream)[1].go.set()
        await asyncio.gather(*pending)


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_a_429_with_retry_after(upstream):
    upstream.play(answers_on_go)
    async with running_app(config(upstream, queue=1)) as stage:
        pending = [await stage.reaches_host(upstream, "first"), await stage.queues("second")]
        assert_busy(await stage.refusal("third"), "first has no free slot, and its queue is full")
        assert await served(upstream, pending) == ["first", "second"]


async def test_a_stream_is_also_refused_by_its_status(upstream):
    upstream.play(answers_on_go)
    async with running_app(config(upstream, queue=0)) as stage:
        pending = [await stage.reaches_host(upstream, "first")]
        assert_busy(await stage.refusal("second", stream=True), "its queue is full")
        assert await served(upstream, pending) == ["first"]


async def test_a_full_queue_makes_room_for_a_more_urgent_request(upstream):
    """The displaced batch request is refused."""
    upstream.play(answers_on_go)
    async with running_app(config(upstream, queue=1)) as stage:
        pending = [await stage.reaches_host(upstream, "first")]
        displaced = asyncio.create_task(stage.refusal("second", "night"))
        await until(lambda: stage.numbers() == (1, 1))
        pending.append(asyncio.create_task(stage.say("third", "urgent")))
        assert_busy(await displaced, "its queue is full")
        assert await served(upstream, pending) == ["first", "third"]


@pytest.mark.parametrize(
    ("concurrency", "model", "headers"),
    [
        ({"queue_timeout_s": 0.05}, {}, {}),
        ({}, {"deadline_s": 0.05}, {}),
        ({}, {}, {"x-stainless-read-timeout": "0.05"}),
    ],
    ids=["the queue's", "the model's", "the caller's"],
)
async def test_no_request_waits_longer_than_the_shortest_of_its_limits(upstream, concurrency, model, headers):
    upstream.play(starts_and_hangs)
    async with running_app(config(upstream, model=model, **concurrency)) as stage:
        stream = await stage.say(stream=True, model="first/a")  # this model has none of these limits
        refusal = await stage.refusal(extra_headers=headers)
        # the model's deadline ends all attempts too: either error may come first
        if refusal.code != "upstream_timeout" or not model:
            assert_busy(refusal, "first had no free slot in time")
        assert (stage.numbers(), len(upstream.calls)) == ((1, 0), 1)
        await stream.close()


# --- cancelled requests -------------------------------------------------------------------------------------------


async def test_a_request_cancelled_while_it_waits_leaves_the_queue_and_never_reaches_the_host(upstream):
    upstream.play(answers_on_go)
    async with running_app(config(upstream, queue=1)) as stage:
        pending = [await stage.reaches_host(upstream, "first")]
        leaving = await stage.queues("second")
        leaving.cancel()
        await until(lambda: stage.numbers() == (1, 0))
        pending.append(await stage.queues("third"))
        assert await served(upstream, pending) == ["first", "third"]


@pytest.mark.parametrize("stream", [True, False], ids=["mid-stream", "unary"])
async def test_the_slot_of_a_cancelled_request_goes_to_the_next(upstream, stream):
    upstream.play(starts_and_hangs if stream else answers_on_go, answers_on_go)
    async with running_app(config(upstream)) as stage:
        leaving = await stage.reaches_host(upstream, "first", stream=stream)
        if stream:
            await leaving
        pending = await stage.queues("second")
        await cancelled(leaving)
        await until(lambda: len(upstream.calls) == 2)
        upstream.calls[1].go.set()
        assert await pending == "second"
        await until(lambda: stage.numbers() == (0, 0))


async def cancelled(*tasks):
    """Cancel the tasks, and close the streams of those that have begun."""
    for task in tasks:
        task.cancel()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(answer, openai.AsyncStream):
            await answer.close()


async def test_a_failed_request_releases_its_slot(upstream):
    upstream.play(answers(b'{"error": {"message": "no"}}', status=500), answers_on_go)
    async with running_app(config(upstream)) as stage:
        assert (await stage.refusal()).status_code == 502
        assert stage.numbers() == (0, 0)
        pending = await stage.reaches_host(upstream, "again")
        upstream.calls[-1].go.set()
        assert await pending == "again"


# --- an adaptive limit --------------------------------------------------------------------------------------------


async def test_an_adaptive_limit_begins_at_twenty_and_learns_from_first_tokens(upstream):
    """Ten began equally fast with all slots taken, so the limit grows."""
    clock = FakeClock()
    upstream.play(starts_on_go)
    async with running_app(config(upstream, limit="adaptive"), clock=clock) as stage:
        pending = [await stage.reaches_host(upstream, stream=True) for _ in range(20)]
        pending += [await stage.queues(stream=True) for _ in range(3)]
        assert (stage.limits["first"].limit, stage.numbers()) == (20, (20, 3))
        clock.advance(0.5)
        for call in upstream.calls[:10]:
            call.go.set()
        await until(lambda: len(upstream.calls) == 22)
        assert (stage.limits["first"].limit, stage.numbers()) == (22, (22, 1))
        await cancelled(*pending)
        await until(lambda: stage.numbers() == (0, 0))


async def test_an_adaptive_limit_learns_from_unstreamed_answers_too(upstream):
    """Their first tokens are not seen: the times are estimated."""
    clock = FakeClock()
    upstream.play(answers_on_go)
    async with running_app(config(upstream, limit="adaptive"), clock=clock) as stage:
        pending = [await stage.reaches_host(upstream) for _ in range(20)]
        pending += [await stage.queues() for _ in range(3)]
        clock.advance(0.5)
        for call in upstream.calls[:10]:
            call.go.set()
        await until(lambda: stage.limits["first"].limit == 22)
        await cancelled(*pending)
        await until(lambda: stage.numbers() == (0, 0))
