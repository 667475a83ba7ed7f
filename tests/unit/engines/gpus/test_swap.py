"""Which engine comes next: examples, then what holds for any arrivals, on a machine with time of its own."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import GpuFootprint, rivals
from tidegate.engines.gpus.swap import Decision, Move, SwapCandidate, decide

from tests.benchmarks import swaps
from tests.fakes.swapping import Arrival, Engine, Machine

SWAP = SwapConfig(max_wait_s=10, min_loaded_s=5)
APART = SwapConfig(max_wait_s=10, min_loaded_s=5, exclusive=(("a", "b"),))


def one(state="out", *, awake=0.8, asleep=0.0, last_used_s=0.0, can_sleep=False, is_pinned=False, **fields):
    """An engine on GPU 0, of which it takes most; on none where `awake` is 0."""
    footprint = GpuFootprint(
        name="",
        state=state,
        awake={0: awake} if awake else {},
        asleep={0: asleep} if asleep else {},
        can_sleep=can_sleep,
        is_pinned=is_pinned,
        last_used_s=last_used_s,
    )
    return SwapCandidate(footprint=footprint, **fields)


def decided(claims="b", swap=SWAP, **snapshots):
    named = {
        name: SwapCandidate(
            **{field: getattr(each, field) for field in each.__struct_fields__} | {"footprint": footprint(name, each)}
        )
        for name, each in snapshots.items()
    }
    return decide(claims.split(), named, swap)


def footprint(name, snapshot):
    return GpuFootprint(
        **{field: getattr(snapshot.footprint, field) for field in snapshot.footprint.__struct_fields__} | {"name": name}
    )


def test_an_idle_engine_makes_room_at_once():
    turn = decided(a=one("loaded", loaded_s=1), b=one(waited_s=0.0))
    assert turn.moves == {"a": Move("out", "b")}


def test_an_engine_to_which_further_requests_came_stays_its_minimum_time():
    turn = decided(a=one("loaded", loaded_s=1, has_new_requests=True), b=one(waited_s=0.0))
    assert (turn.moves, turn.look_in_s) == ({}, 4)
    turn = decided(a=one("loaded", loaded_s=5, has_new_requests=True), b=one(waited_s=4.0))
    assert turn.moves == {"a": Move("out", "b")}


def test_requests_for_the_loaded_engine_are_gathered_until_another_one_has_waited_long_enough():
    turn = decided(a=one("loaded", loaded_s=100, in_flight=3), b=one(waited_s=9.0))
    assert (turn.moves, turn.look_in_s) == ({}, 1)
    turn = decided(a=one("loaded", loaded_s=100, in_flight=3), b=one(waited_s=10.0))
    assert turn.moves == {"a": Move("out", "b")}


def test_an_engine_with_requests_stays_its_minimum_time_however_long_another_one_was_waited_for():
    turn = decided(a=one("loaded", loaded_s=3, in_flight=3), b=one(waited_s=90.0))
    assert (turn.moves, turn.look_in_s) == ({}, 2)


def test_an_engine_whose_requests_have_not_entered_yet_is_not_idle():
    """It has just been loaded for them, whatever the minimum time is."""
    turn = decided(swap=SwapConfig(min_loaded_s=0), a=one("loaded", waited_s=30.0), b=one(waited_s=29.0))
    assert turn.moves == {}


def test_an_engine_that_no_request_waits_for_disturbs_no_other():
    """It is to be loaded by the administrator's word, or with the server."""
    turn = decided(a=one("loaded", loaded_s=100, in_flight=1), b=one())
    assert (turn.moves, turn.look_in_s) == ({}, None)


def test_idle_ones_go_before_those_with_requests():
    turn = decided(
        a=one("loaded", awake=0.5, loaded_s=100, in_flight=1),
        c=one("loaded", awake=0.5, loaded_s=100, last_used_s=9),
        b=one(awake=0.5, waited_s=60.0),
    )
    assert turn.moves == {"c": Move("out", "b")}


def test_the_choice_does_not_change_while_a_closed_one_has_answers():
    closed = one("loaded", awake=0.5, loaded_s=100, in_flight=1, is_closed=True, last_used_s=9)
    turn = decided(a=closed, c=one("loaded", awake=0.5, loaded_s=100, in_flight=1), b=one(awake=0.5, waited_s=60.0))
    assert turn.moves == {"a": Move("out", "b")}


def test_the_longest_wait_comes_first_and_those_that_no_request_waits_for_last():
    snapshots = {"a": one(), "b": one(waited_s=3.0), "c": one(waited_s=4.0)}
    assert decided("a b c", **snapshots).load == {"c"}


def test_claims_that_do_not_compete_are_met_together():
    other = SwapCandidate(footprint=GpuFootprint(name="", state="out", awake={1: 0.9}))
    assert decided("a b c", a=one(), b=other, c=one(awake=0)).load == {"a", "b", "c"}


def test_a_sleeping_engine_that_claims_stops_for_an_earlier_claim():
    sleeper = one("asleep", asleep=0.3, waited_s=1.0)
    assert decided("b a", a=sleeper, b=one(waited_s=2.0)).moves == {"a": Move("out", "b")}
    assert decided("b a", a=sleeper, b=one(waited_s=0.5)).load == {"a"}


def test_an_engine_stops_for_two_others_if_one_needs_that():
    wide = GpuFootprint(name="", state="loaded", awake={0: 0.5, 1: 0.5}, asleep={0: 0.1, 1: 0.1})
    turn = decided(
        "b c",
        a=SwapCandidate(footprint=wide),
        b=one(awake=0.85),
        c=SwapCandidate(footprint=GpuFootprint(name="", state="out", awake={1: 0.95})),
    )
    assert turn.moves == {"a": Move("out", "c")}


def test_beside_a_pinned_one_there_is_never_room():
    assert decided(a=one("loaded", is_pinned=True), b=one(waited_s=0.0)).never == {"b"}


# --- exclusive groups ---------------------------------------------------------------------------------------------


def test_exclusive_engines_make_room_for_each_other_without_any_gpu():
    turn = decided(swap=APART, a=one("loaded", awake=0), b=one(awake=0, waited_s=0.0))
    assert turn.moves == {"a": Move("out", "b")}


def test_an_exclusive_engine_that_sleeps_is_not_loaded():
    turn = decided(swap=APART, a=one("loaded", awake=0, can_sleep=True), b=one(awake=0, waited_s=0.0))
    assert turn.moves == {"a": Move("asleep", "b")}
    assert decided(swap=APART, a=one("asleep", awake=0, can_sleep=True), b=one(awake=0)).load == {"b"}


def test_an_exclusive_engine_waits_for_requests_as_one_on_a_gpu_does():
    busy = one("loaded", awake=0, loaded_s=100, in_flight=1)
    assert decided(swap=APART, a=busy, b=one(awake=0, waited_s=9.0)).moves == {}
    assert decided(swap=APART, a=busy, b=one(awake=0, waited_s=10.0)).moves == {"a": Move("out", "b")}


def test_of_two_exclusive_claims_one_is_met():
    turn = decided("a b", swap=APART, a=one(awake=0), b=one(awake=0))
    assert (turn.load, turn.moves) == ({"a"}, {})


def test_an_exclusive_claim_does_not_overtake_one_that_waits_for_a_gpu():
    """It would have its room at once, and be in the way of the other."""
    busy = one("loaded", loaded_s=100, in_flight=1)
    turn = decided("a b", swap=APART, c=busy, a=one(waited_s=5.0), b=one(awake=0, waited_s=4.0))
    assert (turn.load, turn.moves) == (set(), {})


def test_an_exclusive_one_beside_a_pinned_one_never_comes():
    turn = decided(swap=APART, a=one("loaded", awake=0, is_pinned=True), b=one(awake=0, waited_s=0.0))
    assert turn.never == {"b"}


def test_a_group_means_all_replicas_of_its_engines():
    names = ["a", "a:2", "b", "b:2", "c"]
    assert rivals("a:2", names, [("a", "b")]) == {"b", "b:2"}
    assert rivals("c", names, [("a", "b")]) == set()


def test_nothing_is_to_do_without_claims():
    assert decided("", a=one("loaded")) == Decision()


# --- any arrivals -------------------------------------------------------------------------------------------------

LOAD_S, WAKE_S, LONGEST_S = 20.0, 3.0, 8.0
SHARES = st.dictionaries(st.integers(0, 1), st.sampled_from([0.3, 0.5, 0.8]), max_size=2)


@st.composite
def machines(draw):
    names = "abcd"[: draw(st.integers(2, 4))]
    engines = []
    for name in names:
        awake = draw(SHARES)
        asleep = {gpu: draw(st.sampled_from([0.05, 0.25])) for gpu in awake} if draw(st.booleans()) else None
        engines.append(Engine(name, awake=awake, asleep=asleep, load_s=LOAD_S, wake_s=WAKE_S))
    groups = draw(st.lists(st.lists(st.sampled_from(names), min_size=2, max_size=3, unique=True), max_size=2))
    swap = SwapConfig(
        max_wait_s=draw(st.sampled_from([0.0, 10.0, 60.0])),
        min_loaded_s=draw(st.sampled_from([0.0, 5.0, 15.0])),
        exclusive=tuple(map(tuple, groups)),
    )
    return Machine(engines, decide, swap)


ARRIVALS = st.lists(
    st.builds(
        Arrival, st.integers(0, 400).map(lambda half: half / 2), st.sampled_from("abcd"), st.floats(0.1, LONGEST_S)
    ),
    max_size=60,
)


def within_bound(machine: Machine) -> bool:
    """The bound that `turns` states."""
    swap, count = machine.swap, len(machine.engines)
    turn_s = swap.min_loaded_s + LONGEST_S + WAKE_S + LOAD_S
    return max(machine.waits_s, default=0) <= swap.max_wait_s + (count + 1) * turn_s


@settings(max_examples=200, deadline=None)
@given(machines(), ARRIVALS)
def test_every_engine_that_is_waited_for_gets_its_turn_within_the_bound(machine, arrivals):
    """The machine itself sees to it that shares fit and exclusive engines are apart."""
    known = [arrival for arrival in arrivals if arrival.engine in machine.engines]
    machine.play(known)
    assert len(machine.waits_s) == len(known)
    assert not any(engine.waiting for engine in machine.engines.values())
    assert within_bound(machine)


@settings(max_examples=60, deadline=None)
@given(machines(), st.floats(0.25, 2.0), st.floats(0.1, LONGEST_S))
def test_engines_under_constant_load_all_get_their_turn(machine, every_s, takes_s):
    arrivals = [Arrival(index * every_s, name, takes_s) for index in range(200) for name in machine.engines]
    machine.play(arrivals)
    assert len(machine.waits_s) == len(arrivals)
    assert within_bound(machine)


def test_without_a_limit_the_second_engine_would_wait_for_ever():
    """That is what the bound is there for."""
    arrivals = [Arrival(index * 1.0, name, 2.0) for index in range(500) for name in "ab"]
    engines = [Engine(name, awake={0: 0.8}) for name in "ab"]
    machine = Machine(engines, decide, SwapConfig(max_wait_s=inf, min_loaded_s=0))
    machine.play(arrivals)
    assert max(machine.waits_s) > 450


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize(
    ("load", "fewest", "shortest"), [("in turn, 5 s each", inf, 0.04), ("in turn, 1 s each", 1, 1)]
)
def test_an_alternating_load_swaps_no_more_often_and_waits_shorter_than_by_the_rule_before(
    sleeps, load, fewest, shortest
):
    """Where requests overlap, the second engine was never loaded before."""
    old, new = (swaps.played(swaps.loads()[load], sleeps=sleeps, is_new=is_new) for is_new in (False, True))
    assert new.swaps <= old.swaps * fewest
    assert new.p99_s <= old.p99_s * shortest
