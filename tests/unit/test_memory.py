"""What models thought, kept for a while: bounded, forgotten in time, each caller's own (contract C.7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.memory import ProcessMemory
from tests.fakes.clock import FakeClock


async def test_what_is_kept_is_found_under_each_call():
    memory = ProcessMemory(FakeClock())
    await memory.remember("alice", ["a", "b"], "Hm.")
    assert await memory.recall("alice", ["b", "c", "a"]) == {"a": "Hm.", "b": "Hm."}


async def test_another_caller_finds_nothing():
    memory = ProcessMemory(FakeClock())
    await memory.remember("alice", ["a"], "Hm.")
    assert await memory.recall("bob", ["a"]) == {}


async def test_it_is_forgotten_in_time():
    clock = FakeClock()
    memory = ProcessMemory(clock, keep_s=60)
    await memory.remember("alice", ["a"], "Hm.")
    clock.advance(59)
    assert await memory.recall("alice", ["a"]) == {"a": "Hm."}
    clock.advance(1)
    assert await memory.recall("alice", ["a"]) == {}


async def test_what_is_too_old_makes_room():
    clock = FakeClock()
    memory = ProcessMemory(clock, keep_s=60)
    await memory.remember("alice", ["a"], "x" * 10_000)
    clock.advance(61)
    await memory.remember("alice", ["b"], "y")
    assert memory.size_bytes < 1_000


async def test_the_oldest_goes_first_when_it_is_full():
    memory = ProcessMemory(FakeClock(), max_bytes=3_000)
    for name in "abc":
        await memory.remember("alice", [name], name * 1_000)
    assert await memory.recall("alice", ["a", "b", "c"]) == {"b": "b" * 1_000, "c": "c" * 1_000}


async def test_a_thought_larger_than_all_is_not_kept():
    memory = ProcessMemory(FakeClock(), max_bytes=1_000)
    await memory.remember("alice", ["a"], "x" * 2_000)
    assert await memory.recall("alice", ["a"]) == {}
    assert memory.size_bytes == 0


@pytest.mark.parametrize("count", [1, 128])
async def test_the_text_of_a_turn_is_counted_once(count):
    memory = ProcessMemory(FakeClock())
    await memory.remember("alice", [f"call_{number}" for number in range(count)], "x" * 10_000)
    assert 10_000 < memory.size_bytes < 10_000 + count * 500


@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.lists(st.sampled_from("wxyz"), max_size=3),
            st.text(max_size=900),
            st.floats(0, 50),
        ),
        max_size=30,
    )
)
async def test_it_never_holds_more_than_it_may_and_nothing_of_others(turns):
    """Whatever is remembered, when and by whom."""
    clock = FakeClock()
    memory = ProcessMemory(clock, max_bytes=2_500, keep_s=100)
    said: dict[tuple[str, str], str] = {}
    for caller, call_ids, reasoning, later_s in turns:
        clock.advance(later_s)
        await memory.remember(caller, call_ids, reasoning)
        said |= {(caller, call_id): reasoning for call_id in call_ids}
        assert 0 <= memory.size_bytes <= 2_500
        for other in "ab":
            for call_id, text in (await memory.recall(other, list("wxyz"))).items():
                assert said[other, call_id] == text
