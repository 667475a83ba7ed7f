"""Local engines with room, hosted upstreams, pressed engines."""

from random import Random

from hypothesis import given, settings

from tests.fakes.candidates import candidate, candidate_lists, names, ranked, routing_request
from tidegate.routing.policies.local_first import LocalFirst, locals_first, online_first

CANDIDATES = [
    candidate("a"),
    candidate("b", is_local=True, is_overloaded=True),
    candidate("c", is_local=True),
    candidate("d"),
    candidate("e", is_local=True),
]


def test_engines_with_room_then_hosted_upstreams_then_pressed_engines():
    assert names(LocalFirst().rank(CANDIDATES, routing_request(), Random(1))) == "ceadb"


def test_any_order_can_put_hosted_upstreams_first():
    assert names(online_first(ranked(*CANDIDATES))) == "adceb"


@settings(max_examples=50)
@given(candidate_lists())
def test_within_a_group_the_order_stays(candidates):
    for partition in (locals_first, online_first):
        order = names(partition(ranked(*candidates)))
        for is_local in (False, True):
            for is_overloaded in (False, True):
                group = [
                    each
                    for each in candidates
                    if (each.target.is_local, each.is_overloaded) == (is_local, is_overloaded)
                ]
                assert names(group) == "".join(name for name in order if name in names(group))
