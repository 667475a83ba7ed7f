"""A target that was out is not given its whole part at once."""

from random import Random

from tidegate.routing.policies.slow_start import ease_in

from tests.fakes.candidates import candidate, names, placed


def firsts(*crowd):
    rng = Random(1)
    return [names(ease_in(placed(*crowd), rng)) for _ in range(1000)]


def test_without_any_the_order_stays_and_nothing_is_thrown():
    order = placed(candidate("a"), candidate("b", share=0.1))
    assert ease_in(order, None) is order


def test_who_gives_way_is_the_next_to_be_tried():
    assert {"abc", "bac"} == set(firsts(candidate("a", share=0.5), candidate("b"), candidate("c")))


def test_where_all_come_back_the_order_is_that_of_the_throws():
    assert {"ab", "ba"} == set(firsts(candidate("a", share=0.5), candidate("b", share=0.5)))
