"""At random, by weight."""

from collections import Counter
from random import Random

import pytest
from tidegate.routing.policies.weighted import Weighted

from tests.fakes.candidates import candidate, names, routing_request

ASK = routing_request()


def orders(crowd, times, seed=1):
    rng = Random(seed)
    return [names(Weighted().place(crowd, ASK, rng)) for _ in range(times)]


def test_each_comes_first_as_often_as_its_weight_says():
    crowd = [candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1)]
    first = Counter(order[0] for order in orders(crowd, 10_000))
    assert pytest.approx({name: n / 10_000 for name, n in first.items()}, abs=0.02) == {"a": 0.6, "b": 0.3, "c": 0.1}


def test_who_takes_over_is_drawn_by_weight_too():
    crowd = [candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1)]
    second = Counter(order[1] for order in orders(crowd, 10_000) if order[0] == "a")
    assert second["b"] / (second["b"] + second["c"]) == pytest.approx(0.75, abs=0.02)


def test_a_weight_of_nothing_comes_last():
    crowd = [candidate("a", weight=0), candidate("b", weight=0.001), candidate("c")]
    assert {"a"} == {order[-1] for order in orders(crowd, 200)}


def test_in_slow_start_the_weight_counts_by_the_share():
    crowd = [candidate("a", weight=10, share=0.1), candidate("b", weight=1)]
    first = Counter(order[0] for order in orders(crowd, 10_000))
    assert first["a"] / 10_000 == pytest.approx(0.5, abs=0.02)
