"""Which engines are evicted: examples, then a comparison with a search through all possible moves."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.engines.gpus.eviction import EvictionPlan, GpuFootprint, plan_eviction

NEW = GpuFootprint(name="new", state="out", awake={0: 0.9})


def footprint(name, awake, *, asleep=0.0, state="loaded", **fields):
    small = {0: asleep} if asleep else {}
    return GpuFootprint(name=name, state=state, awake={0: awake}, asleep=small, **fields)


def test_without_need_no_engine_is_evicted():
    assert plan_eviction("new", [NEW, footprint("a", 0.1)]) == EvictionPlan("go")


def test_an_engine_without_needs_always_fits():
    """An engine on the CPU has none."""
    assert plan_eviction(
        "new", [GpuFootprint(name="new", state="out", awake={}), footprint("a", 1.0, is_busy=True)]
    ) == EvictionPlan("go")


def test_an_engine_that_cannot_sleep_is_stopped():
    assert plan_eviction("new", [NEW, footprint("a", 0.9)]) == EvictionPlan("go", {"a": "out"})


def test_an_engine_that_can_sleep_sleeps():
    assert plan_eviction("new", [NEW, footprint("a", 0.9, asleep=0.05)]) == EvictionPlan("go", {"a": "asleep"})


def test_an_engine_that_takes_too_much_asleep_is_stopped():
    assert plan_eviction("new", [NEW, footprint("a", 0.9, asleep=0.2)]) == EvictionPlan("go", {"a": "out"})


def test_a_sleeping_engine_is_stopped_where_sleep_is_not_enough():
    footprints = [
        NEW,
        footprint("a", 0.9, asleep=0.06, last_used_s=2),
        footprint("b", 0.9, asleep=0.06, state="asleep"),
    ]
    assert plan_eviction("new", footprints) == EvictionPlan("go", {"a": "asleep", "b": "out"})


def test_the_longest_idle_engine_is_evicted_first():
    footprints = [
        NEW,
        footprint("a", 0.4, last_used_s=3),
        footprint("b", 0.4, last_used_s=1),
        footprint("c", 0.1, last_used_s=2),
    ]
    need = GpuFootprint(name="new", state="out", awake={0: 0.5})
    assert plan_eviction("new", [need, *footprints[1:]]) == EvictionPlan("go", {"b": "out"})


def test_an_unnecessary_move_is_removed():
    """The small engine was chosen first, and was not enough."""
    need = GpuFootprint(name="new", state="out", awake={0: 0.7})
    footprints = [need, footprint("old", 0.3, last_used_s=1), footprint("large", 0.5, last_used_s=2)]
    assert plan_eviction("new", footprints) == EvictionPlan("go", {"large": "out"})


def test_an_engine_on_another_gpu_stays():
    other = GpuFootprint(name="a", state="loaded", awake={1: 0.9})
    assert plan_eviction("new", [NEW, other]) == EvictionPlan("go")


@pytest.mark.parametrize(
    ("other", "verdict"),
    [({"is_busy": True}, "wait"), ({"is_pinned": True}, "never"), ({"is_busy": True, "is_pinned": True}, "never")],
)
def test_the_verdict_is_wait_for_busy_engines_and_never_for_pinned_ones(other, verdict):
    assert plan_eviction("new", [NEW, footprint("a", 0.9, **other)]) == EvictionPlan(verdict)


def test_no_engine_is_evicted_before_all_can_be():
    footprints = [NEW, footprint("idle", 0.45), footprint("busy", 0.45, is_busy=True)]
    assert plan_eviction("new", footprints) == EvictionPlan("wait")


# --- any engines --------------------------------------------------------------------------------------------------

SHARE = st.sampled_from([0.1, 0.2, 0.3, 0.45, 0.6, 0.92, 1.0])
SHARES = st.dictionaries(st.integers(0, 2), SHARE, max_size=3)


@st.composite
def engines(draw):
    """The engine that is to be loaded, and others that fit on the GPUs together."""
    footprints = [GpuFootprint(name="new", state=draw(st.sampled_from(["out", "asleep"])), awake=draw(SHARES))]
    for index in range(draw(st.integers(0, 4))):
        awake = draw(SHARES)
        one = GpuFootprint(
            name=f"e{index}",
            state=draw(st.sampled_from(["loaded", "asleep", "out"])),
            awake=awake,
            asleep={gpu: min(0.1, share) for gpu, share in awake.items()} if draw(st.booleans()) else {},
            is_busy=draw(st.booleans()),
            is_pinned=draw(st.booleans()),
            last_used_s=draw(st.integers(0, 3)),
        )
        if fits([*footprints[1:], one], {}, {0: 0, 1: 0, 2: 0}):
            footprints.append(one)
    return footprints


def fits(others, moves, need):
    held = [one.shares_in(moves.get(one.name, one.state)) for one in others]
    return all(share + sum(shares.get(gpu, 0) for shares in held) <= 1 + 1e-6 for gpu, share in need.items())


def lesser_states(one):
    """The states that the engine may get."""
    if one.is_busy or one.is_pinned or one.state == "out":
        return [one.state]
    return ["loaded", *(["asleep"] if one.asleep else []), "out"] if one.state == "loaded" else ["asleep", "out"]


def all_moves(others):
    for states in itertools.product(*(lesser_states(one) for one in others)):
        yield {one.name: state for one, state in zip(others, states, strict=True) if state != one.state}


@settings(max_examples=400, deadline=None)
@given(engines())
def test_a_plan_is_found_if_there_is_one_and_moves_no_more_than_necessary(footprints):
    need, others = footprints[0].awake, footprints[1:]
    eviction = plan_eviction("new", footprints)
    by_name = {one.name: one for one in others}
    possible = [moves for moves in all_moves(others) if fits(others, moves, need)]
    assert (eviction.verdict == "go") == bool(possible)
    if eviction.verdict != "go":
        assert eviction.moves == {}
        without_busy = {one.name: "out" for one in others if not one.is_pinned}
        assert (eviction.verdict == "wait") == fits(others, without_busy, need)
        return
    assert not any(by_name[name].is_busy or by_name[name].is_pinned for name in eviction.moves)
    assert all(state in lesser_states(by_name[name]) for name, state in eviction.moves.items())
    assert fits(others, eviction.moves, need)
    for name in eviction.moves:
        assert not fits(others, {other: state for other, state in eviction.moves.items() if other != name}, need)
        if eviction.moves[name] == "out" and by_name[name].asleep and by_name[name].state == "loaded":
            assert not fits(others, eviction.moves | {name: "asleep"}, need)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), st.integers(1, 5))
def test_among_equal_engines_those_idle_the_longest_are_evicted(used, number):
    """The moves are in the order of their last use."""
    share = 1 / len(used)
    count = min(number, len(used))
    footprints = [footprint(f"e{at}", share, last_used_s=at) for at in used]
    need = GpuFootprint(name="new", state="out", awake={0: share * count})
    assert list(plan_eviction("new", [need, *footprints]).moves) == [f"e{at}" for at in sorted(used)[:count]]
