"""A stream that tells what it waits for, from the first word to the end, whatever comes."""

import asyncio

import pytest
from tidegate.errors import EngineUnavailable, StreamBroken, UpstreamFailed
from tidegate.routing.planner import EngineSnapshot

from tests.fakes.hosts import Exchange, Host, Stage, says, stops, turns
from tests.fakes.wire import chunk, event

STARTING = EngineSnapshot(is_ready=False, state="starting")
READY = EngineSnapshot(state="ready")
FAILED = EngineSnapshot(is_ready=False, state="failed")
WHOLE = [says("w1 "), says("w2"), stops()]


def loading(done: float) -> EngineSnapshot:
    return EngineSnapshot(is_ready=False, state="starting", phase="loading the weights", done=done)


def stage_of(
    *hosts: Host, engines: str = "ab", progress_in="reasoning_content", dialect: str = "vllm", **settings
) -> Stage:
    """Engines of that name are not ready."""
    for host in hosts:
        if host.name in engines:
            host.now = STARTING
    return Stage(*hosts, engines=engines, dialect=dialect, progress_in=progress_in, **settings)


def host_of(name: str, *script) -> Host:
    made = Host(name)
    made.play(list(script) or WHOLE)
    return made


async def until_told(exchange: Exchange, number: int = 1) -> None:
    """Wait until the caller has so many payloads."""
    while len(exchange.payloads) < number:  # noqa: ASYNC110 - the exchange tells nobody
        await asyncio.sleep(0)


def shape(exchange: Exchange) -> tuple:
    """Ids, roles and finish reasons."""
    choices = [choice for payload in exchange.payloads for choice in payload["choices"]]
    ids = {(payload["id"], payload["created"], payload["model"]) for payload in exchange.payloads}
    roles = [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]]
    return len(ids), roles, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


@pytest.mark.parametrize("on_stream_failure", ["error", "continue"])
async def test_a_stream_that_waits_tells_of_it_and_the_answer_follows(on_stream_failure):
    thinks = event(chunk({"reasoning": "t1 "}))
    host = host_of("a", thinks, *WHOLE)
    stage = stage_of(host, on_stream_failure=on_stream_failure)
    exchange = Exchange(stage, stream_options={"include_usage": True})
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange, 2)
    assert exchange.reasoning == "Starting the model\n"
    for done in (0.11, 0.12, 0.5):
        stage.move(host, loading(done))
        await turns(5)
    assert exchange.reasoning == "Starting the model\nLoading the weights: 10 %\nLoading the weights: 50 %\n"
    assert host.bodies == []
    stage.move(host, READY)
    await asking
    assert exchange.error is None
    assert exchange.reasoning.endswith("50 %\nt1 ")
    assert exchange.text == "w1 w2"
    assert shape(exchange) == (1, ["assistant"], ["stop"])
    assert exchange.payloads[-1]["usage"]["completion_tokens"] == 2
    [line] = stage.log.of("request")
    assert (line["upstream"], line["status"], line["attempts"]) == ("a", 200, 1)
    assert not any(any(counts) for counts in stage.held().values())


async def test_an_answer_that_is_validated_before_it_is_told_follows_too():
    host = host_of("a", says('{"n": 1}'), stops())
    stage = stage_of(host, dialect="deepseek")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    exchange = Exchange(stage, response_format=form)
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange)
    stage.move(host, READY)
    await asking
    assert exchange.context.record.adjusted == ["response_format=emulated"]
    assert (exchange.reasoning, exchange.text) == ("Starting the model\n", '{"n": 1}')
    assert shape(exchange) == (1, ["assistant"], ["stop"])


async def test_what_is_told_of_the_engine_is_not_remembered_as_the_models_thinking():
    call = {"index": 0, "id": "call_abcdef", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = [event(chunk({"reasoning": "t1 "})), event(chunk({"tool_calls": [call]})), event(chunk(finish="tool_calls"))]
    host = host_of("a", *told, b"data: [DONE]\n\n")
    stage = stage_of(host)
    exchange = Exchange(stage, tools=[{"type": "function", "function": {"name": "f"}}])
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange)
    stage.move(host, READY)
    await asking
    assert exchange.error is None
    assert exchange.reasoning == "Starting the model\nt1 "
    assert await stage.reasoning_memory.recall(exchange.context.caller, ["call_abcdef"]) == {"call_abcdef": "t1 "}


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({}, {"progress_in": None}),
        ({"reasoning_format": "hidden"}, {}),
        ({}, {"reasoning_format": "hidden"}),
    ],
    ids=["off", "hidden by the caller", "hidden by the model"],
)
async def test_nothing_is_told_where_nothing_is_to_be(asked, settings):
    host = host_of("a")
    stage = stage_of(host, **settings)
    exchange = Exchange(stage, **asked)
    asking = asyncio.create_task(exchange.run())
    await turns(20)
    stage.move(host, loading(0.5))
    await turns(20)
    assert exchange.payloads == []
    stage.move(host, READY)
    await asking
    assert (exchange.text, exchange.reasoning) == ("w1 w2", "")


async def test_a_unary_answer_has_nothing_of_it():
    host = host_of("a")
    stage = stage_of(host)
    exchange = Exchange(stage, stream=False)
    asking = asyncio.create_task(exchange.run())
    await turns(20)
    host.play([b'{"choices":[{"index":0,"message":{"content":"w1"},"finish_reason":"stop"}]}'])
    stage.move(host, READY)
    await asking
    assert (exchange.text, exchange.reasoning) == ("w1", "")


@pytest.mark.parametrize("engines", ["a", ""])
async def test_nothing_is_told_where_nothing_is_waited_for(engines):
    """The engine is ready, or it is a host elsewhere, which takes its time."""
    host = host_of("a", 9, *WHOLE)
    stage = stage_of(host, engines=engines)
    host.now = READY
    exchange = await stage.ask()
    assert (exchange.text, exchange.reasoning) == ("w1 w2", "")
    assert shape(exchange) == (1, ["assistant"], ["stop"])


async def test_an_engine_that_is_not_the_last_resort_is_not_waited_for():
    stage = stage_of(host_of("a"), host_of("b", says("from b"), stops()), engines="a")
    exchange = await stage.ask()
    assert (exchange.text, exchange.reasoning) == ("from b", "")


@pytest.mark.parametrize("on_stream_failure", ["error", "continue"])
async def test_another_target_is_tried_when_the_one_waited_for_fails_and_the_stream_is_still_one(on_stream_failure):
    """The role has left by then, and is not told again by either of them."""
    role = event(chunk({"role": "assistant", "content": ""}))
    first, second = host_of("a", role, UpstreamFailed("no")), host_of("b")
    stage = stage_of(first, second, on_stream_failure=on_stream_failure)
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange, 2)
    stage.move(first, FAILED)
    await turns(10)
    stage.move(second, loading(0.5))
    await turns(10)
    stage.move(second, READY)
    await asking
    assert (exchange.error, exchange.text) == (None, "w1 w2")
    assert exchange.reasoning.endswith("Loading the weights: 50 %\n")
    assert shape(exchange) == (1, ["assistant"], ["stop"])
    assert [line["upstream"] for line in stage.log.of("target not free")] == ["a", "b", "a"]


async def test_an_answer_that_fails_at_its_beginning_is_told_in_the_stream_and_noted_once():
    role = event(chunk({"role": "assistant", "content": ""}))
    engine, other = host_of("a", role, UpstreamFailed("no")), host_of("b", UpstreamFailed("not yet"))
    stage = stage_of(engine, other, engines="a")
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange, 2)
    stage.move(engine, READY)
    await asking
    assert isinstance(exchange.error, UpstreamFailed)
    assert shape(exchange) == (1, ["assistant"], [])
    assert [line["upstream"] for line in stage.log.of("upstream failed")] == ["b", "a"]
    assert not any(any(counts) for counts in stage.held().values())


async def test_an_engine_that_fails_to_load_is_told_in_the_stream_and_noted_once():
    host = host_of("a")
    stage = stage_of(host)
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange)
    stage.move(host, FAILED)
    await asking
    assert isinstance(exchange.error, EngineUnavailable)
    assert exchange.reasoning.startswith("Starting the model\n")
    assert len(stage.log.of("target not free")) == 1
    assert not any(any(counts) for counts in stage.held().values())


async def test_an_answer_that_breaks_after_it_is_noted_once():
    host = host_of("a", says("w1 "), 2, StreamBroken("broken"))
    stage = stage_of(host)
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange)
    stage.move(host, READY)
    await asking
    assert isinstance(exchange.error, StreamBroken)
    assert exchange.text == "w1 "
    assert len(stage.log.of("upstream failed")) == 1


async def test_an_answer_that_broke_goes_on_elsewhere():
    engine, other = host_of("a", says("w1 "), 2, UpstreamFailed("broken")), host_of("b", says("w2"), stops())
    other.play([UpstreamFailed("not yet")], [says("w2"), stops()])
    stage = stage_of(engine, other, engines="a", on_stream_failure="continue")
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await until_told(exchange)
    stage.move(engine, READY)
    await asking
    assert (exchange.error, exchange.text) == (None, "w1 w2")
    assert exchange.reasoning == "Starting the model\n"
    assert shape(exchange) == (1, ["assistant"], ["stop"])


@pytest.mark.parametrize("leaves", range(1, 24))
@pytest.mark.parametrize("concurrency", [None, 1])
async def test_everything_is_freed_when_the_caller_leaves(leaves, concurrency):
    """While nothing was told, while the engine loads, just as it is ready, and while it answers."""
    host = host_of("a", 2, says("w1 "), 1, says("w2"), stops())
    stage = stage_of(host, concurrency=concurrency)
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await turns(min(leaves, 10))
    if leaves >= 10:
        stage.move(host, READY)
        await turns(leaves - 10)
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.sleep(0)
    assert not any(any(counts) for counts in stage.held().values())
    assert len(stage.log.of("request")) == 1


async def test_the_log_says_which_engine_had_the_request_of_a_caller_who_left():
    host = host_of("a", asyncio.Event())
    stage = stage_of(host)
    asking = asyncio.create_task(Exchange(stage).run())
    await turns(10)
    stage.move(host, READY)
    await host.is_asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    [line] = stage.log.of("request")
    assert (line["upstream"], line["status"]) == ("a", 499)


async def test_an_answer_that_is_not_read_is_closed():
    """The caller's front door fails on what was told, so that nothing is read any more."""
    host = host_of("a")
    stage = stage_of(host)
    exchange = Exchange(stage)

    async def reads_once():
        with pytest.raises(ZeroDivisionError):
            async with stage.pipeline.open(None, exchange._read, exchange.context) as answer:
                assert await answer.read()
                assert b'"delta":{}' in answer.heartbeat()
                stage.move(host, READY)
                raise ZeroDivisionError

    await reads_once()
    await turns(3)
    assert not any(any(counts) for counts in stage.held().values())
    assert host.bodies == []
