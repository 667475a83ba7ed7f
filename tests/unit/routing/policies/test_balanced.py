"""Everything that is known, weighed by the config."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.config.models import BalanceConfig
from tidegate.routing.policies.balanced import Balanced, weigh

from tests.fakes.candidates import candidate, names, routing_request

NOTHING = {"latency": 0.0, "cost": 0.0, "quality": 0.0, "failures": 0.0}


def order(crowd, **weights):
    return Balanced(BalanceConfig(**(NOTHING | weights))).place(crowd, routing_request(), Random(1))


@pytest.mark.parametrize(
    ("signal", "good", "bad"),
    [
        ("latency", {"ttft_s": 1.0}, {"ttft_s": 2.0}),
        ("cost", {"price_usd": 1.0}, {"price_usd": 2.0}),
        ("quality", {"quality": 0.9}, {"quality": 0.4}),
        ("load", {"in_flight": 1}, {"in_flight": 2}),
        ("failures", {"failure_rate": 0.0}, {"failure_rate": 0.5}),
        ("locality", {"is_local": True}, {"is_local": False}),
    ],
)
def test_each_signal_places_by_itself(signal, good, bad):
    crowd = [candidate("b", **bad), candidate("a", **good)]
    assert names(order(crowd, **{signal: 2.0})) == "ab"
    first, second = order(crowd, **{signal: 2.0})
    assert second.score - first.score == pytest.approx(1.0 if signal != "locality" else 2.0)


def test_the_weights_decide_between_fast_and_cheap():
    crowd = [candidate("f", ttft_s=1.0, price_usd=4.0), candidate("c", ttft_s=4.0, price_usd=1.0)]
    assert names(order(crowd, latency=2.0, cost=1.0)) == "fc"
    assert names(order(crowd, latency=1.0, cost=2.0)) == "cf"


def test_a_hundredth_of_a_second_does_not_outweigh_ten_times_the_price():
    crowd = [candidate("a", ttft_s=1.0, price_usd=1.0), candidate("b", ttft_s=1.01, price_usd=0.1)]
    assert names(order(crowd, latency=1.0, cost=1.0)) == "ba"


def test_an_unknown_price_is_middling_and_an_unknown_time_gets_tried():
    crowd = [candidate("c", price_usd=8.0), candidate("b"), candidate("a", price_usd=1.0)]
    assert names(order(crowd, cost=1.0)) == "abc"
    assert names(order([candidate("a", ttft_s=1.0), candidate("b")], latency=1.0)) == "ba"


def test_an_engine_that_is_not_ready_is_the_slowest():
    crowd = [candidate("b", is_local=True, is_pressed=True), candidate("a", ttft_s=50.0)]
    assert names(order(crowd, latency=1.0)) == "ab"


@settings(max_examples=100)
@given(
    st.lists(st.none() | st.floats(0, 1e6) | st.just(float("inf")), min_size=1, max_size=6),
    st.floats(0, 1000, allow_subnormal=False),  # which are not exact to 1e-9
)
def test_how_much_worse_is_between_nothing_and_the_weight_and_keeps_the_order(values, weight):
    filled, factor, offset = weigh(values, weight)
    scaled = [factor * value - offset for value in filled]
    assert all(-1e-9 * weight <= one <= weight * (1 + 1e-9) for one in scaled)
    known = [(value, one) for value, one in zip(values, scaled, strict=True) if value is not None]
    assert sorted(one for _, one in known) == [one for _, one in sorted(known)]


@settings(max_examples=100)
@given(st.lists(st.none() | st.floats(1e-6, 1e6) | st.just(float("inf")), min_size=1, max_size=6))
def test_how_much_worse_is_what_the_module_says(values):
    filled, factor, offset = weigh(values, 1.0)
    known = [value for value in values if value is not None and value != float("inf")]
    least, most = min(known, default=0.0), max(known, default=1.0)
    for value, one in zip(values, filled, strict=True):
        expected = 0.5 if value is None else 1.0 if value == float("inf") else (value - least) / most
        assert factor * one - offset == pytest.approx(expected, abs=1e-9)
