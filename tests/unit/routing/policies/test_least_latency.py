"""The sooner done one of two drawn at random."""

from collections import Counter
from random import Random

import pytest
from tidegate.routing.policies.least_latency import LeastLatency

from tests.fakes.candidates import candidate, names, routing_request

ASK = routing_request()
CROWD = [candidate(name, ttft_s=ttft_s) for name, ttft_s in zip("dbca", (4, 2, 3, 1), strict=True)]


def orders(crowd, times, seed=1):
    rng = Random(seed)
    return [names(LeastLatency().place(crowd, ASK, rng)) for _ in range(times)]


def test_of_two_the_sooner_done_one_is_always_first():
    assert {"ab"} == set(orders([candidate("b", ttft_s=2), candidate("a", ttft_s=1)], 50))


def test_of_four_each_comes_first_as_often_as_two_draws_have_it_as_the_better():
    """3 of 6 pairs hold the best, 2 of the others the second best, 1 the third, none the worst."""
    first = Counter(order[0] for order in orders(CROWD, 9_000))
    assert pytest.approx({name: n / 9_000 for name, n in first.items()}, abs=0.02) == {
        "a": 1 / 2,
        "b": 1 / 3,
        "c": 1 / 6,
    }


def test_who_was_not_drawn_follows_by_time():
    assert {"abcd", "bacd", "cabd"} == set(orders(CROWD, 500))


def test_a_herd_does_not_form():
    """A thousand arrive before anything more is known: what is in flight spreads them."""
    rng, in_flight = Random(5), dict.fromkeys("abcd", 0)
    for _ in range(1000):
        crowd = [candidate(name, ttft_s=1.0, in_flight=number) for name, number in in_flight.items()]
        in_flight[names(LeastLatency().place(crowd, ASK, rng))[0]] += 1
    assert max(in_flight.values()) - min(in_flight.values()) <= 10
