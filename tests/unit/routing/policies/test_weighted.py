"""A random order, by weight."""

from collections import Counter
from random import Random

import pytest

from tests.fakes.candidates import candidate, names, routing_request
from tidegate.routing.policies.weighted import Weighted

REQUEST = routing_request()


def orders(candidates, times, seed=1):
    rng = Random(seed)
    return [names(Weighted().rank(candidates, REQUEST, rng)) for _ in range(times)]


def test_each_comes_first_as_often_as_its_weight_says():
    candidates = [candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1)]
    first = Counter(order[0] for order in orders(candidates, 10_000))
    assert pytest.approx({name: n / 10_000 for name, n in first.items()}, abs=0.02) == {"a": 0.6, "b": 0.3, "c": 0.1}


def test_the_target_that_takes_over_is_chosen_by_weight_too():
    candidates = [candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1)]
    second = Counter(order[1] for order in orders(candidates, 10_000) if order[0] == "a")
    assert second["b"] / (second["b"] + second["c"]) == pytest.approx(0.75, abs=0.02)


def test_a_weight_of_0_comes_last():
    candidates = [candidate("a", weight=0), candidate("b", weight=0.001), candidate("c")]
    assert {"a"} == {order[-1] for order in orders(candidates, 200)}


def test_in_slow_start_the_weight_is_multiplied_by_the_share():
    candidates = [candidate("a", weight=10, share=0.1), candidate("b", weight=1)]
    first = Counter(order[0] for order in orders(candidates, 10_000))
    assert first["a"] / 10_000 == pytest.approx(0.5, abs=0.02)
