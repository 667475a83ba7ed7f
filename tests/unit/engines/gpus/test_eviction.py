"""Who makes room: examples, then what holds whoever is there, against a search through all that could be done."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegate.engines.gpus.eviction import EvictionPlan, GpuFootprint, plan

WANTED = GpuFootprint(name="new", state="out", awake={0: 0.9})


def footprint(name, awake, *, asleep=0.0, state="loaded", **fields):
    small = {0: asleep} if asleep else {}
    return GpuFootprint(name=name, state=state, awake={0: awake}, asleep=small, **fields)


def test_where_there_is_room_nobody_moves():
    assert plan("new", [WANTED, footprint("a", 0.1)]) == EvictionPlan("go")


def test_an_engine_without_needs_always_fits():
    """Those on the CPU."""
    assert plan(
        "new", [GpuFootprint(name="new", state="out", awake={}), footprint("a", 1.0, is_busy=True)]
    ) == EvictionPlan("go")


def test_who_cannot_sleep_goes_out():
    assert plan("new", [WANTED, footprint("a", 0.9)]) == EvictionPlan("go", {"a": "out"})


def test_who_can_sleep_sleeps():
    assert plan("new", [WANTED, footprint("a", 0.9, asleep=0.05)]) == EvictionPlan("go", {"a": "asleep"})


def test_who_takes_too_much_asleep_goes_out():
    assert plan("new", [WANTED, footprint("a", 0.9, asleep=0.2)]) == EvictionPlan("go", {"a": "out"})


def test_a_sleeper_goes_out_where_sleeping_is_not_enough():
    seats = [WANTED, footprint("a", 0.9, asleep=0.06, last_used_s=2), footprint("b", 0.9, asleep=0.06, state="asleep")]
    assert plan("new", seats) == EvictionPlan("go", {"a": "asleep", "b": "out"})


def test_the_longest_idle_goes_first():
    seats = [
        WANTED,
        footprint("a", 0.4, last_used_s=3),
        footprint("b", 0.4, last_used_s=1),
        footprint("c", 0.1, last_used_s=2),
    ]
    need = GpuFootprint(name="new", state="out", awake={0: 0.5})
    assert plan("new", [need, *seats[1:]]) == EvictionPlan("go", {"b": "out"})


def test_who_went_needlessly_stays():
    """The small one was taken first, and was not enough."""
    need = GpuFootprint(name="new", state="out", awake={0: 0.7})
    seats = [need, footprint("old", 0.3, last_used_s=1), footprint("large", 0.5, last_used_s=2)]
    assert plan("new", seats) == EvictionPlan("go", {"large": "out"})


def test_who_is_on_another_gpu_stays():
    other = GpuFootprint(name="a", state="loaded", awake={1: 0.9})
    assert plan("new", [WANTED, other]) == EvictionPlan("go")


@pytest.mark.parametrize(
    ("other", "verdict"),
    [({"is_busy": True}, "wait"), ({"is_pinned": True}, "never"), ({"is_busy": True, "is_pinned": True}, "never")],
)
def test_busy_ones_are_waited_for_and_pinned_ones_are_not(other, verdict):
    assert plan("new", [WANTED, footprint("a", 0.9, **other)]) == EvictionPlan(verdict)


def test_nobody_moves_before_all_can():
    seats = [WANTED, footprint("idle", 0.45), footprint("busy", 0.45, is_busy=True)]
    assert plan("new", seats) == EvictionPlan("wait")


# --- whoever is there ---------------------------------------------------------------------------------------------

SHARE = st.sampled_from([0.1, 0.2, 0.3, 0.45, 0.6, 0.92, 1.0])
SHARES = st.dictionaries(st.integers(0, 2), SHARE, max_size=3)


@st.composite
def companies(draw):
    """Engines that fit beside each other, and one that is wanted."""
    seats = [GpuFootprint(name="new", state=draw(st.sampled_from(["out", "asleep"])), awake=draw(SHARES))]
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
        if fits([*seats[1:], one], {}, {0: 0, 1: 0, 2: 0}):
            seats.append(one)
    return seats


def fits(others, moves, need):
    held = [one.held(moves.get(one.name, one.state)) for one in others]
    return all(share + sum(shares.get(gpu, 0) for shares in held) <= 1 + 1e-6 for gpu, share in need.items())


def lesser_states(one):
    """What it may come down to."""
    if one.is_busy or one.is_pinned or one.state == "out":
        return [one.state]
    return ["loaded", *(["asleep"] if one.asleep else []), "out"] if one.state == "loaded" else ["asleep", "out"]


def everything_that_can_be_done(others):
    for states in itertools.product(*(lesser_states(one) for one in others)):
        yield {one.name: state for one, state in zip(others, states, strict=True) if state != one.state}


@settings(max_examples=400, deadline=None)
@given(companies())
def test_whoever_is_there_room_is_made_where_it_can_be_and_no_more_than_needed(seats):
    need, others = seats[0].awake, seats[1:]
    made = plan("new", seats)
    by_name = {one.name: one for one in others}
    could = [moves for moves in everything_that_can_be_done(others) if fits(others, moves, need)]
    assert (made.verdict == "go") == bool(could)
    if made.verdict != "go":
        assert made.moves == {}
        without_busy = {one.name: "out" for one in others if not one.is_pinned}
        assert (made.verdict == "wait") == fits(others, without_busy, need)
        return
    assert not any(by_name[name].is_busy or by_name[name].is_pinned for name in made.moves)
    assert all(state in lesser_states(by_name[name]) for name, state in made.moves.items())
    assert fits(others, made.moves, need)
    for name in made.moves:
        assert not fits(others, {other: state for other, state in made.moves.items() if other != name}, need)
        if made.moves[name] == "out" and by_name[name].asleep and by_name[name].state == "loaded":
            assert not fits(others, made.moves | {name: "asleep"}, need)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), st.integers(1, 5))
def test_among_equals_those_go_that_were_used_the_longest_ago(used, wanted):
    """In the order of their last use, too."""
    share = 1 / len(used)
    count = min(wanted, len(used))
    seats = [footprint(f"e{at}", share, last_used_s=at) for at in used]
    need = GpuFootprint(name="new", state="out", awake={0: share * count})
    assert list(plan("new", [need, *seats]).moves) == [f"e{at}" for at in sorted(used)[:count]]
