"""`AnswerLease`: everything that an attempt holds is given back exactly once."""

import pytest

from tests.fakes.candidates import routing_request
from tests.fakes.clock import FakeClock
from tidegate.config.concurrency import ConcurrencyConfig
from tidegate.config.routing import HealthConfig
from tidegate.errors import UpstreamFailed
from tidegate.limits.concurrency import ConcurrencyLimit
from tidegate.pipeline.attempt.answer_lease import AnswerLease
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.protocol.usage import Usage
from tidegate.routing.target_registry import TargetRegistry
from tidegate.routing.targets import Target

TARGET = Target("host", "m")


class Answer:
    """An answer whose `close` may raise."""

    def __init__(self, error=None) -> None:
        self.closed = 0
        self.error = error

    async def read(self):
        return [b"x"]

    def heartbeat(self):
        return b""

    def close(self):
        self.closed += 1
        if self.error is not None:
            raise self.error


class Attempt:
    """One attempt at a host with a concurrency limit."""

    def __init__(self, answer=None) -> None:
        self.clock = FakeClock()
        self.target_registry = TargetRegistry(self.clock, HealthConfig(failures=1, probe=False))
        self.concurrency_limit = ConcurrencyLimit("host", ConcurrencyConfig(limit=1), self.clock)
        self.context = RequestContext("req_1", "chat", self.clock)
        self.record = AttemptRecord("host", "m")
        self.answer = answer or Answer()
        request = routing_request()
        in_flight = self.target_registry.begin(TARGET, request)
        self.held = AnswerLease(self.record, in_flight, request, self.context)

    async def succeed(self):
        self.held.slot = await self.concurrency_limit.acquire()
        self.record.sent_s = self.clock.monotonic_s()
        self.clock.advance(2.0)
        self.record.note_first_content(self.clock.monotonic_s())
        self.held.set_answer(self.answer)
        self.record.usage, self.record.is_whole = Usage(3, 2, 5), True
        return self

    def taken(self):
        return self.target_registry.stats_of(TARGET).in_flight, self.concurrency_limit.in_flight


async def test_an_answer_holds_what_its_attempt_took_until_it_is_closed():
    attempt = await Attempt().succeed()
    assert attempt.taken() == (1, 1)
    assert await attempt.held.read() == [b"x"]
    attempt.held.close()
    assert (attempt.taken(), attempt.answer.closed) == ((0, 0), 1)
    assert attempt.target_registry.stats_of(TARGET).latency.ttft_s(1) == 2.0


async def test_further_calls_do_nothing():
    attempt = await Attempt().succeed()
    attempt.held.close()
    attempt.held.close()
    attempt.held.release(UpstreamFailed("late"))
    assert (attempt.taken(), attempt.answer.closed) == ((0, 0), 1)


async def test_a_failed_attempt_releases_its_slot_and_counts_against_its_target():
    attempt = Attempt()
    attempt.held.slot = await attempt.concurrency_limit.acquire()
    attempt.held.release(UpstreamFailed("no"))
    assert attempt.taken() == (0, 0)
    assert attempt.target_registry.stats_of(TARGET).health.is_out


async def test_an_attempt_without_a_slot_releases_none():
    attempt = Attempt()
    attempt.held.release()
    assert attempt.taken() == (0, 0)
    assert not attempt.target_registry.stats_of(TARGET).health.is_out


async def test_an_answer_that_broke_off_counts_against_its_target():
    attempt = await Attempt().succeed()
    attempt.record.failure, attempt.record.is_whole = UpstreamFailed("broke"), False
    attempt.held.close()
    assert attempt.target_registry.stats_of(TARGET).health.is_out


async def test_everything_is_given_back_though_a_part_of_it_raises():
    attempt = await Attempt(Answer(RuntimeError("no loop"))).succeed()
    with pytest.raises(RuntimeError, match="no loop"):
        attempt.held.close()
    assert attempt.taken() == (0, 0)
