"""Properties of every routing policy."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.candidates import candidate, candidate_lists, routing_request
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.routing.policies.registry import POLICIES, make

REQUEST = routing_request()


def policy_of(name):
    return make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy=name))


@pytest.fixture(params=POLICIES)
def policy(request):
    return policy_of(request.param)


@settings(max_examples=100)
@given(st.sampled_from(sorted(POLICIES)).map(policy_of), candidate_lists(), st.randoms())
def test_every_candidate_is_placed_once(policy, candidates, rng):
    order = [each.candidate for each in policy.rank(candidates, REQUEST, rng)]
    assert sorted(each.target.name for each in candidates) == sorted(each.target.name for each in order)
    assert all(each in candidates for each in order)


def test_no_candidates_give_an_empty_order(policy):
    assert list(policy.rank([], REQUEST, Random(1))) == []


def test_the_same_random_numbers_give_the_same_order(policy):
    candidates = [candidate(name, ttft_s=1.0, share=0.5) for name in "abcdef"]
    assert list(policy.rank(candidates, REQUEST, Random(7))) == list(policy.rank(candidates, REQUEST, Random(7)))


def test_the_given_list_of_candidates_is_not_changed(policy):
    candidates = [candidate(name, quality=quality) for name, quality in zip("abc", (0.1, 0.9, 0.5), strict=True)]
    before = list(candidates)
    policy.rank(candidates, REQUEST, Random(1))
    assert before == candidates


def test_a_candidate_in_slow_start_comes_first_in_proportion_to_its_share(policy):
    """Of two equal candidates, one with a share of a fifth has a sixth of the total weight."""
    rng, first = Random(3), 0
    for _ in range(4000):
        order = policy.rank([candidate("a", share=0.2), candidate("b")], REQUEST, rng)
        first += order[0].candidate.target.upstream == "a"
    assert 0.14 < first / 4000 < 0.23


@pytest.mark.parametrize("name", ["least_latency", "least_cost", "best_quality", "balanced"])
@settings(max_examples=100)
@given(candidate_lists(least=1, most=1), st.randoms())
def test_the_better_candidate_in_every_respect_comes_first(name, candidates, rng):
    policy = make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy=name))
    worse = replace(
        candidates[0],
        in_flight=candidates[0].in_flight + 1,
        ttft_s=candidates[0].ttft_s + 1,
        per_token_s=candidates[0].per_token_s + 0.1,
        failure_rate=candidates[0].failure_rate / 2 + 0.5,
        price_usd=(candidates[0].price_usd or 0.0) + 1,
        quality=candidates[0].quality / 2,
        share=1.0,
    )
    better = replace(
        candidate("z", is_local=worse.target.is_local),
        in_flight=candidates[0].in_flight,
        ttft_s=candidates[0].ttft_s + 0.1,
        per_token_s=candidates[0].per_token_s,
        failure_rate=candidates[0].failure_rate / 2,
        price_usd=candidates[0].price_usd or 0.0,
        quality=candidates[0].quality / 2 + 0.5,
    )
    order = policy.rank([worse, better], REQUEST, rng)
    assert better == order[0].candidate
