"""`ScorableAnswers`: which caller may score which answer, and the effect of a score."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fakes.clock import FakeClock
from tidegate.auth import KeyPrincipal
from tidegate.errors import AnswerNotFound
from tidegate.operations.feedback import ScorableAnswers
from tidegate.pipeline.context import AttemptRecord, RequestContext
from tidegate.routing.quality import Qualities
from tidegate.routing.targets import Target

TARGET = Target("host", "m")


class Checks:
    def __init__(self, share):
        self.share = share

    def verdict(self):
        return self.share


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def qualities(clock):
    return Qualities(clock)


@pytest.fixture
def answered(qualities, clock):
    answered = ScorableAnswers(qualities, clock)
    answered.remember("req-1", "anna", "host/m", "chat")
    return answered


@pytest.mark.parametrize(("score", "mean"), [(1, 2.5 / 4.5), (0, 0.5), (-1, 2 / 4.5)])
def test_a_score_changes_the_quality_of_the_target(answered, qualities, score, mean):
    answered.score("req-1", "anna", score)
    assert qualities.mean(TARGET, "chat") == pytest.approx(mean)
    assert qualities.mean(TARGET, "json") == 0.5


def test_a_second_score_replaces_the_first(answered, qualities):
    for score in (1, -1, 1, 1, -0.5):
        answered.score("req-1", "anna", score)
    assert qualities.mean(TARGET, "chat") == pytest.approx((2 + 0.25 * 0.5) / 4.5)


@pytest.mark.parametrize(("request_id", "caller"), [("req-2", "anna"), ("req-1", "ben"), ("req-1\0anna", "")])
def test_an_unknown_answer_or_one_of_another_caller_is_not_found(answered, request_id, caller):
    with pytest.raises(AnswerNotFound) as caught:
        answered.score(request_id, caller, 1)
    assert (caught.value.status, caught.value.param) == (404, "request_id")


def test_the_same_request_id_of_two_callers_means_two_requests(answered, qualities):
    answered.remember("req-1", "ben", "other/m", "chat")
    answered.score("req-1", "anna", 1)
    assert qualities.mean(Target("other", "m"), "chat") == 0.5


def test_after_an_hour_an_answer_is_forgotten(answered, clock):
    clock.advance(3600)
    with pytest.raises(AnswerNotFound, match="of the last 60 minutes"):
        answered.score("req-1", "anna", 1)


@pytest.mark.parametrize(("share", "mean"), [(0.0, 2 / 4.05), (1.0, 2.05 / 4.05), (None, 0.5)])
def test_the_verdict_of_the_checks_counts_too(answered, qualities, clock, share, mean):
    context = RequestContext("req-9", "chat", clock)
    context.principal, context.task, context.record = KeyPrincipal("anna"), "json", AttemptRecord("host", "m")
    context.record.answer_check = Checks(share)
    answered.record(context)
    assert qualities.mean(TARGET, "json") == pytest.approx(mean)
    answered.score("req-9", "anna", 1)


class AnsweredMachine(RuleBasedStateMachine):
    """Compares `ScorableAnswers` with a plain list of all answers."""

    MAX_ANSWERS, KEEP_S = 4, 60.0

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.answered = ScorableAnswers(
            Qualities(self.clock), self.clock, max_answers=self.MAX_ANSWERS, keep_s=self.KEEP_S
        )
        self.answers = []

    @rule(request_id=st.sampled_from("abcdef"), caller=st.sampled_from("xy"))
    def answer(self, request_id, caller):
        self.answered.remember(request_id, caller, "host/m", "chat")
        self.answers = [entry for entry in self.answers if entry[0] != (request_id, caller)]
        self.answers.append(((request_id, caller), self.clock.monotonic_s() + self.KEEP_S))

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 60.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(request_id=st.sampled_from("abcdef"), caller=st.sampled_from("xy"), score=st.floats(-1, 1))
    def score(self, request_id, caller, score):
        known = {key for key, until_s in self.answers[-self.MAX_ANSWERS :] if until_s > self.clock.monotonic_s()}
        try:
            self.answered.score(request_id, caller, score)
            found = True
        except AnswerNotFound:
            found = False
        assert ((request_id, caller) in known) == found

    @invariant()
    def is_bounded(self):
        assert len(self.answered) <= self.MAX_ANSWERS


TestAnswered = AnsweredMachine.TestCase
TestAnswered.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
