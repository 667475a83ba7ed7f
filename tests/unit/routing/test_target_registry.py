"""What is known of each target, and what attempts report."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tidegate.config.routing import HealthConfig
from tidegate.errors import (
    AnswerMisfit,
    EngineUnavailable,
    StreamBroken,
    TargetBusy,
    ToolCallUnparsable,
    UnsupportedParameter,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tidegate.protocol.usage import Usage
from tidegate.routing.target_registry import _MAX_STANDINGS, Board
from tidegate.routing.targets import Target

from tests.fakes.candidates import ask
from tests.fakes.clock import FakeClock

A = Target("a", "m")
ASK = ask()
THEIRS = [UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, StreamBroken]
NOT_THEIRS = [
    AnswerMisfit,
    EngineUnavailable,
    TargetBusy,
    ToolCallUnparsable,
    UnsupportedParameter,
    UpstreamLacksModel,
    UpstreamLacksOperation,
    UpstreamRateLimited,
    UpstreamRefusedUs,
    UpstreamRejected,
]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def board(clock):
    return Board(clock, HealthConfig(failures=3, probe=False))


def busy(seconds):
    error = UpstreamFailed("no", status=503, retry_after_s=seconds)
    error.is_told = True
    return error


def test_a_target_is_in_cooldown_after_a_503_with_retry_after(board, clock):
    """Also in panic mode; a single request is its trial."""
    board.begin(A, ASK).end(busy(600))
    assert board.of(A).cooldown_s == 600
    assert board.begin(A, ASK, in_panic=True) is None
    clock.advance(60)
    trial = board.begin(A, ASK)
    assert board.begin(A, ASK, in_panic=True) is None
    trial.end(busy(100))
    assert board.of(A).cooldown_s == 100
    clock.advance(10)
    board.begin(A, ASK).end()  # nothing was learnt
    assert board.of(A).cooldown_s == 90
    clock.advance(10)
    board.begin(A, ASK).end(is_whole=True)
    assert (board.of(A).cooldown_s, board.begin(A, ASK) is None) == (0, False)


def test_the_first_content_of_the_trial_ends_the_cooldown(board, clock):
    board.begin(A, ASK).end(busy(600))
    clock.advance(60)
    board.begin(A, ASK).began()
    assert board.begin(A, ASK) is not None


def test_only_a_wait_that_the_host_sent_begins_a_cooldown(board):
    board.begin(A, ASK).end(UpstreamFailed("no", status=503, retry_after_s=5))
    assert board.of(A).cooldown_s == 0


@pytest.mark.parametrize("error", THEIRS)
def test_what_is_the_targets_fault_leaves_it_out(board, error):
    for _ in range(3):
        board.begin(A, ASK).end(error("no"))
    assert board.begin(A, ASK) is None
    assert board.of(A).latency.failure_rate > 0


@pytest.mark.parametrize("error", NOT_THEIRS)
def test_what_is_not_does_not(board, error):
    for _ in range(10):
        board.begin(A, ASK).end(error("no"))
    assert board.of(A).health.state == "ok"
    assert board.of(A).latency.failure_rate == 0


def test_in_a_panic_it_is_tried_all_the_same(board):
    for _ in range(3):
        board.begin(A, ASK).end(UpstreamFailed("no"))
    assert board.begin(A, ASK, in_panic=True) is not None


def test_an_engine_that_is_ready_anew_starts_fresh(board):
    for _ in range(3):
        board.begin(A, ASK).end(UpstreamFailed("no"))
    board.readmit("b")
    assert board.of(A).health.is_out
    board.readmit("a")
    assert board.of(A).health.state == "ok"


def test_the_times_are_those_of_the_target(board, clock):
    flight = board.begin(A, ASK)
    clock.advance(1)
    sent_s = clock.monotonic_s()
    clock.advance(2)
    flight.began()
    first_s = clock.monotonic_s()
    clock.advance(4)
    flight.end(sent_s=sent_s, first_s=first_s, usage=Usage(10, 5, 15), is_whole=True)
    latency = board.of(A).latency
    assert (latency.ttft_s(10), latency.per_token_s) == (2.0, 1.0)


def test_a_long_answer_in_one_piece_is_no_long_wait(board, clock):
    """Nobody saw its first token: it was not the whole time, and while it is written nobody waits."""
    flight = board.begin(A, ASK)
    clock.advance(10)
    pressure = board.of(A).pressure
    assert (pressure.waiting, pressure.predict_s(10)) == (0, 0)
    ttft_s = flight.end(sent_s=clock.monotonic_s() - 10, usage=Usage(10, 1000, 1010), is_whole=True)
    assert 0 < pressure.predict_s(10) < 0.1
    assert 0 < ttft_s < 0.1


def test_it_says_how_long_a_first_token_took_where_the_answer_is_whole(board, clock):
    flight = board.begin(A, ASK)
    assert flight.end(sent_s=1.0, first_s=3.5, is_whole=True) == 2.5
    assert flight.end(sent_s=1.0, first_s=3.5, is_whole=True) is None
    assert board.begin(A, ASK).end(sent_s=1.0, first_s=3.5) is None


def test_where_first_tokens_are_seen_all_the_same_they_count(board):
    """Some engines are asked for a stream though the caller wants none."""
    flight = board.begin(A, ASK)
    flight.began()
    flight.end(first_s=1.0, is_whole=True)
    board.begin(A, ASK)
    assert board.of(A).pressure.waiting == 1


def test_a_caller_who_leaves_says_nothing_of_the_target(board, clock):
    flight = board.begin(A, ASK)
    clock.advance(50)
    flight.end()
    standing = board.of(A)
    assert (standing.in_flight, standing.pressure.waiting, standing.latency.ttft_s(1)) == (0, 0, 0.0)


def test_configured_targets_are_kept_whatever_names_callers_invent(board):
    board.keep([A])
    board.begin(A, ASK).end(UpstreamFailed("no"))
    failed = board.of(A)
    for number in range(5000):
        board.of(Target("a", f"m{number}"))
    assert board.of(A) is failed
    assert (board.kept(), len(board.all())) == ([failed], 4097)


def test_of_invented_names_the_one_that_was_asked_for_last_is_kept_longest(board):
    asked = board.of(Target("a", "asked"))
    for number in range(5000):
        board.of(Target("a", f"m{number}"))
        assert board.of(Target("a", "asked")) is asked


def test_a_slow_reader_does_not_make_a_target_slow(board, clock):
    flight = board.begin(A, ASK)
    sent_s = clock.monotonic_s()
    clock.advance(60)
    flight.end(sent_s=sent_s, first_s=sent_s + 2, reading_s=54, usage=Usage(10, 5, 15), is_whole=True)
    assert board.of(A).latency.per_token_s == 1.0


def test_a_first_content_ends_a_trial(board, clock):
    for _ in range(3):
        board.begin(A, ASK).end(UpstreamFailed("no"))
    clock.advance(1000)
    flight = board.begin(A, ASK)
    assert board.of(A).health.state == "trial"
    flight.began()
    assert board.of(A).health.state == "ramping"


def test_what_it_is_asked_for_in_vain_is_not_what_it_answers(board):
    embeddings = ask()
    embeddings.endpoint = "embeddings"
    board.begin(A, embeddings).end(UpstreamFailed("no"))
    assert board.of(A).endpoint == "chat"
    board.begin(A, embeddings).end(is_whole=True)
    assert board.of(A).endpoint == "embeddings"


def test_names_of_callers_own_are_not_all_kept(board):
    for number in range(5000):
        board.begin(Target("a", f"m{number}"), ASK).end()
    assert len(board.all()) <= 4097


class Machine(RuleBasedStateMachine):
    """Whatever becomes of flights, what is in flight is what has not ended."""

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.board = Board(self.clock, HealthConfig(probe=False))
        self.flights = []

    @rule()
    def begins(self):
        flight = self.board.begin(A, ASK)
        if flight is not None:
            self.flights.append(flight)

    @precondition(lambda self: self.flights)
    @rule(kind=st.sampled_from([None, *THEIRS, *NOT_THEIRS]), is_whole=st.booleans(), has_begun=st.booleans())
    def ends(self, kind, is_whole, has_begun):
        flight = self.flights.pop(0)
        if has_begun:
            flight.began()
        flight.end(None if kind is None else kind("no"), is_whole=is_whole and kind is None)
        flight.end(UpstreamFailed("once more"))

    @rule(seconds=st.floats(0, 200))
    def waits(self, seconds):
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_lost(self):
        assert self.board.of(A).in_flight == len(self.flights)
        assert 0 <= self.board.of(A).pressure.waiting <= len(self.flights)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=25)


def test_a_reload_forgets_nothing_of_what_it_is_about_to_keep(clock):
    """Though callers have invented as many names as there is room for."""
    board = Board(clock, HealthConfig(failures=1, probe=False))
    failed = Target("u", "failed")
    board.begin(failed, ASK).end(UpstreamFailed("no"))
    for number in range(_MAX_STANDINGS - 1):
        board.of(Target("u", str(number)))
    board.keep([Target("u", "new"), Target("u", "newer"), Target("u", "failed", weight=2.0)])
    kept = board.kept()[-1]
    assert (kept.health.is_out, kept.target.weight) == (True, 2.0)
