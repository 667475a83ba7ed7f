"""An answer has the record of its own attempt: name, usage, ids and log; secrets of all hosts are masked."""

import asyncio
import json

import pytest
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamRejected
from tidegate.pipeline.context import RequestContext

from tests.fakes.clock import FakeClock
from tests.fakes.hosts import Exchange, Host, Stage, says, stops, turns
from tests.fakes.wire import completion

KEYS = {"a": "sk-first-0123456789", "b": "sk-second-9876543210"}
HOSTS = "ab"


def hosts() -> list[Host]:
    return [Host(name, KEYS[name]) for name in HOSTS]


class Together:
    """Two hedged tries that end in the same turn of the event loop, in either order."""

    def __init__(self, stage: Stage, first, second, *, order: str, **fields) -> None:
        self.stage = stage
        self.concurrency = {name: asyncio.Event() for name in HOSTS}
        for host, script in zip(stage.hosts, (first, second), strict=True):
            host.play([self.concurrency[host.name], *script])
        self.order = order
        stage.learn()
        self.exchange = Exchange(stage, **fields)

    async def run(self) -> Exchange:
        asking = asyncio.create_task(self.exchange.run())
        for host in self.stage.hosts:
            await host.is_asked.wait()
        for name in self.order:
            self.concurrency[name].set()
        await asking
        return self.exchange


def whole(name: str, tokens: int):
    return [says(f"{name} "), says("says it"), stops(completion_tokens=tokens)]


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_two_tries_that_answer_together_are_not_mixed_up(order):
    stage = Stage(*hosts(), hedge=True)
    asked = await Together(stage, whole("a", 11), whole("b", 22), order=order).run()
    name = asked.text[0]
    [line] = stage.log.of("request")
    assert asked.context.record.name == f"{name}/m"
    assert (line["upstream"], line["upstream_request_id"]) == (name, f"{name}-1")
    assert (line["completion_tokens"], line["attempts"]) == ({"a": 11, "b": 22}[name], 2)
    assert not any(any(counts) for counts in stage.held().values())


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_two_unary_tries_that_answer_together_are_not_mixed_up(order):
    stage = Stage(*hosts(), hedge=True)
    together = Together(stage, [completion("a")], [completion("b")], order=order, stream=False)
    asked = await together.run()
    assert asked.context.record.name == f"{asked.text}/m"
    assert stage.log.of("request")[0]["upstream"] == asked.text


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("shown", ["a", "b"])
async def test_a_broken_answer_is_a_failure_of_the_attempt_that_gave_it(order, shown):
    """And no host's key is shown."""
    stage = Stage(*hosts(), hedge=True)

    def breaks(name):
        return [says(f"{name} "), 1, UpstreamFailed(f"{name} broke over {KEYS[shown]}.")]

    asked = await Together(stage, breaks("a"), breaks("b"), order=order).run()
    name = asked.text[0]
    assert asked.error.message == f"{name} broke over ***."
    [failed], [line] = stage.log.of("upstream failed"), stage.log.of("request")
    assert (failed["upstream"], failed["reason"]) == (name, f"{name} broke over ***.")
    assert (line["upstream"], line["reason"]) == (name, f"{name} broke over ***.")
    assert not any(KEYS[shown] in json.dumps(fields, default=str) for _, fields in stage.log.lines)


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_if_both_tries_fail_together_the_reported_failure_is_logged_for_its_own_host(order):
    """The failure of `a` is the caller's fault, so it ends the request."""
    stage = Stage(*hosts(), hedge=True)
    together = Together(
        stage,
        [UpstreamRejected(f"a refuses {KEYS['b']}.")],
        [UpstreamFailed(f"b fails with {KEYS['a']}.")],
        order=order,
    )
    asked = await together.run()
    assert asked.error.message == "a refuses ***."
    assert asked.context.record.name == "a/m"
    assert stage.log.of("request")[0]["upstream"] == "a"
    assert {line["upstream"]: line["reason"] for line in stage.log.of("upstream failed")} == {
        "a": "a refuses ***.",
        "b": "b fails with ***.",
    }


def test_the_time_until_something_was_sent_is_that_of_the_first_try():
    """Whichever hedged try ends first; one of them was not sent."""
    context = RequestContext("req_1", "chat", FakeClock())
    for sent_s in (3.0, 0.0, 2.0, 4.0):
        context.note_sent(sent_s)
    assert context.first_sent_s == 2.0


async def test_a_continued_answer_is_logged_for_its_last_host():
    stage = Stage(*hosts(), dialect="vllm", on_stream_failure="continue")
    first, second = stage.hosts
    first.play([says("a "), StreamBroken(f"gone with {KEYS['b']}")])
    second.play([says("b"), stops(completion_tokens=7)])
    asked = await stage.ask()
    assert (asked.text, asked.context.record.name) == ("a b", "b/m")
    [broken], [line] = stage.log.of("stream continued"), stage.log.of("request")
    assert (broken["broken_upstream"], broken["upstream"], line["upstream"]) == ("a", "b", "b")
    assert stage.log.of("upstream failed")[0]["reason"] == "gone with ***"


async def test_a_break_without_a_continuation_is_logged_for_the_host_that_broke():
    stage = Stage(*hosts(), dialect="vllm", on_stream_failure="continue")
    first, second = stage.hosts
    first.play([says("a "), StreamBroken("gone")])
    second.play([UpstreamFailed("no")])
    asked = await stage.ask()
    assert (asked.error.message, asked.context.record.name) == ("gone", "a/m")


async def test_a_disconnect_is_logged_for_the_host_that_was_answering():
    stage = Stage(*hosts())
    first, second = stage.hosts
    first.play([UpstreamFailed("no")])
    second.play([asyncio.Event()])
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await second.is_asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    [line] = stage.log.of("request")
    assert (line["status"], line["upstream"]) == (499, "b")
    assert stage.metrics.registry.get_sample_value("tidegate_upstream_aborts_total", {"upstream": "b"}) == 1


async def test_a_caller_who_leaves_during_a_continuation_too():
    stage = Stage(*hosts(), dialect="vllm", on_stream_failure="continue")
    first, second = stage.hosts
    first.play([says("a "), StreamBroken("gone")])
    second.play([asyncio.Event()])
    exchange = Exchange(stage)
    asking = asyncio.create_task(exchange.run())
    await second.is_asked.wait()
    await turns(3)
    asking.cancel()
    await asyncio.wait([asking])
    assert stage.log.of("request")[0]["upstream"] == "b"
    assert not any(any(counts) for counts in stage.held().values())
