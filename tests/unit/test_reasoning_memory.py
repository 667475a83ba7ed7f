"""The stored reasoning of past turns: bounded, dropped after a time, separate for each caller (contract C.7)."""

import asyncio
import gc
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fakes.clock import FakeClock
from tidegate.reasoning_memory import ProcessReasoningMemory


async def test_reasoning_is_found_under_each_call_id():
    reasoning_memory = ProcessReasoningMemory(FakeClock())
    await reasoning_memory.remember("alice", ["a", "b"], "Hm.")
    assert await reasoning_memory.recall("alice", ["b", "c", "a"]) == {"a": "Hm.", "b": "Hm."}


async def test_another_caller_finds_nothing():
    reasoning_memory = ProcessReasoningMemory(FakeClock())
    await reasoning_memory.remember("alice", ["a"], "Hm.")
    assert await reasoning_memory.recall("bob", ["a"]) == {}


async def test_reasoning_is_dropped_after_its_time():
    clock = FakeClock()
    reasoning_memory = ProcessReasoningMemory(clock, keep_s=60)
    await reasoning_memory.remember("alice", ["a"], "Hm.")
    clock.advance(59)
    assert await reasoning_memory.recall("alice", ["a"]) == {"a": "Hm."}
    clock.advance(1)
    assert await reasoning_memory.recall("alice", ["a"]) == {}


async def test_expired_entries_are_dropped_when_one_is_added():
    clock = FakeClock()
    reasoning_memory = ProcessReasoningMemory(clock, keep_s=60)
    await reasoning_memory.remember("alice", ["a"], "x" * 10_000)
    clock.advance(61)
    await reasoning_memory.remember("alice", ["b"], "y")
    assert reasoning_memory.size_bytes < 1_000


async def test_the_oldest_entry_is_dropped_first_when_it_is_full():
    reasoning_memory = ProcessReasoningMemory(FakeClock(), max_bytes=3_000)
    for name in "abc":
        await reasoning_memory.remember("alice", [name], name * 1_000)
    assert await reasoning_memory.recall("alice", ["a", "b", "c"]) == {"b": "b" * 1_000, "c": "c" * 1_000}


async def test_a_text_larger_than_the_bound_is_not_stored():
    reasoning_memory = ProcessReasoningMemory(FakeClock(), max_bytes=1_000)
    await reasoning_memory.remember("alice", ["a"], "x" * 2_000)
    assert await reasoning_memory.recall("alice", ["a"]) == {}
    assert reasoning_memory.size_bytes == 0


@pytest.mark.parametrize("count", [1, 128])
async def test_the_text_of_a_turn_is_counted_once(count):
    reasoning_memory = ProcessReasoningMemory(FakeClock())
    await reasoning_memory.remember("alice", [f"call_{number}" for number in range(count)], "x" * 10_000)
    assert 10_000 < reasoning_memory.size_bytes < 10_000 + count * 500


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
async def test_it_stays_within_its_bound_and_returns_no_other_callers_text(turns):
    """For any texts, times and callers."""
    clock = FakeClock()
    reasoning_memory = ProcessReasoningMemory(clock, max_bytes=2_500, keep_s=100)
    stored: dict[tuple[str, str], str] = {}
    for caller, call_ids, reasoning, later_s in turns:
        clock.advance(later_s)
        await reasoning_memory.remember(caller, call_ids, reasoning)
        stored |= {(caller, call_id): reasoning for call_id in call_ids}
        assert 0 <= reasoning_memory.size_bytes <= 2_500
        for other in "ab":
            for call_id, text in (await reasoning_memory.recall(other, list("wxyz"))).items():
                assert stored[other, call_id] == text


# --- what is really held --------------------------------------------------------------------------------------------


TABLE = 4096  # bytes of a table of a dozen entries, which grows as entries come and go


def held_bytes(reasoning_memory: ProcessReasoningMemory) -> int:
    """The size of every object that the entries reach, each once, without the table's initial size."""
    seen, remaining = {}, [reasoning_memory._turns]
    while remaining:
        one = remaining.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen[id(one)] = one
            remaining += gc.get_referents(one)
    return sum(map(sys.getsizeof, seen.values())) - TABLE


async def test_a_text_is_held_and_counted_until_the_last_of_its_ids_is_gone():
    reasoning_memory = ProcessReasoningMemory(FakeClock(), max_bytes=100_000)
    await reasoning_memory.remember("alice", ["a", "b"], "x" * 50_000)
    await reasoning_memory.remember("alice", ["a"], "y")
    assert reasoning_memory.size_bytes > 50_000
    assert reasoning_memory.size_bytes >= held_bytes(reasoning_memory)
    await reasoning_memory.remember("alice", ["b"], "y")
    assert reasoning_memory.size_bytes < 2_000
    assert held_bytes(reasoning_memory) < 2_000


async def test_the_bound_holds_when_ids_are_remembered_again():
    """Forty texts of a megabyte, of each of which only the first id is written anew."""
    reasoning_memory = ProcessReasoningMemory(FakeClock(), max_bytes=1024 * 1024)
    for number in range(40):
        await reasoning_memory.remember("alice", ["same", f"own_{number}"], f"{number}" + "x" * 1_000_000)
    assert held_bytes(reasoning_memory) <= reasoning_memory.size_bytes <= 1024 * 1024


@pytest.mark.parametrize("reasoning", ["x" * 10_000 + "\U0001f600", "\u4e2d" * 10_000, "\ud800" + "x" * 10_000])
async def test_a_text_counts_for_its_real_size_whatever_its_characters(reasoning):
    """Also a text of which Python keeps a UTF-8 copy, as it does when JSON is made of it."""
    reasoning_memory = ProcessReasoningMemory(FakeClock())
    await reasoning_memory.remember("alice", ["call_\u4e2d", "b"], reasoning)
    assert await reasoning_memory.recall("alice", ["b"]) == {"b": reasoning}
    assert held_bytes(reasoning_memory) <= reasoning_memory.size_bytes < 35_000


class Remembering(RuleBasedStateMachine):
    """Turns of any size whose ids are stored again, in any order, while time passes."""

    MAX = 6_000

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.reasoning_memory = ProcessReasoningMemory(self.clock, max_bytes=self.MAX, keep_s=100)
        self.stored: dict[tuple[str, str], tuple[str, float]] = {}

    @rule(
        caller=st.sampled_from(["a", "b"]),
        ids=st.lists(st.sampled_from([*"vwxyz", "\u4e2d"]), max_size=5),
        text=st.text(max_size=40),
        times=st.integers(0, 60),
    )
    def remember(self, caller, ids, text, times):
        asyncio.run(self.reasoning_memory.remember(caller, ids, text * times))
        until_s = self.clock.monotonic_s() + 100
        self.stored |= {(caller, call_id): (text * times, until_s) for call_id in ids}

    @rule(later_s=st.floats(0, 60))
    def wait(self, later_s):
        self.clock.advance(later_s)

    @invariant()
    def held_bytes_are_counted_and_bounded(self):
        assert held_bytes(self.reasoning_memory) <= self.reasoning_memory.size_bytes <= self.MAX

    @invariant()
    def recall_returns_what_was_stored_last(self):
        for caller in "ab":
            found = asyncio.run(self.reasoning_memory.recall(caller, [*"vwxyz", "\u4e2d"]))
            for call_id, text in found.items():
                stored, until_s = self.stored[caller, call_id]
                assert (text, until_s > self.clock.monotonic_s()) == (stored, True)


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=40, stateful_step_count=30)
