"""Everything that is known, weighted by the config."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.candidates import candidate, names, routing_request
from tidegate.config.models import BalanceConfig
from tidegate.routing.policies.balanced import Balanced, weigh

ALL_ZERO = {"latency": 0.0, "cost": 0.0, "quality": 0.0, "failures": 0.0}


def order(candidates, **weights):
    return Balanced(BalanceConfig(**(ALL_ZERO | weights))).rank(candidates, routing_request(), Random(1))


@pytest.mark.parametrize(
    ("signal", "better", "worse"),
    [
        ("latency", {"ttft_s": 1.0}, {"ttft_s": 2.0}),
        ("cost", {"price_usd": 1.0}, {"price_usd": 2.0}),
        ("quality", {"quality": 0.9}, {"quality": 0.4}),
        ("load", {"in_flight": 1}, {"in_flight": 2}),
        ("failures", {"failure_rate": 0.0}, {"failure_rate": 0.5}),
        ("locality", {"is_local": True}, {"is_local": False}),
    ],
)
def test_each_signal_alone_decides_the_order(signal, better, worse):
    candidates = [candidate("b", **worse), candidate("a", **better)]
    assert names(order(candidates, **{signal: 2.0})) == "ab"
    first, second = order(candidates, **{signal: 2.0})
    assert second.score - first.score == pytest.approx(1.0 if signal != "locality" else 2.0)


def test_the_weights_decide_between_fast_and_cheap():
    candidates = [candidate("f", ttft_s=1.0, price_usd=4.0), candidate("c", ttft_s=4.0, price_usd=1.0)]
    assert names(order(candidates, latency=2.0, cost=1.0)) == "fc"
    assert names(order(candidates, latency=1.0, cost=2.0)) == "cf"


def test_a_hundredth_of_a_second_does_not_outweigh_ten_times_the_price():
    candidates = [candidate("a", ttft_s=1.0, price_usd=1.0), candidate("b", ttft_s=1.01, price_usd=0.1)]
    assert names(order(candidates, latency=1.0, cost=1.0)) == "ba"


def test_an_unknown_price_is_middling_and_an_unknown_time_gets_tried():
    candidates = [candidate("c", price_usd=8.0), candidate("b"), candidate("a", price_usd=1.0)]
    assert names(order(candidates, cost=1.0)) == "abc"
    assert names(order([candidate("a", ttft_s=1.0), candidate("b")], latency=1.0)) == "ba"


def test_an_engine_that_is_not_ready_is_the_slowest():
    candidates = [candidate("b", is_local=True, is_overloaded=True), candidate("a", ttft_s=50.0)]
    assert names(order(candidates, latency=1.0)) == "ab"


@settings(max_examples=100)
@given(
    st.lists(st.none() | st.floats(0, 1e6) | st.just(float("inf")), min_size=1, max_size=6),
    st.floats(0, 1000, allow_subnormal=False),  # subnormal weights are not exact to 1e-9
)
def test_worse_is_between_0_and_the_weight_and_keeps_the_order(values, weight):
    filled, factor, offset = weigh(values, weight)
    scaled = [factor * value - offset for value in filled]
    assert all(-1e-9 * weight <= each <= weight * (1 + 1e-9) for each in scaled)
    known = [(value, each) for value, each in zip(values, scaled, strict=True) if value is not None]
    assert sorted(each for _, each in known) == [each for _, each in sorted(known)]


@settings(max_examples=100)
@given(st.lists(st.none() | st.floats(1e-6, 1e6) | st.just(float("inf")), min_size=1, max_size=6))
def test_worse_follows_the_formula_of_the_module(values):
    filled, factor, offset = weigh(values, 1.0)
    known = [value for value in values if value is not None and value != float("inf")]
    lowest, highest = min(known, default=0.0), max(known, default=1.0)
    for value, each in zip(values, filled, strict=True):
        expected = 0.5 if value is None else 1.0 if value == float("inf") else (value - lowest) / highest
        assert factor * each - offset == pytest.approx(expected, abs=1e-9)
