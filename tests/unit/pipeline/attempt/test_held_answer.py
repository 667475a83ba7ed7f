"""Everything that an attempt holds is given back exactly once."""

import pytest
from tidegate.config.concurrency import AdmissionConfig
from tidegate.config.routing import HealthConfig
from tidegate.errors import UpstreamFailed
from tidegate.limits.concurrency import Gate
from tidegate.pipeline.attempt.held_answer import HeldAnswer
from tidegate.pipeline.context import RequestContext, Tried
from tidegate.protocol.usage import Usage
from tidegate.routing.target_registry import Board
from tidegate.routing.targets import Target

from tests.fakes.candidates import ask
from tests.fakes.clock import FakeClock

TARGET = Target("host", "m")


class Answer:
    """Closing it may fail."""

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
    """One at a host with a gate."""

    def __init__(self, answer=None) -> None:
        self.clock = FakeClock()
        self.board = Board(self.clock, HealthConfig(failures=1, probe=False))
        self.gate = Gate("host", AdmissionConfig(concurrency=1), self.clock)
        self.context = RequestContext("req_1", "chat", self.clock)
        self.tried = Tried("host", "m")
        self.answer = answer or Answer()
        request = ask()
        flight = self.board.begin(TARGET, request)
        self.held = HeldAnswer(self.tried, flight, request, self.context)

    async def succeed(self):
        self.held.place = await self.gate.enter()
        self.tried.sent_s = self.clock.monotonic_s()
        self.clock.advance(2.0)
        self.tried.got_content(self.clock.monotonic_s())
        self.held.set_answer(self.answer)
        self.tried.usage, self.tried.is_whole = Usage(3, 2, 5), True
        return self

    def taken(self):
        return self.board.of(TARGET).in_flight, self.gate.in_flight


async def test_an_answer_holds_what_its_attempt_took_until_it_is_closed():
    attempt = await Attempt().succeed()
    assert attempt.taken() == (1, 1)
    assert await attempt.held.read() == [b"x"]
    attempt.held.close()
    assert (attempt.taken(), attempt.answer.closed) == ((0, 0), 1)
    assert attempt.board.of(TARGET).latency.ttft_s(1) == 2.0


async def test_further_calls_do_nothing():
    attempt = await Attempt().succeed()
    attempt.held.close()
    attempt.held.close()
    attempt.held.give_back(UpstreamFailed("late"))
    assert (attempt.taken(), attempt.answer.closed) == ((0, 0), 1)


async def test_an_attempt_that_yields_nothing_gives_its_place_back_and_says_why():
    attempt = Attempt()
    attempt.held.place = await attempt.gate.enter()
    attempt.held.give_back(UpstreamFailed("no"))
    assert attempt.taken() == (0, 0)
    assert attempt.board.of(TARGET).health.is_out


async def test_an_attempt_without_a_place_gives_none_back():
    attempt = Attempt()
    attempt.held.give_back()
    assert attempt.taken() == (0, 0)
    assert not attempt.board.of(TARGET).health.is_out


async def test_what_broke_in_the_middle_counts_against_its_target():
    attempt = await Attempt().succeed()
    attempt.tried.failure, attempt.tried.is_whole = UpstreamFailed("broke"), False
    attempt.held.close()
    assert attempt.board.of(TARGET).health.is_out


async def test_everything_is_given_back_though_a_part_of_it_raises():
    attempt = await Attempt(Answer(RuntimeError("no loop"))).succeed()
    with pytest.raises(RuntimeError, match="no loop"):
        attempt.held.close()
    assert attempt.taken() == (0, 0)
