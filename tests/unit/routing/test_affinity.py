"""Which target a session stays at."""

from collections import Counter
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.routing.affinity import luck, stay
from tidegate.routing.targets import Target

from tests.fakes.candidates import candidate, crowds, names, placed, routing_request

UNBOUNDED = 1e9


def home(crowd, session, max_load=UNBOUNDED):
    return names(stay(placed(*crowd), routing_request(session=session), max_load=max_load))[0]


def test_a_session_stays_whatever_order_the_policy_has():
    crowd = [candidate(name) for name in "abcd"]
    assert len({home(order, "s") for order in (crowd, crowd[::-1], crowd[2:] + crowd[:2])}) == 1


def test_sessions_of_two_callers_are_two_sessions():
    order = placed(*(candidate(name) for name in "abcdefgh"))
    homes = {names(stay(order, routing_request(session="s", caller=f"{n}"), max_load=UNBOUNDED))[0] for n in range(20)}
    assert len(homes) > 1


def test_the_rest_keeps_its_order():
    order = placed(*(candidate(name) for name in "abcd"))
    for number in range(20):
        kept = names(stay(order, routing_request(session=str(number)), max_load=UNBOUNDED))
        assert "abcd".replace(kept[0], "") == kept[1:]


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=8), st.integers(0, 5))
def test_taking_a_target_away_moves_its_own_sessions_only(session, gone):
    crowd = [candidate(name) for name in "abcdef"]
    before = home(crowd, session)
    rest = [one for number, one in enumerate(crowd) if number != gone]
    if before != crowd[gone].target.upstream:
        assert before == home(rest, session)


def test_sessions_are_spread_by_weight():
    crowd = [candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1)]
    homes = Counter(home(crowd, str(number)) for number in range(3000))
    assert pytest.approx({name: n / 3000 for name, n in homes.items()}, abs=0.04) == {"a": 0.6, "b": 0.3, "c": 0.1}


@settings(max_examples=100)
@given(crowds(), st.floats(1, 3), st.text(max_size=4))
def test_the_bounds_hold_and_nobody_is_lost(crowd, max_load, session):
    order = placed(*crowd)
    kept = stay(order, routing_request(session=session), max_load=max_load)
    assert sorted(names(order)) == sorted(names(kept))
    first = kept[0].candidate
    if kept[0] is not order[0]:
        side = [one for one in crowd if one.target.is_local == first.target.is_local]
        fit = [one for one in side if one.target.weight > 0 and one.share == 1 and not one.is_pressed]
        part = first.target.weight / sum(one.target.weight for one in fit)
        assert first in fit
        assert first.target.is_local == order[0].candidate.target.is_local
        assert first.in_flight + 1 <= ceil(max_load * part * (sum(one.in_flight for one in fit) + 1) * (1 + 1e-9))


def test_a_busy_home_passes_a_session_on_to_the_next_luckiest():
    lucky = sorted("abc", key=lambda name: -luck(candidate(name).target, routing_request(session="s").affinity))
    crowd = [candidate(name, in_flight=9 if name == lucky[0] else 1) for name in "abc"]
    assert lucky[0] == home(crowd, "s")
    assert lucky[1] == home(crowd, "s", max_load=1.25)


def test_a_load_that_is_its_part_is_not_too_much():
    """One of one, three of three each: a mean of one, and the next one's place is there."""
    crowd = [candidate(name, in_flight=1) for name in "abc"]
    assert {home(crowd, str(number), max_load=1.25) for number in range(50)} == {"a", "b", "c"}


def test_one_known_by_the_head_of_its_prompt_stays_at_engines_only():
    elsewhere = placed(*(candidate(name) for name in "abcdef"))
    assert all(stay(elsewhere, routing_request(f"{n}"), max_load=UNBOUNDED) is elsewhere for n in range(10))
    ours = placed(*(candidate(name, is_local=True) for name in "abcdef"))
    assert len({names(stay(ours, routing_request(f"{n}"), max_load=UNBOUNDED))[0] for n in range(30)}) > 1


def test_it_never_moves_a_request_over_the_line():
    crowd = [candidate("a", is_local=True), candidate("b"), candidate("c"), candidate("d", is_local=True)]
    assert {home(crowd, str(number)) for number in range(50)} == {"a", "d"}
    assert {home(crowd[1:], str(number)) for number in range(50)} == {"b", "c"}


def test_it_never_moves_a_request_onto_one_that_is_pressed_or_in_slow_start():
    crowd = [
        candidate("a", is_local=True),
        candidate("b", is_local=True, is_pressed=True),
        candidate("c", is_local=True, share=0.5),
        candidate("d", is_local=True, weight=0),
    ]
    assert {home(crowd, str(number)) for number in range(50)} == {"a"}


def test_one_in_slow_start_keeps_what_the_policy_gives_it():
    crowd = [candidate("a", share=0.5), candidate("b"), candidate("c")]
    assert {home(crowd, str(number)) for number in range(50)} == {"a"}


def test_a_session_is_drawn_for_an_engine_whichever_of_its_replicas_stands_for_it():
    one, two = (Target(f"g:{number}", "m", is_local=True, group="g") for number in (1, 2))
    assert luck(one, b"s") == luck(two, b"s") != luck(Target("h", "m", is_local=True), b"s")
