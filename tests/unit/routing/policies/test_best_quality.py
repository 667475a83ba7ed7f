"""The target with the best answers comes first."""

from random import Random

from tests.fakes.candidates import candidate, names, routing_request
from tidegate.routing.policies.best_quality import BestQuality


def order(*candidates):
    return BestQuality().rank(candidates, routing_request(), Random(1))


def test_the_best_comes_first_whatever_its_price():
    candidates = (candidate("b", quality=0.5, price_usd=0.0), candidate("a", quality=0.75, price_usd=9.0, ttft_s=9.0))
    assert names(order(*candidates)) == "ab"
    assert [each.score for each in order(*candidates)] == [0.25, 0.5]


def test_of_equally_good_ones_the_cheaper_then_the_faster_comes_first():
    candidates = (
        candidate("d", ttft_s=0.1),
        candidate("c", price_usd=2.0, ttft_s=0.1),
        candidate("b", price_usd=1.0, ttft_s=3.0),
        candidate("a", price_usd=1.0, ttft_s=2.0),
    )
    assert names(order(*candidates)) == "abcd"
