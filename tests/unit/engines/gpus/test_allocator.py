"""When claims are met: the engines are doubles whose state the test sets."""

import asyncio
from contextlib import ExitStack

import pytest

from tests.fakes.clock import FakeClock
from tidegate.config.swap import SwapConfig
from tidegate.engines.base import EngineError, EngineStatus
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.requests import EngineRequests

LARGE = GpuNeeds(awake={0: 0.9}, asleep={0: 0.05})
LARGE_ASLEEP = GpuNeeds(awake={0: 0.9}, asleep={0: 0.3})


class FakeEngine:
    """An engine that records the calls of `unload`; the test changes its state."""

    def __init__(self, name, clock):
        self.name = name
        self.status = EngineStatus("stopped")
        self.requests = EngineRequests(clock)
        self.requested = []
        self.paused_for = None

    def pause_for(self, other):
        self.paused_for = other

    def reopen(self):
        self.paused_for = None

    def unload(self, *, may_sleep=True):
        self.requested.append("sleep" if may_sleep else "stop")


class Machine:
    """A `GpuAllocator` and its engines; it decides without pauses."""

    def __init__(self, **needs):
        self.clock = FakeClock()
        self.allocator = GpuAllocator(SwapConfig(max_wait_s=10, min_loaded_s=5), decide_every_s=0)
        self.engines = {name: FakeEngine(name, self.clock) for name in needs}
        for name, engine in self.engines.items():
            self.allocator.register(engine, needs[name])
        self.claims = {}

    def claim(self, name):
        self.claims[name] = asyncio.create_task(self.allocator.claim(name))

    async def settle(self):
        """Let every claim run, several times."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def load(self, name):
        """Claim for an engine, and make it ready and used now."""
        self.claim(name)
        await self.claims.pop(name)
        self.set_state(name, "ready")
        self.engines[name].requests.mark_ready()
        self.clock.advance(1)
        self.engines[name].requests.take()
        self.engines[name].requests.release()

    async def sleep(self, name):
        self.set_state(name, "sleeping")
        self.allocator.release(name, is_asleep=True)
        await self.settle()

    async def stop(self, name):
        self.set_state(name, "stopped")
        self.allocator.release(name)
        await self.settle()

    def set_state(self, name, state):
        self.engines[name].status = EngineStatus(state)

    def wait_for(self, name):
        """Let a request wait for the engine, until the returned stack is closed."""
        waiting = ExitStack()
        waiting.enter_context(self.engines[name].requests.count_waiting())
        return waiting

    def waiting(self):
        return [name for name, claim in self.claims.items() if not claim.done()]

    def requested(self, name):
        """The calls of `unload` so far, without repetition: "sleep" or "stop"."""
        return list(dict.fromkeys(self.engines[name].requested))

    async def close(self):
        for claim in self.claims.values():
            claim.cancel()
        await asyncio.gather(*self.claims.values(), return_exceptions=True)


@pytest.fixture
async def machine():
    """Engines on GPU 0: `a`, `b`, `c` need all of it, `large_asleep` keeps too much asleep; and others."""
    machine = Machine(
        a=LARGE,
        b=LARGE,
        c=LARGE,
        large_asleep=LARGE_ASLEEP,
        small=GpuNeeds(awake={0: 0.4}),
        other=GpuNeeds(awake={1: 0.9}),
        pinned=GpuNeeds(awake={0: 0.5}, is_pinned=True),
        cpu=GpuNeeds(),
    )
    yield machine
    await machine.close()


async def test_a_claim_for_an_empty_gpu_is_met_at_once(machine):
    await asyncio.wait_for(machine.allocator.claim("a"), 60)


async def test_an_idle_engine_is_put_to_sleep_and_then_the_claim_is_met(machine):
    await machine.load("a")
    machine.claim("b")
    await machine.settle()
    assert (machine.requested("a"), machine.waiting()) == (["sleep"], ["b"])
    await machine.sleep("a")
    assert machine.waiting() == []


async def test_a_claim_waits_for_a_busy_engine(machine):
    """No event reports that its last request has ended."""
    await machine.load("a")
    machine.engines["a"].requests.take()
    machine.claim("b")
    await machine.settle()
    assert (machine.requested("a"), machine.waiting()) == ([], ["b"])
    machine.engines["a"].requests.release()
    await machine.settle()
    assert machine.requested("a") == ["sleep"]


async def test_a_claim_waits_for_an_engine_that_starts(machine):
    await machine.load("a")
    machine.set_state("a", "starting")
    machine.claim("b")
    await machine.settle()
    assert machine.requested("a") == []


async def test_a_claim_waits_for_an_engine_that_got_a_request_before_it_slept(machine):
    """The engine is put to sleep when that request has ended."""
    await machine.load("a")
    machine.claim("b")
    await machine.settle()
    machine.engines["a"].requests.take()
    machine.engines["a"].requested.clear()
    await machine.settle()
    assert (machine.requested("a"), machine.waiting()) == ([], ["b"])
    machine.engines["a"].requests.release()
    await machine.settle()
    assert machine.requested("a") == ["sleep"]
    await machine.sleep("a")
    assert machine.waiting() == []


async def test_claims_are_met_in_their_order(machine):
    await machine.load("small")
    machine.engines["small"].requests.take()
    machine.claim("a")
    await machine.settle()
    machine.claim("b")
    machine.claim("c")
    await machine.settle()
    assert machine.waiting() == ["a", "b", "c"]
    machine.engines["small"].requests.release()
    await machine.stop("small")
    assert machine.waiting() == ["b", "c"]
    machine.set_state("a", "ready")
    await machine.settle()
    await machine.sleep("a")
    assert machine.waiting() == ["c"]


async def test_claims_for_other_gpus_are_met_at_once(machine):
    await machine.load("a")
    machine.engines["a"].requests.take()
    machine.claim("b")
    await machine.settle()
    machine.claim("other")
    machine.claim("cpu")
    await machine.settle()
    assert machine.waiting() == ["b"]


async def test_a_sleeping_engine_that_keeps_too_much_memory_is_stopped(machine):
    await machine.load("large_asleep")
    await machine.sleep("large_asleep")
    machine.claim("a")
    await machine.settle()
    assert (machine.requested("large_asleep"), machine.waiting()) == (["stop"], ["a"])
    await machine.stop("large_asleep")
    assert machine.waiting() == []


async def test_an_engine_that_would_keep_too_much_memory_asleep_is_stopped_at_once(machine):
    await machine.load("large_asleep")
    machine.claim("a")
    await machine.settle()
    assert machine.requested("large_asleep") == ["stop"]


async def test_a_sleeping_engine_that_claims_is_stopped_for_an_earlier_claim():
    """Otherwise each would wait for the other."""
    machine = Machine(old=LARGE_ASLEEP, new=LARGE, third=GpuNeeds(awake={0: 0.6}))
    await machine.load("old")
    await machine.sleep("old")
    await machine.load("third")
    machine.engines["third"].requests.take()
    machine.claim("new")
    await machine.settle()
    machine.claim("old")
    await machine.settle()
    assert machine.waiting() == ["new", "old"]
    machine.engines["third"].requests.release()
    await machine.settle()
    await machine.stop("third")
    assert (machine.waiting(), await machine.claims["old"], machine.requested("old")) == (
        ["new"],
        False,
        ["stop"],
    )
    await machine.stop("old")
    assert (machine.waiting(), await machine.claims["new"]) == ([], True)
    await machine.close()


async def test_an_engine_with_requests_closes_when_a_request_for_another_has_waited_long_enough(machine):
    """It is put to sleep when its last answer has ended, and not before."""
    await machine.load("a")
    machine.engines["a"].requests.take()
    with machine.wait_for("b"):
        machine.claim("b")
        await machine.settle()
        assert machine.engines["a"].paused_for is None
        machine.clock.advance(10)
        await machine.settle()
        assert (machine.engines["a"].paused_for, machine.requested("a")) == ("b", [])
        machine.engines["a"].requests.release()
        await machine.settle()
        assert machine.requested("a") == ["sleep"]
        await machine.sleep("a")
        assert machine.waiting() == []


async def test_a_closed_engine_reopens_when_no_request_waits_any_more(machine):
    await machine.load("a")
    machine.engines["a"].requests.take()
    with machine.wait_for("b"):
        machine.claim("b")
        machine.clock.advance(10)
        await machine.settle()
        assert machine.engines["a"].paused_for == "b"
    await machine.settle()
    assert (machine.engines["a"].paused_for, machine.waiting()) == (None, ["b"])


async def test_a_closed_engine_reopens_when_the_other_claim_ends_even_while_it_is_suspected(machine):
    """A suspected engine is draining; without claims, no later decision would reopen it."""
    await machine.load("a")
    machine.engines["a"].requests.take()
    with machine.wait_for("b"):
        machine.claim("b")
        machine.clock.advance(10)
        await machine.settle()
        machine.set_state("a", "draining")
        machine.claims["b"].cancel()
        await machine.settle()
    assert machine.engines["a"].paused_for is None


async def test_an_engine_that_is_being_unloaded_stays_closed(machine):
    await machine.load("a")
    with machine.wait_for("b"):
        machine.claim("b")
        await machine.settle()
        assert (machine.engines["a"].paused_for, machine.requested("a")) == ("b", ["sleep"])
        machine.set_state("a", "draining")
        await machine.settle()
        assert machine.engines["a"].paused_for == "b"


async def test_new_settings_take_effect_at_once(machine):
    await machine.load("a")
    machine.engines["a"].requests.take()
    with machine.wait_for("b"):
        machine.claim("b")
        machine.clock.advance(8)
        await machine.settle()
        assert machine.engines["a"].paused_for is None
        machine.allocator.set_swap(SwapConfig(max_wait_s=8, min_loaded_s=0))
        await machine.settle()
        assert machine.engines["a"].paused_for == "b"


async def test_exclusive_engines_without_a_gpu_are_not_loaded_together():
    machine = Machine(x=GpuNeeds(), y=GpuNeeds(), z=GpuNeeds(is_pinned=True), w=GpuNeeds())
    machine.allocator.set_swap(SwapConfig(exclusive=(("x", "y"), ("z", "w"))))
    await machine.load("x")
    machine.claim("y")
    await machine.settle()
    assert (machine.requested("x"), machine.waiting()) == (["stop"], ["y"])
    await machine.stop("x")
    assert machine.waiting() == []
    await machine.load("z")
    with pytest.raises(EngineError, match=r"w may not be loaded beside a pinned engine: see swap\.exclusive"):
        await machine.allocator.claim("w")
    await machine.close()


async def test_a_claim_that_a_pinned_engine_prevents_fails_with_the_reason(machine):
    await machine.load("pinned")
    with pytest.raises(EngineError, match="no GPU memory for a beside the pinned engines"):
        await machine.allocator.claim("a")


async def test_a_later_small_claim_waits_until_the_large_one_is_given_up(machine):
    """The small engine would fit, but then the large one might wait for ever."""
    await machine.load("small")
    machine.engines["small"].requests.take()
    machine.claim("a")
    await machine.settle()
    machine.claim("pinned")
    await machine.settle()
    assert machine.waiting() == ["a", "pinned"]
    machine.claims["a"].cancel()
    await machine.settle()
    assert machine.waiting() == []


async def test_released_memory_is_free_again(machine):
    await machine.load("a")
    await machine.stop("a")
    await machine.load("b")
    assert machine.requested("a") == []


async def test_a_claim_waits_for_a_pinned_engine_that_is_being_removed(machine):
    await machine.load("pinned")
    machine.set_state("pinned", "draining")
    machine.allocator.unpin(machine.engines["pinned"])
    machine.claim("a")
    await machine.settle()
    assert machine.waiting() == ["a"]
    await machine.stop("pinned")
    machine.allocator.unregister(machine.engines["pinned"])
    await machine.settle()
    assert machine.waiting() == []


async def test_a_dismissed_engine_holds_no_memory(machine):
    await machine.load("a")
    machine.allocator.unregister(machine.engines["a"])
    machine.claim("b")
    await machine.settle()
    assert (machine.waiting(), machine.requested("a")) == ([], [])


async def test_dismissing_an_engine_does_not_affect_its_successor_of_the_same_name(machine):
    old, new = machine.engines["a"], FakeEngine("a", machine.clock)
    machine.allocator.register(new, LARGE)
    machine.allocator.unregister(old)
    machine.allocator.unpin(old)
    await asyncio.wait_for(machine.allocator.claim("a"), 60)
