"""Engines with room, hosts elsewhere, pressed engines."""

from random import Random

from hypothesis import given, settings
from tidegate.routing.policies.local_first import LocalFirst, locals_first, online_first

from tests.fakes.candidates import candidate, crowds, names, placed, routing_request

CROWD = [
    candidate("a"),
    candidate("b", is_local=True, is_pressed=True),
    candidate("c", is_local=True),
    candidate("d"),
    candidate("e", is_local=True),
]


def test_engines_with_room_then_hosts_then_pressed_engines():
    assert names(LocalFirst().place(CROWD, routing_request(), Random(1))) == "ceadb"


def test_any_order_can_be_told_to_try_hosts_elsewhere_first():
    assert names(online_first(placed(*CROWD))) == "adceb"


@settings(max_examples=50)
@given(crowds())
def test_within_a_group_the_order_stays(crowd):
    for partition in (locals_first, online_first):
        order = names(partition(placed(*crowd)))
        for is_local in (False, True):
            for is_pressed in (False, True):
                group = [one for one in crowd if (one.target.is_local, one.is_pressed) == (is_local, is_pressed)]
                assert names(group) == "".join(name for name in order if name in names(group))
