"""The policies by their names in the config."""

from collections.abc import Callable, Mapping

from tidegate.config.models import ModelConfig
from tidegate.config.models import Policy as Name
from tidegate.routing.candidate import Policy
from tidegate.routing.policies.balanced import Balanced
from tidegate.routing.policies.best_quality import BestQuality
from tidegate.routing.policies.least_cost import LeastCost
from tidegate.routing.policies.least_latency import LeastLatency
from tidegate.routing.policies.local_first import LocalFirst
from tidegate.routing.policies.ordered import Ordered
from tidegate.routing.policies.weighted import Weighted

POLICIES: Mapping[Name, Callable[[ModelConfig], Policy]] = {
    "ordered": lambda _: Ordered(),
    "weighted": lambda _: Weighted(),
    "least_latency": lambda _: LeastLatency(),
    "least_cost": lambda _: LeastCost(),
    "best_quality": lambda _: BestQuality(),
    "local_first": lambda _: LocalFirst(),
    "balanced": lambda model: Balanced(model.balance),
}


def make(model: ModelConfig) -> Policy:
    """The policy of `model`."""
    return POLICIES[model.policy](model)
