"""Each answer has the record of its own attempt: name, usage, ids and log lines; all hosts' secrets are masked."""

import asyncio
import json

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.hosts import Exchange, Host, Stage, content_event, end_events, turns
from tests.fakes.wire import completion
from tidegate.errors import StreamBroken, UpstreamFailed, UpstreamRejected
from tidegate.pipeline.context import RequestContext

KEYS = {"a": "sk-first-0123456789", "b": "sk-second-9876543210"}
HOSTS = "ab"


def hosts() -> list[Host]:
    return [Host(name, KEYS[name]) for name in HOSTS]


class SimultaneousAttempts:
    """Two hedged attempts that end in the same turn of the event loop, in either order."""

    def __init__(self, stage: Stage, first, second, *, order: str, **fields) -> None:
        self.stage = stage
        self.may_answer = {name: asyncio.Event() for name in HOSTS}
        for host, script in zip(stage.hosts, (first, second), strict=True):
            host.play([self.may_answer[host.name], *script])
        self.order = order
        stage.enable_hedging()
        self.exchange = Exchange(stage, **fields)

    async def run(self) -> Exchange:
        task = asyncio.create_task(self.exchange.run())
        for host in self.stage.hosts:
            await host.has_request.wait()
        for name in self.order:
            self.may_answer[name].set()
        await task
        return self.exchange


def whole_stream(name: str, tokens: int):
    return [content_event(f"{name} "), content_event("says it"), end_events(completion_tokens=tokens)]


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_two_attempts_that_answer_together_are_not_mixed_up(order):
    stage = Stage(*hosts(), hedge=True)
    exchange = await SimultaneousAttempts(stage, whole_stream("a", 11), whole_stream("b", 22), order=order).run()
    name = exchange.text[0]
    [line] = stage.log.of("request")
    assert exchange.context.record.name == f"{name}/m"
    assert (line["upstream"], line["upstream_request_id"]) == (name, f"{name}-1")
    assert (line["completion_tokens"], line["attempts"]) == ({"a": 11, "b": 22}[name], 2)
    assert not any(any(counts) for counts in stage.resources_in_use().values())


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_two_unary_attempts_that_answer_together_are_not_mixed_up(order):
    stage = Stage(*hosts(), hedge=True)
    attempts = SimultaneousAttempts(stage, [completion("a")], [completion("b")], order=order, stream=False)
    exchange = await attempts.run()
    assert exchange.context.record.name == f"{exchange.text}/m"
    assert stage.log.of("request")[0]["upstream"] == exchange.text


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("shown", ["a", "b"])
async def test_a_broken_answer_is_a_failure_of_the_attempt_that_gave_it(order, shown):
    """And no host's key is in the error or the log."""
    stage = Stage(*hosts(), hedge=True)

    def breaks(name):
        return [content_event(f"{name} "), 1, UpstreamFailed(f"{name} broke over {KEYS[shown]}.")]

    exchange = await SimultaneousAttempts(stage, breaks("a"), breaks("b"), order=order).run()
    name = exchange.text[0]
    assert exchange.error.message == f"{name} broke over ***."
    [failed], [line] = stage.log.of("upstream failed"), stage.log.of("request")
    assert (failed["upstream"], failed["reason"]) == (name, f"{name} broke over ***.")
    assert (line["upstream"], line["reason"]) == (name, f"{name} broke over ***.")
    assert not any(KEYS[shown] in json.dumps(fields, default=str) for _, fields in stage.log.lines)


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_if_both_attempts_fail_together_the_reported_failure_is_logged_for_its_own_host(order):
    """The failure of `a` is the caller's fault, so it ends the request."""
    stage = Stage(*hosts(), hedge=True)
    attempts = SimultaneousAttempts(
        stage,
        [UpstreamRejected(f"a refuses {KEYS['b']}.")],
        [UpstreamFailed(f"b fails with {KEYS['a']}.")],
        order=order,
    )
    exchange = await attempts.run()
    assert exchange.error.message == "a refuses ***."
    assert exchange.context.record.name == "a/m"
    assert stage.log.of("request")[0]["upstream"] == "a"
    assert {line["upstream"]: line["reason"] for line in stage.log.of("upstream failed")} == {
        "a": "a refuses ***.",
        "b": "b fails with ***.",
    }


def test_first_sent_s_is_the_time_of_the_attempt_that_was_sent_first():
    """Hedged attempts may end in any order; 0.0 means that one was not sent."""
    context = RequestContext("req_1", "chat", FakeClock())
    for sent_s in (3.0, 0.0, 2.0, 4.0):
        context.note_sent(sent_s)
    assert context.first_sent_s == 2.0


async def test_a_continued_answer_is_logged_for_its_last_host():
    stage = Stage(*hosts(), dialect="vllm", on_stream_failure="continue")
    first, second = stage.hosts
    first.play([content_event("a "), StreamBroken(f"gone with {KEYS['b']}")])
    second.play([content_event("b"), end_events(completion_tokens=7)])
    exchange = await stage.ask()
    assert (exchange.text, exchange.context.record.name) == ("a b", "b/m")
    [broken], [line] = stage.log.of("stream continued"), stage.log.of("request")
    assert (broken["broken_upstream"], broken["upstream"], line["upstream"]) == ("a", "b", "b")
    assert stage.log.of("upstream failed")[0]["reason"] == "gone with ***"


async def test_a_break_without_a_continuation_is_logged_for_the_host_that_broke():
    stage = Stage(*hosts(), dialect="vllm", on_stream_failure="continue")
    first, second = stage.hosts
    first.play([content_event("a "), StreamBroken("gone")])
    second.play([UpstreamFailed("no")])
    exchange = await stage.ask()
    assert (exchange.error.message, exchange.context.record.name) == ("gone", "a/m")


async def test_a_disconnect_is_logged_for_the_host_that_was_answering():
    stage = Stage(*hosts())
    first, second = stage.hosts
    first.play([UpstreamFailed("no")])
    second.play([asyncio.Event()])
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await second.has_request.wait()
    task.cancel()
    await asyncio.wait([task])
    [line] = stage.log.of("request")
    assert (line["status"], line["upstream"]) == (499, "b")
    assert stage.metrics.registry.get_sample_value("tidegate_upstream_aborts_total", {"upstream": "b"}) == 1


async def test_a_disconnect_during_a_continuation_is_logged_for_its_host():
    stage = Stage(*hosts(), dialect="vllm", on_stream_failure="continue")
    first, second = stage.hosts
    first.play([content_event("a "), StreamBroken("gone")])
    second.play([asyncio.Event()])
    exchange = Exchange(stage)
    task = asyncio.create_task(exchange.run())
    await second.has_request.wait()
    await turns(3)
    task.cancel()
    await asyncio.wait([task])
    assert stage.log.of("request")[0]["upstream"] == "b"
    assert not any(any(counts) for counts in stage.resources_in_use().values())
