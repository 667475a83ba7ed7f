"""Which replica of an engine gets a request, and which further one is loaded."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.candidates import candidate, names, ranked
from tidegate.routing.candidate import Candidate, RankedCandidate
from tidegate.routing.replicas import arrange, group, ungroup
from tidegate.routing.targets import Target

UNBOUNDED = 1e9


def replica(number, group="g", **known):
    return Candidate(target=Target(f"{group}:{number}", group, is_local=True, group=group), **known)


def numbers(order) -> str:
    return "".join(each.target.upstream[-1] for each in order)


def order(*members, key=b"", max_load=1.25) -> str:
    return numbers(arrange(members, key, max_load=max_load).order)


@st.composite
def replica_lists(draw, group="g"):
    return [
        replica(
            number,
            group,
            work=draw(st.floats(0, 100)),
            share=draw(st.sampled_from([1.0, 1.0, 0.5, 0.0])),
            is_overloaded=draw(st.booleans()),
            availability=draw(st.sampled_from(["ready", "ready", "loading", "unloaded", "unavailable"])),
        )
        for number in range(1, draw(st.integers(2, 6)))
    ]


def test_without_a_session_the_replica_with_the_least_work_is_first():
    assert order(replica(1, work=3), replica(2, work=1), replica(3, work=2)) == "231"


def test_replicas_that_are_not_ready_come_last():
    members = [replica(1, availability="unavailable"), replica(2, availability="loading"), replica(3, work=9)]
    assert order(*members) == "321"


def test_a_pressed_replica_comes_after_those_that_have_room():
    assert order(replica(1, is_overloaded=True), replica(2, work=9), key=b"s") == "21"


def test_a_replica_in_slow_start_has_its_share_of_the_work():
    assert order(replica(1, work=1, share=0.1), replica(2, work=9)) == "21"
    assert order(replica(1, share=0.1), replica(2, work=19)) == "12"


def test_sessions_are_spread_and_each_stays_while_the_load_is_even():
    members = [replica(number, work=5) for number in (1, 2, 3, 4)]
    first_by_key = {key: order(*members, key=bytes([key]))[0] for key in range(200)}
    assert first_by_key == {key: order(*reversed(members), key=bytes([key]))[0] for key in range(200)}
    assert min(Counter(first_by_key.values()).values()) > 25


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=8), st.integers(1, 5))
def test_removing_a_replica_moves_only_its_own_sessions(key, removed):
    members = [replica(number) for number in range(1, 6)]
    before = order(*members, key=key)[0]
    if before != str(removed):
        assert order(*(each for each in members if each is not members[removed - 1]), key=key)[0] == before


@given(replica_lists(), st.binary(max_size=4), st.floats(1, 3))
def test_each_replica_is_used_once_and_within_the_bound(members, key, max_load):
    arranged = arrange(members, key, max_load=max_load)
    assert sorted(numbers([*arranged.order, *arranged.unneeded])) == sorted(numbers(members))
    ready = [each for each in members if each.availability == "ready"]
    assert [each.availability == "ready" for each in arranged.order[: len(ready)]] == [True] * len(ready)
    assert sum(each.availability == "unloaded" for each in arranged.order) <= 1
    eligible = [each for each in ready if not each.is_overloaded] or ready
    if arranged.is_sticky:
        first = arranged.order[0]
        share = max(first.share, 0.01) / sum(max(each.share, 0.01) for each in eligible)
        bound = max_load * share * (sum(each.work for each in eligible) + 1) * (1 + 1e-9)
        assert first.work < bound or (first.share == 1 and first.work <= min(each.work for each in eligible) + 1)
    if ready:
        assert arranged.order[0].is_overloaded == all(each.is_overloaded for each in ready)


@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(0, 60), st.floats(1, 2))
def test_requests_in_flight_are_spread_within_the_bound(count, requests, max_load):
    """Also if all belong to one session."""
    work = [0] * count
    for _ in range(requests):
        members = [replica(number, work=each) for number, each in enumerate(work)]
        work[int(order(*members, key=b"one session", max_load=max_load)[0])] += 1
    assert max(work) <= max_load * (requests + 1) / count + 2


def test_a_second_request_of_a_session_joins_the_first_one_and_a_third_does_not():
    first_before = order(*map(replica, (1, 2, 3)), key=b"s")[0]
    stays = [
        order(*(replica(n, work=work * (str(n) == first_before)) for n in (1, 2, 3)), key=b"s")[0] == first_before
        for work in (1, 2)
    ]
    assert stays == [True, False]


# --- replicas that are not loaded ---------------------------------------------------------------------------------


def test_without_a_loaded_replica_the_request_loads_one():
    arranged = arrange([replica(number, availability="unloaded") for number in (1, 2, 3)], b"s", max_load=1.25)
    assert (numbers(arranged.order), arranged.to_load, numbers(arranged.unneeded)) == ("1", None, "23")


def test_none_is_loaded_while_another_one_is_loading():
    arranged = arrange([replica(1, availability="loading"), replica(2, availability="unloaded")], b"s", max_load=1.25)
    assert (numbers(arranged.order), arranged.to_load, numbers(arranged.unneeded)) == ("1", None, "2")


def test_a_further_one_is_loaded_when_all_ready_ones_have_work():
    loaded, idle = replica(1, work=1), replica(2)
    others = [replica(number, availability="unloaded") for number in (3, 4)]
    assert arrange([loaded, idle, *others], b"s", max_load=1.25).to_load is None
    arranged = arrange([loaded, *others], b"s", max_load=1.25)
    assert (numbers(arranged.order), arranged.to_load, numbers(arranged.unneeded)) == ("13", others[0], "4")
    loading = replica(5, availability="loading")
    assert arrange([loaded, loading, *others], b"s", max_load=1.25).to_load is None


# --- among other targets ------------------------------------------------------------------------------------------


def test_to_policies_an_engine_is_one_candidate_and_the_others_follow_it():
    candidates = [candidate("a"), replica(1, work=2), candidate("b"), replica(2), replica(3, work=1)]
    arranged = group(candidates, b"", max_load=1.25)
    representatives = [each.order[0] for each in arranged.values()]
    assert [representative.target.upstream for representative in representatives] == ["a", "g:2", "b"]
    order = ungroup(
        [
            RankedCandidate(representatives[2]),
            RankedCandidate(representatives[1], 0.5),
            RankedCandidate(representatives[0]),
        ],
        arranged,
    )
    assert [each.candidate.target.upstream for each in order] == ["b", "g:2", "g:3", "g:1", "a"]
    assert [each.score for each in order] == [None, 0.5, None, None, None]


def test_targets_without_replicas_keep_their_order():
    candidates = [candidate("a"), candidate("b")]
    arranged = group(candidates, b"k", max_load=1.25)
    assert names(ungroup(ranked(*candidates), arranged)) == "ab"


@given(replica_lists("g"), replica_lists("h"), st.randoms(use_true_random=False), st.binary(max_size=4))
def test_no_target_is_lost_and_replicas_follow_each_other(each, other, rng, key):
    candidates = [*each, candidate("x"), *other, candidate("y")]
    arranged = group(candidates, key, max_load=1.25)
    representatives = ranked(*(each.order[0] for each in arranged.values()))
    rng.shuffle(representatives)
    order = [each.candidate for each in ungroup(representatives, arranged)]
    unneeded = [each for replica_group in arranged.values() for each in replica_group.unneeded]
    assert sorted(each.target.name for each in (*order, *unneeded)) == sorted(each.target.name for each in candidates)
    shared = [each.target.shared_name for each in order]
    assert list(dict.fromkeys(shared)) == [
        representative.candidate.target.shared_name for representative in representatives
    ]
    assert all(shared[shared.index(name) :][: shared.count(name)] == [name] * shared.count(name) for name in shared)
