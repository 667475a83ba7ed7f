"""A stream that shows the progress of the engine it waits for, from its first chunk to the end of the answer."""

import asyncio

import pytest

from tests.fakes.hosts import Exchange, Host, Stage, content_event, end_events, turns
from tests.fakes.wire import chunk, event
from tidegate.errors import EngineUnavailable, StreamBroken, UpstreamFailed
from tidegate.routing.planner import EngineSnapshot

STARTING = EngineSnapshot(is_ready=False, state="starting")
READY = EngineSnapshot(state="ready")
FAILED = EngineSnapshot(is_ready=False, state="failed")
WHOLE = [content_event("w1 "), content_event("w2"), end_events()]


def loading(done: float) -> EngineSnapshot:
    return EngineSnapshot(is_ready=False, state="starting", phase="loading the weights", phase_progress=done)


def stage_of(
    *hosts: Host, engines: str = "ab", progress_in="reasoning_content", dialect: str = "vllm", **settings
) -> Stage:
    """A stage whose engines, the hosts named in `engines`, are not ready."""
    for host in hosts:
        if host.name in engines:
            host.snapshot = STARTING
    return Stage(*hosts, engines=engines, dialect=dialect, progress_in=progress_in, **settings)


def host_with(name: str, *script) -> Host:
    host = Host(name)
    host.play(list(script) or WHOLE)
    return host


async def until_received(exchange: Exchange, number: int = 1) -> None:
    """Wait until the caller has received so many payloads."""
    while len(exchange.payloads) < number:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)


def shape(exchange: Exchange) -> tuple:
    """The number of different ids, the roles and the finish reasons of the stream."""
    choices = [choice for payload in exchange.payloads for choice in payload["choices"]]
    ids = {(payload["id"], payload["created"], payload["model"]) for payload in exchange.payloads}
    roles = [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]]
    return len(ids), roles, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


@pytest.mark.parametrize("on_stream_failure", ["error", "continue"])
async def test_a_stream_that_waits_shows_the_progress_and_then_the_answer(on_stream_failure):
    thinks = event(chunk({"reasoning": "t1 "}))
    host = host_with("a", thinks, *WHOLE)
    stage = stage_of(host, on_stream_failure=on_stream_failure)
    exchange = Exchange(stage, stream_options={"include_usage": True})
    task = asyncio.create_task(exchange.run())
    await until_received(exchange, 2)
    assert exchange.reasoning == "Starting the model\n"
    for done in (0.11, 0.12, 0.5):
        stage.change_engine(host, loading(done))
        await turns(5)
    assert exchange.reasoning == "Starting the model\nLoading the weights: 10 %\nLoading the weights: 50 %\n"
    assert host.bodies == []
    stage.change_engine(host, READY)
    await task
    assert exchange.error is None
    assert exchange.reasoning.endswith("50 %\nt1 ")
    assert exchange.text == "w1 w2"
    assert shape(exchange) == (1, ["assistant"], ["stop"])
    assert exchange.payloads[-1]["usage"]["completion_tokens"] == 2
    [line] = stage.log.of("request")
    assert (line["upstream"], line["status"], line["attempts"]) == ("a", 200, 1)
    assert not any(any(counts) for counts in stage.resources_in_use().values())


async def test_an_answer_that_is_validated_before_it_is_sent_follows_the_progress_too():
    host = host_with("a", content_event('{"n": 1}'), end_events())
    stage = stage_of(host, dialect="deepseek")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    exchange = Exchange(stage, response_format=form)
    task = asyncio.create_task(exchange.run())
    await until_received(exchange)
    stage.change_engine(host, READY)
    await task
    assert exchange.context.record.adjusted == ["response_format=emulated"]
    assert (exchange.reasoning, exchange.text) == ("Starting the model\n", '{"n": 1}')
    assert shape(exchange) == (1, ["assistant"], ["stop"])


async def test_the_progress_of_the_engine_is_not_remembered_as_reasoning_of_the_model():
    call = {"index": 0, "id": "call_abcdef", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    script = [
        event(chunk({"reasoning": "t1 "})),
        event(chunk({"tool_calls": [call]})),
        event(chunk(finish="tool_calls")),
    ]
    host = host_with("a", *script, b"data: [DONE]\n\n")
    stage = stage_of(host)
    exchange = Exchange(stage, tools=[{"type": "function", "function": {"name": "f"}}])
    task = asyncio.create_task(exchange.run())
    await until_received(exchange)
    stage.change_engine(host, READY)
    await task
    assert exchange.error is None
    assert exchange.reasoning == "Starting the model\nt1 "
    assert await stage.reasoning_memory.recall(exchange.context.caller, ["call_abcdef"]) == {"call_abcdef": "t1 "}


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {"progress_in": None}),
        ({"reasoning_format": "hidden"}, {}),
        ({}, {"reasoning_format": "hidden"}),
    ],
    ids=["off", "hidden by the caller", "hidden by the model"],
)
async def test_no_progress_is_shown_where_it_is_off_or_reasoning_is_hidden(fields, settings):
    host = host_with("a")
    stage = stage_of(host, **settings)
    exchange = Exchange(stage, **fields)
    task = asyncio.create_task(exchange.run())
    await turns(20)
    stage.change_engine(host, loading(0.5))
    await turns(20)
    assert exchange.payloads == []
    stage.change_engine(host, READY)
    await task
    assert (exchange.text, exchange.reasoning) == ("w1 w2", "")


async def test_a_unary_answer_has_no_progress():
    host = host_with("a")
    stage = stage_of(host)
    exchange = Exchange(stage, stream=False)
    task = asyncio.create_task(exchange.run())
    await turns(20)
    host.play([b'{"choices":[{"index":0,"message":{"content":"w1"},"finish_reason":"stop"}]}'])
    stage.change_engine(host, READY)
    await task
    assert (exchange.text, exchange.reasoning) == ("w1", "")


@pytest.mark.parametrize("engines", ["a", ""])
async def test_no_progress_is_shown_where_no_engine_is_waited_for(engines):
    """The engine is ready, or the target is a slow hosted upstream."""
    host = host_with("a", 9, *WHOLE)
    stage = stage_of(host, engines=engines)
    host.snapshot = READY
    exchange = await stage.ask()
    assert (exchange.text, exchange.reasoning) == ("w1 w2", "")
    assert shape(exchange) == (1, ["assistant"], ["stop"])


async def test_an_engine_that_is_not_the_last_resort_is_not_waited_for():
    stage = stage_of(host_with("a"), host_with("b", content_event("from b"), end_events()), engines="a")
    exchange = await stage.ask()
    assert (exchange.text, exchange.reasoning) == ("from b", "")


@pytest.mark.parametrize("on_stream_failure", ["error", "continue"])
async def test_another_target_is_tried_when_the_awaited_one_fails_and_the_stream_stays_one(on_stream_failure):
    """The role has left by then, and neither target sends it again."""
    role = event(chunk({"role": "assistant", "content": ""}))
    first, second = host_with("a", role, UpstreamFailed("no")), host_with("b")
    stage = stage_of(first, second, on_stream_failure=on_stream_failure)
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await until_received(exchange, 2)
    stage.change_engine(first, FAILED)
    await turns(10)
    stage.change_engine(second, loading(0.5))
    await turns(10)
    stage.change_engine(second, READY)
    await task
    assert (exchange.error, exchange.text) == (None, "w1 w2")
    assert exchange.reasoning.endswith("Loading the weights: 50 %\n")
    assert shape(exchange) == (1, ["assistant"], ["stop"])
    assert [line["upstream"] for line in stage.log.of("target not free")] == ["a", "b", "a"]


async def test_an_answer_that_fails_at_its_beginning_is_an_error_in_band_and_logged_once():
    role = event(chunk({"role": "assistant", "content": ""}))
    engine, other = host_with("a", role, UpstreamFailed("no")), host_with("b", UpstreamFailed("not yet"))
    stage = stage_of(engine, other, engines="a")
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await until_received(exchange, 2)
    stage.change_engine(engine, READY)
    await task
    assert isinstance(exchange.error, UpstreamFailed)
    assert shape(exchange) == (1, ["assistant"], [])
    assert [line["upstream"] for line in stage.log.of("upstream failed")] == ["b", "a"]
    assert not any(any(counts) for counts in stage.resources_in_use().values())


async def test_an_engine_that_fails_to_load_is_an_error_in_band_and_logged_once():
    host = host_with("a")
    stage = stage_of(host)
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await until_received(exchange)
    stage.change_engine(host, FAILED)
    await task
    assert isinstance(exchange.error, EngineUnavailable)
    assert exchange.reasoning.startswith("Starting the model\n")
    assert len(stage.log.of("target not free")) == 1
    assert not any(any(counts) for counts in stage.resources_in_use().values())


async def test_an_answer_that_breaks_after_the_progress_is_logged_once():
    host = host_with("a", content_event("w1 "), 2, StreamBroken("broken"))
    stage = stage_of(host)
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await until_received(exchange)
    stage.change_engine(host, READY)
    await task
    assert isinstance(exchange.error, StreamBroken)
    assert exchange.text == "w1 "
    assert len(stage.log.of("upstream failed")) == 1


async def test_an_answer_that_breaks_after_the_progress_can_be_continued():
    engine, other = (
        host_with("a", content_event("w1 "), 2, UpstreamFailed("broken")),
        host_with("b", content_event("w2"), end_events()),
    )
    other.play([UpstreamFailed("not yet")], [content_event("w2"), end_events()])
    stage = stage_of(engine, other, engines="a", on_stream_failure="continue")
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await until_received(exchange)
    stage.change_engine(engine, READY)
    await task
    assert (exchange.error, exchange.text) == (None, "w1 w2")
    assert exchange.reasoning == "Starting the model\n"
    assert shape(exchange) == (1, ["assistant"], ["stop"])


@pytest.mark.parametrize("leaves", range(1, 24))
@pytest.mark.parametrize("concurrency", [None, 1])
async def test_everything_is_freed_when_the_caller_leaves(leaves, concurrency):
    """Before any progress was shown, while the engine loads, just when it is ready, and while it answers."""
    host = host_with("a", 2, content_event("w1 "), 1, content_event("w2"), end_events())
    stage = stage_of(host, concurrency=concurrency)
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await turns(min(leaves, 10))
    if leaves >= 10:
        stage.change_engine(host, READY)
        await turns(leaves - 10)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert not any(any(counts) for counts in stage.resources_in_use().values())
    assert len(stage.log.of("request")) == 1


async def test_the_log_names_the_engine_of_a_request_whose_caller_disconnected():
    host = host_with("a", asyncio.Event())
    stage = stage_of(host)
    task = asyncio.create_task(Exchange(stage).run())
    await turns(10)
    stage.change_engine(host, READY)
    await host.has_request.wait()
    task.cancel()
    await asyncio.wait([task])
    [line] = stage.log.of("request")
    assert (line["upstream"], line["status"]) == ("a", 499)


async def test_an_answer_that_is_not_read_is_closed():
    """The front door fails when it sends the progress, so that nothing more is read."""
    host = host_with("a")
    stage = stage_of(host)
    exchange = Exchange(stage)

    async def reads_once():
        with pytest.raises(ZeroDivisionError):
            async with stage.pipeline.open(None, exchange._read, exchange.context) as answer:
                assert await answer.read()
                assert b'"delta":{}' in answer.heartbeat()
                stage.change_engine(host, READY)
                raise ZeroDivisionError

    await reads_once()
    await turns(3)
    assert not any(any(counts) for counts in stage.resources_in_use().values())
    assert host.bodies == []
