"""The policies by name."""

from typing import get_args

from proxy.config.models import BalanceConfig, ModelConfig, Policy, TargetConfig
from proxy.routing.policies.balanced import Balanced
from proxy.routing.policies.registry import POLICIES, make


def test_every_name_of_the_config_is_a_policy():
    assert set(get_args(Policy)) == set(POLICIES)


def test_balanced_gets_the_weights_of_its_model():
    balance = BalanceConfig(cost=7)
    policy = make(ModelConfig(targets=(TargetConfig(upstream="x"),), policy="balanced", balance=balance))
    assert isinstance(policy, Balanced)
    assert balance == policy._weights
