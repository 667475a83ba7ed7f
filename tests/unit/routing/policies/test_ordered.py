"""The order of the config."""

from random import Random

from tidegate.routing.policies.ordered import Ordered

from tests.fakes.candidates import candidate, names, routing_request


def test_the_order_of_the_config_stays():
    candidates = [candidate("a", ttft_s=9, price_usd=9), candidate("b"), candidate("c", quality=1)]
    assert names(Ordered().place(candidates, routing_request(), Random(1))) == "abc"


def test_nothing_is_compared():
    assert [each.score for each in Ordered().place([candidate()], routing_request(), Random(1))] == [None]
