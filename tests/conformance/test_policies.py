"""What holds of every routing policy."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tidegate.config.models import ModelConfig, TargetConfig
from tidegate.routing.policies.registry import POLICIES, make

from tests.fakes.candidates import candidate, crowds, routing_request

ASK = routing_request()


def policy_of(name):
    return make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy=name))


@pytest.fixture(params=POLICIES)
def policy(request):
    return policy_of(request.param)


@settings(max_examples=100)
@given(st.sampled_from(sorted(POLICIES)).map(policy_of), crowds(), st.randoms())
def test_every_candidate_is_placed_once(policy, crowd, rng):
    order = [one.candidate for one in policy.place(crowd, ASK, rng)]
    assert sorted(one.target.name for one in crowd) == sorted(one.target.name for one in order)
    assert all(one in crowd for one in order)


def test_nobody_is_nothing_to_place(policy):
    assert list(policy.place([], ASK, Random(1))) == []


def test_the_same_dice_give_the_same_order(policy):
    crowd = [candidate(name, ttft_s=1.0, share=0.5) for name in "abcdef"]
    assert list(policy.place(crowd, ASK, Random(7))) == list(policy.place(crowd, ASK, Random(7)))


def test_the_candidates_handed_over_stay_as_they_are(policy):
    crowd = [candidate(name, quality=quality) for name, quality in zip("abc", (0.1, 0.9, 0.5), strict=True)]
    kept = list(crowd)
    policy.place(crowd, ASK, Random(1))
    assert kept == crowd


def test_one_in_slow_start_comes_first_as_often_as_its_share_says(policy):
    """Of two alike; by weight, a share of a fifth beside a whole one is a sixth."""
    rng, first = Random(3), 0
    for _ in range(4000):
        order = policy.place([candidate("a", share=0.2), candidate("b")], ASK, rng)
        first += order[0].candidate.target.upstream == "a"
    assert 0.14 < first / 4000 < 0.23


@pytest.mark.parametrize("name", ["least_latency", "least_cost", "best_quality", "balanced"])
@settings(max_examples=100)
@given(crowds(least=1, most=1), st.randoms())
def test_who_is_better_in_everything_comes_first(name, crowd, rng):
    policy = make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy=name))
    worse = replace(
        crowd[0],
        in_flight=crowd[0].in_flight + 1,
        ttft_s=crowd[0].ttft_s + 1,
        per_token_s=crowd[0].per_token_s + 0.1,
        failure_rate=crowd[0].failure_rate / 2 + 0.5,
        price_usd=(crowd[0].price_usd or 0.0) + 1,
        quality=crowd[0].quality / 2,
        share=1.0,
    )
    better = replace(
        candidate("z", is_local=worse.target.is_local),
        in_flight=crowd[0].in_flight,
        ttft_s=crowd[0].ttft_s + 0.1,
        per_token_s=crowd[0].per_token_s,
        failure_rate=crowd[0].failure_rate / 2,
        price_usd=crowd[0].price_usd or 0.0,
        quality=crowd[0].quality / 2 + 0.5,
    )
    order = policy.place([worse, better], ASK, rng)
    assert better == order[0].candidate
