"""The cheapest target comes first."""

from random import Random

from tests.fakes.candidates import candidate, names, routing_request
from tidegate.routing.policies.least_cost import LeastCost


def order(*candidates):
    return LeastCost().rank(candidates, routing_request(), Random(1))


def test_the_cheapest_comes_first_and_unknown_prices_last():
    candidates = (
        candidate("d"),
        candidate("c", price_usd=2.0),
        candidate("b", price_usd=0.1),
        candidate("a", price_usd=0.0),
    )
    assert names(order(*candidates)) == "abcd"
    assert [each.score for each in order(*candidates)] == [0.0, 0.1, 2.0, None]


def test_of_equally_cheap_ones_the_faster_comes_first():
    slow, fast = candidate("b", price_usd=1.0, ttft_s=2.0), candidate("a", price_usd=1.0, ttft_s=1.0)
    assert names(order(slow, fast)) == "ab"
