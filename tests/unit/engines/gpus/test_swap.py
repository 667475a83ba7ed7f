"""Which engine is loaded next: examples, then properties for any arrivals, on a machine with simulated time."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks import swaps
from tests.fakes.swapping import Arrival, Engine, Machine
from tidegate.config.swap import SwapConfig
from tidegate.engines.gpus.eviction import GpuFootprint, rivals
from tidegate.engines.gpus.swap import Decision, EngineUse, Move, decide

SWAP = SwapConfig(max_wait_s=10, min_loaded_s=5)
EXCLUSIVE = SwapConfig(max_wait_s=10, min_loaded_s=5, exclusive=(("a", "b"),))


def candidate(state="out", *, awake=0.8, asleep=0.0, last_used_s=0.0, can_sleep=False, is_pinned=False, **fields):
    """An engine that takes the share `awake` of GPU 0, or no GPU if `awake` is 0."""
    footprint = GpuFootprint(
        name="",
        state=state,
        awake={0: awake} if awake else {},
        asleep={0: asleep} if asleep else {},
        can_sleep=can_sleep,
        is_pinned=is_pinned,
        last_used_s=last_used_s,
    )
    return EngineUse(footprint=footprint, **fields)


def decide_for(claims="b", swap=SWAP, **snapshots):
    named = {
        name: EngineUse(
            **{field: getattr(each, field) for field in each.__struct_fields__} | {"footprint": footprint(name, each)}
        )
        for name, each in snapshots.items()
    }
    return decide(claims.split(), named, swap)


def footprint(name, snapshot):
    return GpuFootprint(
        **{field: getattr(snapshot.footprint, field) for field in snapshot.footprint.__struct_fields__} | {"name": name}
    )


def test_an_idle_engine_is_evicted_at_once():
    decision = decide_for(a=candidate("loaded", loaded_s=1), b=candidate(waited_s=0.0))
    assert decision.moves == {"a": Move("out", "b")}


def test_an_engine_that_got_new_requests_stays_its_minimum_time():
    decision = decide_for(a=candidate("loaded", loaded_s=1, has_new_requests=True), b=candidate(waited_s=0.0))
    assert (decision.moves, decision.decide_again_in_s) == ({}, 4)
    decision = decide_for(a=candidate("loaded", loaded_s=5, has_new_requests=True), b=candidate(waited_s=4.0))
    assert decision.moves == {"a": Move("out", "b")}


def test_an_engine_with_requests_stays_until_a_request_for_another_has_waited_long_enough():
    decision = decide_for(a=candidate("loaded", loaded_s=100, in_flight=3), b=candidate(waited_s=9.0))
    assert (decision.moves, decision.decide_again_in_s) == ({}, 1)
    decision = decide_for(a=candidate("loaded", loaded_s=100, in_flight=3), b=candidate(waited_s=10.0))
    assert decision.moves == {"a": Move("out", "b")}


def test_an_engine_with_requests_stays_its_minimum_time_however_long_others_wait():
    decision = decide_for(a=candidate("loaded", loaded_s=3, in_flight=3), b=candidate(waited_s=90.0))
    assert (decision.moves, decision.decide_again_in_s) == ({}, 2)


def test_an_engine_whose_requests_have_no_slots_yet_is_not_idle():
    """It was just loaded for them; the minimum time does not matter."""
    decision = decide_for(
        swap=SwapConfig(min_loaded_s=0), a=candidate("loaded", waited_s=30.0), b=candidate(waited_s=29.0)
    )
    assert decision.moves == {}


def test_a_claim_that_no_request_waits_for_evicts_no_engine_with_requests():
    """The administrator has loaded it, or it is loaded with the server."""
    decision = decide_for(a=candidate("loaded", loaded_s=100, in_flight=1), b=candidate())
    assert (decision.moves, decision.decide_again_in_s) == ({}, None)


def test_idle_engines_are_evicted_before_those_with_requests():
    decision = decide_for(
        a=candidate("loaded", awake=0.5, loaded_s=100, in_flight=1),
        c=candidate("loaded", awake=0.5, loaded_s=100, last_used_s=9),
        b=candidate(awake=0.5, waited_s=60.0),
    )
    assert decision.moves == {"c": Move("out", "b")}


def test_the_choice_does_not_change_while_a_closed_engine_is_answering():
    closed = candidate("loaded", awake=0.5, loaded_s=100, in_flight=1, is_closed=True, last_used_s=9)
    decision = decide_for(
        a=closed, c=candidate("loaded", awake=0.5, loaded_s=100, in_flight=1), b=candidate(awake=0.5, waited_s=60.0)
    )
    assert decision.moves == {"a": Move("out", "b")}


def test_the_longest_wait_comes_first_and_those_that_no_request_waits_for_last():
    snapshots = {"a": candidate(), "b": candidate(waited_s=3.0), "c": candidate(waited_s=4.0)}
    assert decide_for("a b c", **snapshots).load == {"c"}


def test_claims_that_do_not_compete_are_met_together():
    other = EngineUse(footprint=GpuFootprint(name="", state="out", awake={1: 0.9}))
    assert decide_for("a b c", a=candidate(), b=other, c=candidate(awake=0)).load == {"a", "b", "c"}


def test_a_sleeping_engine_that_claims_stops_for_an_earlier_claim():
    sleeper = candidate("asleep", asleep=0.3, waited_s=1.0)
    assert decide_for("b a", a=sleeper, b=candidate(waited_s=2.0)).moves == {"a": Move("out", "b")}
    assert decide_for("b a", a=sleeper, b=candidate(waited_s=0.5)).load == {"a"}


def test_an_engine_stops_for_two_others_if_one_needs_that():
    wide = GpuFootprint(name="", state="loaded", awake={0: 0.5, 1: 0.5}, asleep={0: 0.1, 1: 0.1})
    decision = decide_for(
        "b c",
        a=EngineUse(footprint=wide),
        b=candidate(awake=0.85),
        c=EngineUse(footprint=GpuFootprint(name="", state="out", awake={1: 0.95})),
    )
    assert decision.moves == {"a": Move("out", "c")}


def test_a_claim_that_a_pinned_engine_prevents_is_never_met():
    assert decide_for(a=candidate("loaded", is_pinned=True), b=candidate(waited_s=0.0)).never == {"b"}


# --- exclusive groups ---------------------------------------------------------------------------------------------


def test_exclusive_engines_are_evicted_for_each_other_without_a_gpu():
    decision = decide_for(swap=EXCLUSIVE, a=candidate("loaded", awake=0), b=candidate(awake=0, waited_s=0.0))
    assert decision.moves == {"a": Move("out", "b")}


def test_an_exclusive_engine_that_sleeps_does_not_count_as_loaded():
    decision = decide_for(
        swap=EXCLUSIVE, a=candidate("loaded", awake=0, can_sleep=True), b=candidate(awake=0, waited_s=0.0)
    )
    assert decision.moves == {"a": Move("asleep", "b")}
    assert decide_for(swap=EXCLUSIVE, a=candidate("asleep", awake=0, can_sleep=True), b=candidate(awake=0)).load == {
        "b"
    }


def test_an_exclusive_engine_waits_for_requests_as_one_on_a_gpu_does():
    busy = candidate("loaded", awake=0, loaded_s=100, in_flight=1)
    assert decide_for(swap=EXCLUSIVE, a=busy, b=candidate(awake=0, waited_s=9.0)).moves == {}
    assert decide_for(swap=EXCLUSIVE, a=busy, b=candidate(awake=0, waited_s=10.0)).moves == {"a": Move("out", "b")}


def test_of_two_exclusive_claims_one_is_met():
    decision = decide_for("a b", swap=EXCLUSIVE, a=candidate(awake=0), b=candidate(awake=0))
    assert (decision.load, decision.moves) == ({"a"}, {})


def test_an_exclusive_claim_does_not_overtake_one_that_waits_for_a_gpu():
    """It could be loaded at once, but would then prevent the load of the other."""
    busy = candidate("loaded", loaded_s=100, in_flight=1)
    decision = decide_for("a b", swap=EXCLUSIVE, c=busy, a=candidate(waited_s=5.0), b=candidate(awake=0, waited_s=4.0))
    assert (decision.load, decision.moves) == (set(), {})


def test_an_exclusive_engine_is_never_loaded_beside_a_pinned_rival():
    decision = decide_for(
        swap=EXCLUSIVE, a=candidate("loaded", awake=0, is_pinned=True), b=candidate(awake=0, waited_s=0.0)
    )
    assert decision.never == {"b"}


def test_a_group_means_all_replicas_of_its_engines():
    names = ["a", "a:2", "b", "b:2", "c"]
    assert rivals("a:2", names, [("a", "b")]) == {"b", "b:2"}
    assert rivals("c", names, [("a", "b")]) == set()


def test_without_claims_there_is_nothing_to_do():
    assert decide_for("", a=candidate("loaded")) == Decision()


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
    """Whether the waits are within the bound that `tidegate.engines.gpus.swap` states."""
    swap, count = machine.swap, len(machine.engines)
    swap_s = swap.min_loaded_s + LONGEST_S + WAKE_S + LOAD_S
    return max(machine.waits_s, default=0) <= swap.max_wait_s + (count + 1) * swap_s


@settings(max_examples=200, deadline=None)
@given(machines(), ARRIVALS)
def test_every_engine_with_waiting_requests_is_loaded_within_the_bound(machine, arrivals):
    """`Machine` itself asserts that the shares fit and exclusive engines are not loaded together."""
    known = [arrival for arrival in arrivals if arrival.engine in machine.engines]
    machine.play(known)
    assert len(machine.waits_s) == len(known)
    assert not any(engine.waiting for engine in machine.engines.values())
    assert within_bound(machine)


@settings(max_examples=60, deadline=None)
@given(machines(), st.floats(0.25, 2.0), st.floats(0.1, LONGEST_S))
def test_engines_under_constant_load_are_all_loaded(machine, every_s, takes_s):
    arrivals = [Arrival(index * every_s, name, takes_s) for index in range(200) for name in machine.engines]
    machine.play(arrivals)
    assert len(machine.waits_s) == len(arrivals)
    assert within_bound(machine)


def test_without_a_limit_the_second_engine_would_wait_for_ever():
    """`max_wait_s` prevents this."""
    arrivals = [Arrival(index * 1.0, name, 2.0) for index in range(500) for name in "ab"]
    engines = [Engine(name, awake={0: 0.8}) for name in "ab"]
    machine = Machine(engines, decide, SwapConfig(max_wait_s=inf, min_loaded_s=0))
    machine.play(arrivals)
    assert max(machine.waits_s) > 450


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize(
    ("load", "fewest", "shortest"), [("in turn, 5 s each", inf, 0.04), ("in turn, 1 s each", 1, 1)]
)
def test_an_alternating_load_causes_no_more_swaps_and_shorter_waits_than_the_previous_rule(
    sleeps, load, fewest, shortest
):
    """With the previous rule the second engine was never loaded if requests overlapped."""
    old, new = (swaps.played(swaps.loads()[load], sleeps=sleeps, is_new=is_new) for is_new in (False, True))
    assert new.swaps <= old.swaps * fewest
    assert new.p99_s <= old.p99_s * shortest
