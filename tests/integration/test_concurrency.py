"""Who is let in at a target, who waits, in which order, and who is told to come again: over real sockets."""

import asyncio
import json
from contextlib import asynccontextmanager

import openai
import pytest

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import SSE_HEAD, Call, ScenarioUpstream, answers
from tests.fakes.wire import chunk, completion

WAITS_LONG = {"queue_timeout_s": 60}
CALLERS = {"alice": "default", "bob": "default", "urgent": "interactive", "night": "batch"}


async def holds(call: Call) -> None:
    """The answer is what was asked, as soon as the test lets it go."""
    await call.go.wait()
    await answers(completion(prompt(call)))(call)


async def starts_when_told(call: Call) -> None:
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
        running.play(holds)
        yield running


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """Each caller's key is its name."""
    for name in CALLERS:
        monkeypatch.setenv(f"{name.upper()}_KEY", name)


def config(upstream, other=None, *, second=None, model=None, **concurrency):
    """`one` is at the first host alone, `m` at the second too; the first has one place, or as `concurrency` says."""
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
    """Tidegate, a client, and the limits inside, which tell how far it has come."""

    def __init__(self, app, client):
        self._app = app
        self.limits = app._concurrency
        self.client = client

    async def ask(self, text="Hi", caller="alice", **fields):
        client = self.client.with_options(api_key=caller)
        asked = {"model": "one", "messages": [{"role": "user", "content": text}]}
        return await client.chat.completions.with_raw_response.create(**asked | fields)

    async def say(self, text="Hi", caller="alice", **fields):
        """The text of the answer, or the stream, which has begun."""
        told = (await self.ask(text, caller, **fields)).parse()
        return told if isinstance(told, openai.AsyncStream) else told.choices[0].message.content

    async def goes_in(self, upstream, text="Hi", caller="alice", **fields):
        """One whose request has reached the host."""
        there = len(upstream.calls)
        asking = asyncio.create_task(self.say(text, caller, **fields))
        await until(lambda: len(upstream.calls) > there)
        return asking

    async def queues(self, text="Hi", caller="alice", *, gate="first", **fields):
        """One who waits for a place."""
        waiting = self.limits[gate].waiting
        asking = asyncio.create_task(self.say(text, caller, **fields))
        await until(lambda: self.limits[gate].waiting > waiting)
        return asking

    async def refusal(self, text="Hi", caller="alice", **fields):
        with pytest.raises(openai.APIStatusError) as caught:
            await self.ask(text, caller, **fields)
        return caught.value

    def engine_is_ready(self, name):
        return self._app.engines.by_name[name].engine.status.state == "ready"

    def numbers(self, gate="first"):
        return self.limits[gate].in_flight, self.limits[gate].waiting


@asynccontextmanager
async def running_app(text, **options):
    async with (
        proxy.running_app(text, **options) as (url, app),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="alice", max_retries=0) as client,
    ):
        yield Stage(app, client)


async def until(is_so):
    while not is_so():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


async def served(upstream, asking):
    """Lets the host answer one after the other; what it was asked, in order. It never has two at once."""
    for number in range(len(asking)):
        await until(lambda number=number: len(upstream.calls) > number)
        assert len(upstream.calls) == number + 1
        upstream.calls[number].go.set()
    await asyncio.gather(*asking)
    return [prompt(call) for call in upstream.calls]


def assert_busy(refusal, words):
    assert (refusal.status_code, refusal.type, refusal.code) == (429, "rate_limit_error", "target_busy")
    assert int(refusal.response.headers["retry-after"]) >= 1
    assert words in refusal.message


# --- in which order -----------------------------------------------------------------------------------------------


async def test_one_place_is_had_by_one_after_the_other_and_callers_take_turns(upstream):
    """Alice was there first with five; Bob, who came after them all, is next but one."""
    upstream.play(holds)
    async with running_app(config(upstream)) as stage:
        asking = [await stage.goes_in(upstream, "a0")]
        asking += [await stage.queues(f"a{number}") for number in range(1, 5)]
        asking += [await stage.queues(f"b{number}", "bob") for number in (1, 2)]
        assert stage.numbers() == (1, 6)
        assert await served(upstream, asking) == ["a0", "a1", "b1", "a2", "b2", "a3", "a4"]
        await until(lambda: stage.numbers() == (0, 0))


async def test_what_counts_is_tokens_and_not_requests(upstream):
    """Alice lets each answer be four times as long as Bob does."""
    upstream.play(holds)
    async with running_app(config(upstream)) as stage:
        asking = [await stage.goes_in(upstream, "a0")]
        asking += [await stage.queues(f"a{number}", max_tokens=200) for number in (1, 2)]
        asking += [await stage.queues(f"b{number}", "bob", max_tokens=50) for number in (1, 2, 3, 4)]
        assert await served(upstream, asking) == ["a0", "a1", "b1", "b2", "b3", "b4", "a2"]


async def test_the_urgent_come_first_and_the_batch_last_but_not_never(upstream):
    """One of each class; then three more that are urgent (they had 1.4 for each, by their share) before default's 5."""
    upstream.play(holds)
    async with running_app(config(upstream)) as stage:
        asking = [await stage.goes_in(upstream, "first")]
        asking += [await stage.queues(text, "night") for text in ("n1", "n2")]
        asking += [await stage.queues(text, "alice") for text in ("a1", "a2")]
        asking += [await stage.queues(text, "urgent") for text in ("u1", "u2", "u3", "u4")]
        assert await served(upstream, asking) == ["first", "u1", "a1", "n1", "u2", "u3", "u4", "a2", "n2"]


@pytest.mark.parametrize(
    ("caller", "wish", "order"),
    [
        ("urgent", {"x-tidegate-priority": "batch"}, ["first", "waits", "asks"]),
        ("urgent", {}, ["first", "asks", "waits"]),
        ("bob", {"x-tidegate-priority": "interactive"}, ["first", "waits", "asks"]),
    ],
    ids=["who may be urgent may say less", "the key says how urgent", "nobody may say more"],
)
async def test_a_caller_may_be_less_urgent_than_its_key_says_but_not_more(upstream, caller, wish, order):
    upstream.play(holds)
    async with running_app(config(upstream)) as stage:
        asking = [await stage.goes_in(upstream, "first"), await stage.queues("waits")]
        asking.append(await stage.queues("asks", caller, extra_headers=wish))
        assert await served(upstream, asking) == order


async def test_batch_leaves_a_place_for_the_urgent(upstream):
    upstream.play(holds)
    async with running_app(config(upstream, limit=10)) as stage:
        asking = [await stage.goes_in(upstream, f"night{number}", "night") for number in range(9)]
        asking.append(await stage.queues("night9", "night"))
        asking.append(await stage.goes_in(upstream, "now", "urgent"))
        assert stage.numbers() == (10, 1)
        for call in upstream.calls:
            call.go.set()
        await until(lambda: len(upstream.calls) == 11)
        upstream.calls[-1].go.set()
        assert (await asyncio.gather(*asking))[-1] == "now"


# --- elsewhere ----------------------------------------------------------------------------------------------------


async def test_while_the_first_target_is_full_the_next_answers_at_once(upstream, other):
    """Nobody waits, and a full target is not a try; when it is free again, it is first again."""
    upstream.play(holds)
    async with running_app(config(upstream, other)) as stage:
        first = await stage.goes_in(upstream, "first", model="m")
        second = asyncio.create_task(stage.ask("second", model="m"))
        call = await other.next_call()
        assert stage.numbers() == (1, 0)
        call.go.set()
        headers = (await second).headers
        assert (headers["x-tidegate-target"], headers["x-tidegate-attempts"]) == ("second/b", "1")
        upstream.calls[0].go.set()
        assert await first == "first"
        await until(lambda: stage.numbers() == (0, 0))
        third = await stage.goes_in(upstream, "third", model="m")
        upstream.calls[1].go.set()
        assert await third == "third"
    assert len(other.calls) == 1


async def test_where_all_are_full_one_waits_for_the_one_that_is_preferred(upstream, other):
    upstream.play(holds)
    async with running_app(config(upstream, other, second={"concurrency": {"limit": 1}})) as stage:
        first = await stage.goes_in(upstream, "first", model="m")
        second = await stage.goes_in(other, "second", model="m")
        third = await stage.queues("third", model="m")
        assert (stage.numbers("first"), stage.numbers("second")) == ((1, 1), (1, 0))
        upstream.calls[0].go.set()
        await until(lambda: len(upstream.calls) == 2)
        upstream.calls[1].go.set()
        other.calls[0].go.set()
        assert await asyncio.gather(first, second, third) == ["first", "second", "third"]


async def well_and_holds(call: Call) -> None:
    """An engine that says it is well, and answers when it is told to."""
    await (answers(b"") if call.method == "GET" else holds)(call)


@asynccontextmanager
async def house_with_engine(engine, other, **model):
    """`m` is at an engine with one place and one who may wait, then at the second host."""
    engine.play(well_and_holds)
    near = {"kind": "external", "base_url": engine.url, "concurrency": {"limit": 1, "queue": 1} | WAITS_LONG}
    targets = [{"engine": "near", "model": "a"}, {"upstream": "second", "model": "b"}]
    text = {
        "engines": {"near": near},
        "upstreams": {"second": {"base_url": other.url}},
        "models": {"m": {"policy": "local_first", "targets": targets} | model},
    }
    async with running_app(json.dumps(text)) as stage:
        await until(lambda: stage.engine_is_ready("near"))
        yield stage


def asked(engine):
    """What callers have sent there."""
    return [call for call in engine.calls if call.method == "POST"]


async def test_local_first_waits_in_the_engines_queue_while_that_has_room(upstream, other):
    """Full is not yet a reason to leave the house; a full queue is."""
    async with house_with_engine(upstream, other) as stage:
        first = asyncio.create_task(stage.say("first", model="m"))
        await until(lambda: asked(upstream))
        second = await stage.queues("second", model="m", gate="near")
        third = asyncio.create_task(stage.say("third", model="m"))
        (await other.next_call()).go.set()
        assert await third == "third"
        assert stage.numbers("near") == (1, 1)
        asked(upstream)[0].go.set()
        await until(lambda: len(asked(upstream)) == 2)
        asked(upstream)[1].go.set()
        assert await asyncio.gather(first, second) == ["first", "second"]
    assert len(other.calls) == 1


async def test_it_waits_there_no_longer_than_overflow_ttft_s(upstream, other):
    async with house_with_engine(upstream, other, overflow_ttft_s=0.05) as stage:
        first = asyncio.create_task(stage.say("first", model="m"))
        await until(lambda: asked(upstream))
        second = await stage.queues("second", model="m", gate="near")
        (await other.next_call()).go.set()
        assert await second == "second"
        asked(upstream)[0].go.set()
        assert await first == "first"
    assert len(asked(upstream)) == 1


async def test_where_one_is_full_and_the_other_fails_it_is_worth_while_to_come_again(upstream, other):
    """The failure is told, and of the full one when it has room."""
    other.play(answers(b'{"error": {"message": "broken"}}', status=500))
    async with house_with_engine(upstream, other) as stage:
        asking = [asyncio.create_task(stage.say(text, model="m")) for text in ("first", "second")]
        await until(lambda: stage.numbers("near") == (1, 1))
        refusal = await stage.refusal("third", model="m")
        assert (refusal.status_code, "broken" in refusal.message) == (502, True)
        headers = refusal.response.headers
        assert (headers["retry-after"], headers["x-tidegate-target"]) == ("1", "second/b")
        assert "x-should-retry" not in headers
        asked(upstream)[0].go.set()
        await until(lambda: len(asked(upstream)) == 2)
        asked(upstream)[1].go.set()
        await asyncio.gather(*asking)


# --- not now ------------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_a_429_that_says_when_to_come_again(upstream):
    upstream.play(holds)
    async with running_app(config(upstream, queue=1)) as stage:
        asking = [await stage.goes_in(upstream, "first"), await stage.queues("second")]
        assert_busy(await stage.refusal("third"), "first has no place free, and its queue is full")
        assert await served(upstream, asking) == ["first", "second"]


async def test_a_stream_too_is_refused_by_its_status(upstream):
    upstream.play(holds)
    async with running_app(config(upstream, queue=0)) as stage:
        asking = [await stage.goes_in(upstream, "first")]
        assert_busy(await stage.refusal("second", stream=True), "its queue is full")
        assert await served(upstream, asking) == ["first"]


async def test_a_full_queue_has_room_for_who_is_more_urgent(upstream):
    """The one of batch that makes room is told so."""
    upstream.play(holds)
    async with running_app(config(upstream, queue=1)) as stage:
        asking = [await stage.goes_in(upstream, "first")]
        displaced = asyncio.create_task(stage.refusal("second", "night"))
        await until(lambda: stage.numbers() == (1, 1))
        asking.append(asyncio.create_task(stage.say("third", "urgent")))
        assert_busy(await displaced, "its queue is full")
        assert await served(upstream, asking) == ["first", "third"]


@pytest.mark.parametrize(
    ("concurrency", "model", "headers"),
    [
        ({"queue_timeout_s": 0.05}, {}, {}),
        ({}, {"deadline_s": 0.05}, {}),
        ({}, {}, {"x-stainless-read-timeout": "0.05"}),
    ],
    ids=["the queue's", "the model's", "the caller's"],
)
async def test_nobody_waits_past_the_shortest_of_all_the_times(upstream, concurrency, model, headers):
    upstream.play(starts_and_hangs)
    async with running_app(config(upstream, model=model, **concurrency)) as stage:
        stream = await stage.say(stream=True, model="first/a")  # has none of these times
        refusal = await stage.refusal(extra_headers=headers)
        if refusal.code != "upstream_timeout" or not model:  # the model's is that of all tries too: either ends first
            assert_busy(refusal, "first had no place free in time")
        assert (stage.numbers(), len(upstream.calls)) == ((1, 0), 1)
        await stream.close()


# --- who leaves ---------------------------------------------------------------------------------------------------


async def test_who_leaves_while_waiting_is_out_of_the_queue_and_never_reaches_the_host(upstream):
    upstream.play(holds)
    async with running_app(config(upstream, queue=1)) as stage:
        asking = [await stage.goes_in(upstream, "first")]
        leaves = await stage.queues("second")
        leaves.cancel()
        await until(lambda: stage.numbers() == (1, 0))
        asking.append(await stage.queues("third"))
        assert await served(upstream, asking) == ["first", "third"]


@pytest.mark.parametrize("stream", [True, False], ids=["mid-stream", "unary"])
async def test_the_place_of_who_leaves_is_the_next_ones(upstream, stream):
    upstream.play(starts_and_hangs if stream else holds, holds)
    async with running_app(config(upstream)) as stage:
        leaves = await stage.goes_in(upstream, "first", stream=stream)
        if stream:
            await leaves
        asking = await stage.queues("second")
        await gone(leaves)
        await until(lambda: len(upstream.calls) == 2)
        upstream.calls[1].go.set()
        assert await asking == "second"
        await until(lambda: stage.numbers() == (0, 0))


async def gone(*tasks):
    """They leave, also those whose stream has begun."""
    for task in tasks:
        task.cancel()
    for told in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(told, openai.AsyncStream):
            await told.close()


async def test_a_target_that_fails_gives_the_place_back(upstream):
    upstream.play(answers(b'{"error": {"message": "no"}}', status=500), holds)
    async with running_app(config(upstream)) as stage:
        assert (await stage.refusal()).status_code == 502
        assert stage.numbers() == (0, 0)
        asking = await stage.goes_in(upstream, "again")
        upstream.calls[-1].go.set()
        assert await asking == "again"


# --- as many as it bears ------------------------------------------------------------------------------------------


async def test_an_adaptive_target_begins_with_twenty_at_once_and_learns_from_their_first_tokens(upstream):
    """Ten that began as soon as one another, with all places taken: it bears more."""
    clock = FakeClock()
    upstream.play(starts_when_told)
    async with running_app(config(upstream, limit="adaptive"), clock=clock) as stage:
        asking = [await stage.goes_in(upstream, stream=True) for _ in range(20)]
        asking += [await stage.queues(stream=True) for _ in range(3)]
        assert (stage.limits["first"].limit, stage.numbers()) == (20, (20, 3))
        clock.advance(0.5)
        for call in upstream.calls[:10]:
            call.go.set()
        await until(lambda: len(upstream.calls) == 22)
        assert (stage.limits["first"].limit, stage.numbers()) == (22, (22, 1))
        await gone(*asking)
        await until(lambda: stage.numbers() == (0, 0))


async def test_it_learns_from_answers_that_come_in_one_piece_too(upstream):
    """Nobody sees their first tokens: about when these came is worked out."""
    clock = FakeClock()
    upstream.play(holds)
    async with running_app(config(upstream, limit="adaptive"), clock=clock) as stage:
        asking = [await stage.goes_in(upstream) for _ in range(20)]
        asking += [await stage.queues() for _ in range(3)]
        clock.advance(0.5)
        for call in upstream.calls[:10]:
            call.go.set()
        await until(lambda: stage.limits["first"].limit == 22)
        await gone(*asking)
        await until(lambda: stage.numbers() == (0, 0))
