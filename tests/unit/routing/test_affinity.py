"""Which target serves the turns of a session."""

from collections import Counter
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.candidates import candidate, candidate_lists, names, ranked, routing_request
from tidegate.routing.affinity import prefer_session_target, weighted_score
from tidegate.routing.targets import Target

UNBOUNDED = 1e9


def session_target(candidates, session, max_load=UNBOUNDED):
    return names(prefer_session_target(ranked(*candidates), routing_request(session=session), max_load=max_load))[0]


def test_a_session_stays_at_its_target_whatever_order_the_policy_makes():
    candidates = [candidate(name) for name in "abcd"]
    assert (
        len({session_target(order, "s") for order in (candidates, candidates[::-1], candidates[2:] + candidates[:2])})
        == 1
    )


def test_sessions_of_two_callers_are_two_sessions():
    order = ranked(*(candidate(name) for name in "abcdefgh"))
    session_targets = {
        names(prefer_session_target(order, routing_request(session="s", caller=f"{n}"), max_load=UNBOUNDED))[0]
        for n in range(20)
    }
    assert len(session_targets) > 1


def test_the_other_targets_keep_their_order():
    order = ranked(*(candidate(name) for name in "abcd"))
    for number in range(20):
        preferred = names(prefer_session_target(order, routing_request(session=str(number)), max_load=UNBOUNDED))
        assert "abcd".replace(preferred[0], "") == preferred[1:]


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=8), st.integers(0, 5))
def test_removing_a_target_moves_only_its_own_sessions(session, removed):
    candidates = [candidate(name) for name in "abcdef"]
    before = session_target(candidates, session)
    rest = [each for number, each in enumerate(candidates) if number != removed]
    if before != candidates[removed].target.upstream:
        assert before == session_target(rest, session)


def test_sessions_are_spread_by_weight():
    candidates = [candidate("a", weight=6), candidate("b", weight=3), candidate("c", weight=1)]
    session_targets = Counter(session_target(candidates, str(number)) for number in range(3000))
    assert pytest.approx({name: n / 3000 for name, n in session_targets.items()}, abs=0.04) == {
        "a": 0.6,
        "b": 0.3,
        "c": 0.1,
    }


@settings(max_examples=100)
@given(candidate_lists(), st.floats(1, 3), st.text(max_size=4))
def test_the_bounds_hold_and_no_target_is_lost(candidates, max_load, session):
    order = ranked(*candidates)
    preferred = prefer_session_target(order, routing_request(session=session), max_load=max_load)
    assert sorted(names(order)) == sorted(names(preferred))
    first = preferred[0].candidate
    if preferred[0] is not order[0]:
        side = [each for each in candidates if each.target.is_local == first.target.is_local]
        eligible = [each for each in side if each.target.weight > 0 and each.share == 1 and not each.is_overloaded]
        weight_share = first.target.weight / sum(each.target.weight for each in eligible)
        assert first in eligible
        assert first.target.is_local == order[0].candidate.target.is_local
        assert first.in_flight + 1 <= ceil(
            max_load * weight_share * (sum(each.in_flight for each in eligible) + 1) * (1 + 1e-9)
        )


def test_a_busy_target_passes_a_session_on_to_the_next_highest_score():
    by_score = sorted(
        "abc", key=lambda name: -weighted_score(candidate(name).target, routing_request(session="s").affinity)
    )
    candidates = [candidate(name, in_flight=9 if name == by_score[0] else 1) for name in "abc"]
    assert by_score[0] == session_target(candidates, "s")
    assert by_score[1] == session_target(candidates, "s", max_load=1.25)


def test_a_target_with_its_part_of_the_load_keeps_its_sessions():
    """One request at each of three targets; the next request is within the bound at any of them."""
    candidates = [candidate(name, in_flight=1) for name in "abc"]
    assert {session_target(candidates, str(number), max_load=1.25) for number in range(50)} == {"a", "b", "c"}


def test_a_session_known_by_its_prompts_head_stays_at_local_engines_only():
    hosted = ranked(*(candidate(name) for name in "abcdef"))
    assert all(prefer_session_target(hosted, routing_request(f"{n}"), max_load=UNBOUNDED) is hosted for n in range(10))
    local = ranked(*(candidate(name, is_local=True) for name in "abcdef"))
    assert (
        len({names(prefer_session_target(local, routing_request(f"{n}"), max_load=UNBOUNDED))[0] for n in range(30)})
        > 1
    )


def test_no_session_moves_between_local_engines_and_hosted_upstreams():
    candidates = [candidate("a", is_local=True), candidate("b"), candidate("c"), candidate("d", is_local=True)]
    assert {session_target(candidates, str(number)) for number in range(50)} == {"a", "d"}
    assert {session_target(candidates[1:], str(number)) for number in range(50)} == {"b", "c"}


def test_no_session_moves_to_a_target_that_is_overloaded_or_in_slow_start():
    candidates = [
        candidate("a", is_local=True),
        candidate("b", is_local=True, is_overloaded=True),
        candidate("c", is_local=True, share=0.5),
        candidate("d", is_local=True, weight=0),
    ]
    assert {session_target(candidates, str(number)) for number in range(50)} == {"a"}


def test_a_target_in_slow_start_keeps_the_requests_that_the_policy_gives_it():
    candidates = [candidate("a", share=0.5), candidate("b"), candidate("c")]
    assert {session_target(candidates, str(number)) for number in range(50)} == {"a"}


def test_all_replicas_of_an_engine_have_one_score_for_a_session():
    each, two = (Target(f"g:{number}", "m", is_local=True, group="g") for number in (1, 2))
    assert (
        weighted_score(each, b"s") == weighted_score(two, b"s") != weighted_score(Target("h", "m", is_local=True), b"s")
    )
