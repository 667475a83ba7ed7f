"""No object of a request stays in memory when it has ended, even if the cycle collector does not run.

It rarely runs here, so that a reference cycle would keep requests with their bodies for long.
"""

import asyncio
import gc
import json
from contextlib import contextmanager, suppress

import openai
import pytest

from tests.fakes import proxy
from tests.fakes.upstream import SSE_HEAD, ScenarioUpstream, answers, breaks_off, hangs, streams
from tests.fakes.wire import chunk, completion, event, text_stream
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.request import ModelRequest

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
BAD = answers(b'{"error": {"message": "no"}}', status=400)
BROKEN = answers(b'{"error": {"message": "no"}}', status=500)
HI = event(chunk({"role": "assistant", "content": "Hi there, "}))
FINE = answers(completion("fine"))


async def slow(call):
    """Answer after so long that Tidegate has begun to watch the caller's connection."""
    await asyncio.sleep(0.03)
    await FINE(call)


async def slow_stream(call):
    await call.write(SSE_HEAD)
    for piece in text_stream("a", "b"):
        await asyncio.sleep(0.015)
        await call.chunk(piece)
    await call.end()


@pytest.fixture
async def other():
    async with ScenarioUpstream().running() as running:
        yield running


def config(upstream, other, timeout_s=60):
    targets = [{"upstream": "first", "model": "a"}, {"upstream": "second", "model": "b"}]
    return json.dumps(
        {
            "upstreams": {
                "first": {
                    "base_url": upstream.url,
                    "dialect": "vllm",
                    "first_byte_timeout_s": timeout_s,
                    "answer_timeout_s": timeout_s,
                    "concurrency": {"limit": 1, "queue": 0},
                },
                "second": {"base_url": other.url, "dialect": "vllm"},
            },
            "models": {
                "one": {"targets": targets[:1]},
                "two": {"targets": targets},
                "on": {"targets": targets, "on_stream_failure": "continue"},
                "hedged": {"targets": targets, "hedge": True},
            },
            "routing": {"retry": {"repeats": 1, "backoff_s": 0.001}, "health": {"failures": 1000, "probe": False}},
        }
    )


@contextmanager
def no_collector():
    """Run the block without the cycle collector; yields a function that lists the requests still in memory.

    Requests of other tests are not listed.
    """
    gc.collect()
    others = {id(each): each for each in live_objects()}
    gc.disable()
    try:
        yield lambda: [each for each in live_objects() if id(each) not in others]
    finally:
        gc.enable()


def live_objects():
    return [each for each in gc.get_objects() if type(each) in {RequestContext, ModelRequest}]


CASES = {
    "a slow answer": ("one", False, [slow], [FINE]),
    "a slow stream": ("one", True, [slow_stream], [FINE]),
    "a refusal": ("one", False, [BAD], [FINE]),
    "every target fails": ("two", False, [BROKEN], [BROKEN]),
    "another target": ("two", False, [BROKEN], [FINE]),
    "silence": ("one", True, [hangs], [FINE]),
    "a broken stream": ("one", True, [breaks_off(HI)], [FINE]),
    "a continuation": ("on", True, [breaks_off(HI)], [streams(*text_stream("and well."))]),
    "no target to continue": ("on", True, [breaks_off(HI)], [BROKEN]),
    "an answer that is no JSON": ("one", False, [answers(b"{oops")], [FINE]),
}


@pytest.mark.parametrize("case", CASES)
async def test_no_object_of_a_request_stays(upstream, other, case):
    model, stream, first, second = CASES[case]
    async with (
        proxy.serving(config(upstream, other, 0.1 if case == "silence" else 60)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        await ask(client, upstream, other, model, stream, first, second)  # objects that are made only once are made now
        with no_collector() as leftovers:
            for _ in range(3):
                await ask(client, upstream, other, model, stream, first, second)
            await until_gone(leftovers)


async def test_no_object_stays_of_requests_without_a_slot_or_whose_caller_disconnects(upstream, other):
    upstream.play(hangs)
    async with (
        proxy.serving(config(upstream, other)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client,
    ):
        with no_collector() as leftovers:
            asking = asyncio.create_task(client.chat.completions.create(**ASK, model="one", stream=True))
            call = await upstream.next_call()
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(**ASK, model="one")
            asking.cancel()
            await call.gone.wait()
            await asyncio.gather(asking, return_exceptions=True)
            del asking
            await until_gone(leftovers)


async def ask(client, upstream, other, model, stream, first, second):
    upstream.play(*first)
    other.play(*second)
    try:
        answer = await client.chat.completions.create(**ASK, model=model, stream=stream)
        if stream:
            assert [each async for each in answer]
    except openai.OpenAIError:
        pass


async def until_gone(leftovers):
    """Wait until nothing is left: the front door still has work to do after the answer has left."""
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            while leftovers():  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.005)
    assert [type(each).__name__ for each in leftovers()] == []
