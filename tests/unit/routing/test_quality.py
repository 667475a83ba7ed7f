"""How good a target's answers are, and how fast observations decay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeClock
from tidegate.config.evals import EvalFile, EvalScore
from tidegate.routing.quality import SOURCES, WEIGHTS, Posterior, Qualities
from tidegate.routing.targets import Target

DAY_S = 86_400.0
HALF_LIFE_S = 7 * DAY_S
TARGET = Target("host", "m")

shares = st.floats(0, 1)
notes = st.tuples(shares, st.floats(0.01, 10), st.sampled_from(SOURCES))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def qualities(clock):
    return Qualities(clock, half_life_s=HALF_LIFE_S)


def test_without_observations_the_mean_is_the_prior(qualities):
    """0.5, or the operator's value."""
    assert qualities.mean(TARGET, "chat") == 0.5
    assert qualities.mean(Target("host", "m", quality=0.9), "chat") == 0.9
    assert qualities.report(TARGET) == []


def test_the_prior_is_worth_four_observations(qualities):
    for _ in range(4):
        qualities.note("host/m", "chat", 1.0, "eval")
    assert qualities.mean(TARGET, "chat") == 0.75
    assert qualities.mean(Target("host", "m", quality=1.0), "chat") == 1.0


def test_tasks_and_targets_have_separate_posteriors(qualities):
    qualities.note("host/m", "json", 0.0, "eval")
    assert qualities.mean(TARGET, "json") < 0.5
    assert qualities.mean(TARGET, "chat") == 0.5
    assert qualities.mean(Target("host", "other"), "json") == 0.5


def test_an_eval_outweighs_feedback_and_feedback_outweighs_a_check():
    assert WEIGHTS["eval"] > WEIGHTS["feedback"] > WEIGHTS["checks"]


def test_no_flood_of_checks_hides_an_eval(qualities):
    for _ in range(100):
        qualities.note("host/m", "json", 0.0, "eval")
    for _ in range(10_000):
        qualities.note("host/m", "json", 1.0, "checks")
    assert qualities.mean(TARGET, "json") < 0.2


def test_an_observation_counts_half_after_its_half_life(qualities, clock):
    for _ in range(8):
        qualities.note("host/m", "chat", 1.0, "eval")
    clock.advance(HALF_LIFE_S)
    assert qualities.mean(TARGET, "chat") == (2 + 4) / (4 + 4)


def test_after_a_long_time_observations_do_not_count(qualities, clock):
    for _ in range(100):
        qualities.note("host/m", "chat", 0.0, "eval")
    clock.advance(60 * HALF_LIFE_S)
    assert qualities.mean(TARGET, "chat") == pytest.approx(0.5)


def test_the_mean_follows_a_model_that_got_better(qualities, clock):
    for day in range(60):
        qualities.note("host/m", "chat", 0.0 if day < 30 else 1.0, "eval", 10)
        clock.advance(DAY_S)
    assert qualities.mean(TARGET, "chat") > 0.85


def test_an_eval_of_the_past_counts_with_its_decayed_weight(qualities, clock):
    scores = (EvalScore("host/m", "chat", 8, 8), EvalScore("host/m", "json", 0, 0))
    qualities.load(EvalFile("1", clock.now_s() - HALF_LIFE_S, scores))
    assert qualities.mean(TARGET, "chat") == (2 + 4) / (4 + 4)
    assert qualities.mean(TARGET, "json") == 0.5


def test_an_eval_from_a_clock_that_runs_ahead_counts_as_one_of_now(qualities, clock):
    qualities.load(EvalFile("1", clock.now_s() + HALF_LIFE_S, (EvalScore("host/m", "chat", 4, 4),)))
    assert qualities.mean(TARGET, "chat") == 0.75


def test_an_eval_replaces_the_one_before(qualities, clock):
    """So a reload does not count it twice; callers' feedback stays."""
    qualities.note("host/m", "json", 1.0, "feedback", 4)
    for right in (0, 8, 8):
        qualities.load(EvalFile("1", clock.now_s(), (EvalScore("host/m", "chat", 8, right),)))
    assert qualities.mean(TARGET, "chat") == (2 + 8) / (4 + 8)
    assert qualities.mean(TARGET, "json") == 0.75
    qualities.load(None)
    assert qualities.mean(TARGET, "chat") == 0.5
    assert qualities.mean(TARGET, "json") == 0.75


def test_a_report_shows_the_evidence_by_source(qualities):
    qualities.note("host/m", "chat", 1.0, "eval")
    qualities.note("host/m", "chat", 1.0, "feedback")
    qualities.note("other/m", "chat", 1.0, "feedback")
    (observations,) = qualities.report(TARGET)
    assert (observations.target, observations.task) == ("host/m", "chat")
    assert observations.evidence == {"eval": 1.0, "feedback": 0.5, "checks": 0.0}
    assert 0 <= observations.low < observations.mean < observations.high <= 1


def test_the_number_of_posteriors_is_bounded(clock):
    """The one whose last note is the oldest is dropped first."""
    qualities = Qualities(clock, max_posteriors=2)
    for name in ("a/m", "b/m", "a/m", "c/m"):
        qualities.note(name, "chat", 1.0, "eval")
    known = [name for name in "abc" if qualities.mean(Target(name, "m"), "chat") != 0.5]
    assert known == ["a", "c"]


def test_an_observation_can_be_corrected(qualities):
    qualities.note("host/m", "chat", 1.0, "feedback")
    qualities.note("host/m", "chat", 0.2, "feedback")
    mean_before = qualities.mean(TARGET, "chat")
    qualities.correct("host/m", "chat", 0.2, 0.9, "feedback")
    assert qualities.mean(TARGET, "chat") == pytest.approx(mean_before + 0.7 * 0.5 / 5)
    qualities.correct("host/m", "chat", 0.9, 0.2, "feedback")
    assert qualities.mean(TARGET, "chat") == pytest.approx(mean_before)
    qualities.correct("gone/m", "chat", 0.0, 1.0, "feedback")
    assert qualities.mean(Target("gone", "m"), "chat") == 0.5


@given(st.lists(st.tuples(shares, shares), max_size=30))
@settings(max_examples=50)
def test_corrections_stay_within_the_observed_weight(observations):
    posterior = Posterior(0.0)
    posterior.note(0.5, 1.0, "feedback", 0.0)
    for before, after in observations:
        posterior.correct(before, after, 1.0, "feedback", 0.0)
        assert 0.4 <= posterior.mean(0.5, 0.0) <= 0.6


@given(st.lists(notes, max_size=30), shares, st.floats(0, 1e9))
@settings(max_examples=100)
def test_a_mean_is_a_share(observations, prior, later_s):
    posterior = Posterior(0.0)
    for good, weight, source in observations:
        posterior.note(good, weight, source, 0.0)
    assert -1e-9 <= posterior.mean(prior, later_s) <= 1 + 1e-9
    assert posterior.deviation(prior, later_s) <= 0.5


@given(st.lists(notes, min_size=1, max_size=8), st.randoms())
@settings(max_examples=100)
def test_the_order_of_observations_at_one_moment_does_not_matter(observations, rng):
    """As long as no source has reached its maximum weight."""
    observations = [(good, min(weight, 2.0), source) for good, weight, source in observations]
    means = []
    for _ in range(2):
        posterior = Posterior(0.0)
        for good, weight, source in observations:
            posterior.note(good, weight, source, 0.0)
        means.append(posterior.mean(0.5, 5.0))
        rng.shuffle(observations)
    assert means[0] == pytest.approx(means[1])


@given(shares, st.sampled_from(SOURCES))
@settings(max_examples=50)
def test_the_mean_approaches_the_observations(good, source):
    """As near as the weight of the prior allows."""
    posterior = Posterior(0.0)
    for _ in range(500):
        posterior.note(good, 1.0, source, 0.0)
    assert posterior.mean(0.5, 0.0) == pytest.approx(good, abs=0.5 * 4 / 24 + 1e-9)


@given(st.lists(st.tuples(shares, st.floats(0, 30 * DAY_S)), min_size=1, max_size=20))
@settings(max_examples=50)
def test_the_mean_is_the_sum_of_the_decayed_observations(observations):
    posterior, recorded, now_s = Posterior(0.0, HALF_LIFE_S), [], 0.0
    for good, pause_s in observations:
        posterior.note(good, 1.0, "eval", now_s)
        recorded.append((good, now_s))
        now_s += pause_s
    weights = [(good, 0.5 ** ((now_s - at_s) / HALF_LIFE_S)) for good, at_s in recorded]
    expected = (0.5 * 4 + sum(good * weight for good, weight in weights)) / (4 + sum(weight for _, weight in weights))
    assert posterior.mean(0.5, now_s) == pytest.approx(expected)


def test_the_replicas_of_an_engine_are_as_good_as_each_other(qualities):
    """They have one model; evals use the engine's name only."""
    one, two = (Target(f"gpu:{number}", "m", is_local=True, group="gpu") for number in (1, 2))
    for name in ("gpu/m", "gpu:1/m", "gpu:2/m"):
        qualities.note(name, "chat", 1.0, "eval")
    assert qualities.mean(one, "chat") == qualities.mean(two, "chat") == pytest.approx(5 / 7)
    qualities.correct("gpu:2/m", "chat", 1.0, 0.0, "eval")
    assert qualities.mean(one, "chat") == pytest.approx(4 / 7)
    assert [quality.target for quality in qualities.report(two)] == ["gpu:2/m"]
