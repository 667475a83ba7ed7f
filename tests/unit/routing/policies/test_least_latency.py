"""The faster one of two chosen at random comes first."""

from collections import Counter
from random import Random

import pytest

from tests.fakes.candidates import candidate, names, routing_request
from tidegate.routing.policies.least_latency import LeastLatency

REQUEST = routing_request()
CANDIDATES = [candidate(name, ttft_s=ttft_s) for name, ttft_s in zip("dbca", (4, 2, 3, 1), strict=True)]


def orders(candidates, times, seed=1):
    rng = Random(seed)
    return [names(LeastLatency().rank(candidates, REQUEST, rng)) for _ in range(times)]


def test_of_two_the_faster_one_is_always_first():
    assert {"ab"} == set(orders([candidate("b", ttft_s=2), candidate("a", ttft_s=1)], 50))


def test_of_four_each_comes_first_as_often_as_it_is_the_faster_of_two_at_random():
    """The best is in 3 of 6 pairs, the second best wins 2 of the others, the third 1, the worst none."""
    first = Counter(order[0] for order in orders(CANDIDATES, 9_000))
    assert pytest.approx({name: n / 9_000 for name, n in first.items()}, abs=0.02) == {
        "a": 1 / 2,
        "b": 1 / 3,
        "c": 1 / 6,
    }


def test_candidates_that_were_not_chosen_follow_by_time():
    assert {"abcd", "bacd", "cabd"} == set(orders(CANDIDATES, 500))


def test_a_burst_is_spread():
    """A thousand requests arrive before any time is measured: the numbers in flight spread them."""
    rng, in_flight = Random(5), dict.fromkeys("abcd", 0)
    for _ in range(1000):
        candidates = [candidate(name, ttft_s=1.0, in_flight=number) for name, number in in_flight.items()]
        in_flight[names(LeastLatency().rank(candidates, REQUEST, rng))[0]] += 1
    assert max(in_flight.values()) - min(in_flight.values()) <= 10
