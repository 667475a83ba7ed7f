"""The order of the config."""

from random import Random

from tests.fakes.candidates import candidate, names, routing_request
from tidegate.routing.policies.ordered import Ordered


def test_the_order_of_the_config_stays():
    candidates = [candidate("a", ttft_s=9, price_usd=9), candidate("b"), candidate("c", quality=1)]
    assert names(Ordered().rank(candidates, routing_request(), Random(1))) == "abc"


def test_nothing_is_compared():
    assert [each.score for each in Ordered().rank([candidate()], routing_request(), Random(1))] == [None]
