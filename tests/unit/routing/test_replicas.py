"""Which replica of an engine gets a request, and which one is loaded beside those that are."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.routing.candidate import Candidate, Placed
from tidegate.routing.replicas import arrange, group, ungroup
from tidegate.routing.targets import Target

from tests.fakes.candidates import candidate, names, placed

UNBOUNDED = 1e9


def replica(number, group="g", **known):
    return Candidate(target=Target(f"{group}:{number}", group, is_local=True, group=group), **known)


def numbers(order) -> str:
    return "".join(one.target.upstream[-1] for one in order)


def order(*members, key=b"", max_load=1.25) -> str:
    return numbers(arrange(members, key, max_load=max_load).order)


@st.composite
def several(draw, group="g"):
    return [
        replica(
            number,
            group,
            work=draw(st.floats(0, 100)),
            share=draw(st.sampled_from([1.0, 1.0, 0.5, 0.0])),
            is_pressed=draw(st.booleans()),
            availability=draw(st.sampled_from(["ready", "ready", "loading", "unloaded", "unavailable"])),
        )
        for number in range(1, draw(st.integers(2, 6)))
    ]


def test_without_a_session_the_one_with_the_least_work_is_first():
    assert order(replica(1, work=3), replica(2, work=1), replica(3, work=2)) == "231"


def test_those_that_do_not_answer_come_last():
    members = [replica(1, availability="unavailable"), replica(2, availability="loading"), replica(3, work=9)]
    assert order(*members) == "321"


def test_one_whose_first_token_would_take_too_long_comes_after_those_that_have_room():
    assert order(replica(1, is_pressed=True), replica(2, work=9), key=b"s") == "21"


def test_one_in_slow_start_has_its_share_of_the_work():
    assert order(replica(1, work=1, share=0.1), replica(2, work=9)) == "21"
    assert order(replica(1, share=0.1), replica(2, work=19)) == "12"


def test_sessions_are_spread_and_each_stays_while_the_load_is_even():
    members = [replica(number, work=5) for number in (1, 2, 3, 4)]
    homes = {key: order(*members, key=bytes([key]))[0] for key in range(200)}
    assert homes == {key: order(*reversed(members), key=bytes([key]))[0] for key in range(200)}
    assert min(Counter(homes.values()).values()) > 25


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=8), st.integers(1, 5))
def test_a_replica_that_leaves_moves_its_own_sessions_only(key, gone):
    members = [replica(number) for number in range(1, 6)]
    before = order(*members, key=key)[0]
    if before != str(gone):
        assert order(*(one for one in members if one is not members[gone - 1]), key=key)[0] == before


@given(several(), st.binary(max_size=4), st.floats(1, 3))
def test_every_engine_is_loaded_once_within_the_bound(members, key, max_load):
    made = arrange(members, key, max_load=max_load)
    assert sorted(numbers([*made.order, *made.spared])) == sorted(numbers(members))
    ready = [one for one in members if one.availability == "ready"]
    assert [one.availability == "ready" for one in made.order[: len(ready)]] == [True] * len(ready)
    assert sum(one.availability == "unloaded" for one in made.order) <= 1
    fit = [one for one in ready if not one.is_pressed] or ready
    if made.is_sticky:
        first = made.order[0]
        part = max(first.share, 0.01) / sum(max(one.share, 0.01) for one in fit)
        bound = max_load * part * (sum(one.work for one in fit) + 1) * (1 + 1e-9)
        assert first.work < bound or (first.share == 1 and first.work <= min(one.work for one in fit) + 1)
    if ready:
        assert made.order[0].is_pressed == all(one.is_pressed for one in ready)


@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(0, 60), st.floats(1, 2))
def test_requests_in_flight_are_shared_out_within_the_bound(count, requests, max_load):
    """However few the sessions are."""
    work = [0] * count
    for _ in range(requests):
        members = [replica(number, work=each) for number, each in enumerate(work)]
        work[int(order(*members, key=b"one session", max_load=max_load)[0])] += 1
    assert max(work) <= max_load * (requests + 1) / count + 2


def test_a_second_request_of_a_session_beside_the_first_stays_with_it_and_a_third_does_not():
    home = order(*map(replica, (1, 2, 3)), key=b"s")[0]
    stays = [
        order(*(replica(n, work=work * (str(n) == home)) for n in (1, 2, 3)), key=b"s")[0] == home for work in (1, 2)
    ]
    assert stays == [True, False]


# --- those that are not loaded ------------------------------------------------------------------------------------


def test_one_alone_is_loaded_by_the_first_request():
    made = arrange([replica(number, availability="unloaded") for number in (1, 2, 3)], b"s", max_load=1.25)
    assert (numbers(made.order), made.wanted, numbers(made.spared)) == ("1", None, "23")


def test_none_is_loaded_beside_one_that_comes():
    made = arrange([replica(1, availability="loading"), replica(2, availability="unloaded")], b"s", max_load=1.25)
    assert (numbers(made.order), made.wanted, numbers(made.spared)) == ("1", None, "2")


def test_a_further_one_is_loaded_when_all_that_answer_have_work():
    loaded, idle = replica(1, work=1), replica(2)
    others = [replica(number, availability="unloaded") for number in (3, 4)]
    assert arrange([loaded, idle, *others], b"s", max_load=1.25).wanted is None
    made = arrange([loaded, *others], b"s", max_load=1.25)
    assert (numbers(made.order), made.wanted, numbers(made.spared)) == ("13", others[0], "4")
    coming = replica(5, availability="loading")
    assert arrange([loaded, coming, *others], b"s", max_load=1.25).wanted is None


# --- among other targets ------------------------------------------------------------------------------------------


def test_to_policies_an_engine_is_one_candidate_and_the_others_follow_it():
    candidates = [candidate("a"), replica(1, work=2), candidate("b"), replica(2), replica(3, work=1)]
    made = group(candidates, b"", max_load=1.25)
    heads = [each.order[0] for each in made.values()]
    assert [head.target.upstream for head in heads] == ["a", "g:2", "b"]
    order = ungroup([Placed(heads[2]), Placed(heads[1], 0.5), Placed(heads[0])], made)
    assert [one.candidate.target.upstream for one in order] == ["b", "g:2", "g:3", "g:1", "a"]
    assert [one.score for one in order] == [None, 0.5, None, None, None]


def test_what_has_no_replicas_is_placed_as_it_was():
    candidates = [candidate("a"), candidate("b")]
    made = group(candidates, b"k", max_load=1.25)
    assert names(ungroup(placed(*candidates), made)) == "ab"


@given(several("g"), several("h"), st.randoms(use_true_random=False), st.binary(max_size=4))
def test_no_target_is_lost_and_engines_stay_where_they_were_put(one, other, rng, key):
    candidates = [*one, candidate("x"), *other, candidate("y")]
    made = group(candidates, key, max_load=1.25)
    heads = placed(*(each.order[0] for each in made.values()))
    rng.shuffle(heads)
    order = [each.candidate for each in ungroup(heads, made)]
    spared = [each for each_group in made.values() for each in each_group.spared]
    assert sorted(each.target.name for each in (*order, *spared)) == sorted(each.target.name for each in candidates)
    shared = [each.target.shared_name for each in order]
    assert list(dict.fromkeys(shared)) == [head.candidate.target.shared_name for head in heads]
    assert all(shared[shared.index(name) :][: shared.count(name)] == [name] * shared.count(name) for name in shared)
