"""A target that was ejected does not get all of its usual requests at once."""

from random import Random

from tests.fakes.candidates import candidate, names, ranked
from tidegate.routing.policies.slow_start import ease_in


def firsts(*candidates):
    rng = Random(1)
    return [names(ease_in(ranked(*candidates), rng)) for _ in range(1000)]


def test_without_slow_start_the_order_stays_and_no_random_number_is_drawn():
    order = ranked(candidate("a"), candidate("b", share=0.1))
    assert ease_in(order, None) is order


def test_a_target_in_slow_start_that_is_not_first_is_second():
    assert {"abc", "bac"} == set(firsts(candidate("a", share=0.5), candidate("b"), candidate("c")))


def test_if_all_are_in_slow_start_the_order_is_random():
    assert {"ab", "ba"} == set(firsts(candidate("a", share=0.5), candidate("b", share=0.5)))
