"""The policies by name."""

from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.fakes.candidates import candidate_lists, routing_request
from tidegate.config.models import BalanceConfig, ModelConfig, Policy, TargetConfig
from tidegate.routing.policies.balanced import Balanced
from tidegate.routing.policies.registry import POLICIES, make

FIELDS = {
    "latency": {"ttft_s": 9.0, "per_token_s": 9.0, "failure_rate": 0.9},
    "price": {"price_usd": 9.0},
    "quality": {"quality": 0.9},
}


def test_every_name_of_the_config_is_a_policy():
    assert set(get_args(Policy)) == set(POLICIES)


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=30)
@given(candidate_lists(), st.integers())
def test_a_policy_reads_only_the_signals_in_reads(name, candidates, seed):
    policy = make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy=name))
    unread = [fields for signal, fields in FIELDS.items() if signal not in policy.reads]
    first, *others = candidates
    for fields in unread:
        first = structs.replace(first, **fields)
    before, after = (policy.rank(each, routing_request(), Random(seed)) for each in (candidates, [first, *others]))
    assert [each.candidate.target for each in before] == [each.candidate.target for each in after]


def test_balanced_gets_the_weights_of_its_model():
    balance = BalanceConfig(cost=7)
    policy = make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy="balanced", balance=balance))
    assert isinstance(policy, Balanced)
    assert balance == policy._weights
