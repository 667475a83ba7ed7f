"""Who gets the GPUs when: claims of engines that are doubles, moved by hand."""

import asyncio
from contextlib import ExitStack

import pytest
from tidegate.config.swap import SwapConfig
from tidegate.engines.base import EngineError, EngineStatus
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.slots import Slots

from tests.fakes.clock import FakeClock

LARGE = GpuNeeds(awake={0: 0.9}, asleep={0: 0.05})
STUBBORN = GpuNeeds(awake={0: 0.9}, asleep={0: 0.3})


class GpuEngine:
    """An engine that notes what it is asked for and does it only when told."""

    def __init__(self, name, clock):
        self.name = name
        self.status = EngineStatus("stopped")
        self.slots = Slots(clock)
        self.asked = []
        self.closed_for = None

    def close_for(self, wanted):
        self.closed_for = wanted

    def reopen(self):
        self.closed_for = None

    def make_room(self, *, may_sleep=True):
        self.asked.append("sleep" if may_sleep else "stop")


class House:
    """A `GpuAllocator` and its tenants; looks are made without waiting."""

    def __init__(self, **needs):
        self.clock = FakeClock()
        self.allocator = GpuAllocator(SwapConfig(max_wait_s=10, min_loaded_s=5), look_s=0)
        self.engines = {name: GpuEngine(name, self.clock) for name in needs}
        for name, engine in self.engines.items():
            self.allocator.admit(engine, needs[name])
        self.claims = {}

    def claim(self, name):
        self.claims[name] = asyncio.create_task(self.allocator.claim(name))

    async def settle(self):
        """Give every claim its turn, several times."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def load(self, name):
        """Claimed, started and ready, used now."""
        self.claim(name)
        await self.claims.pop(name)
        self.become(name, "ready")
        self.engines[name].slots.open()
        self.clock.advance(1)
        self.engines[name].slots.take()
        self.engines[name].slots.leave()

    async def sleep(self, name):
        self.become(name, "sleeping")
        self.allocator.release(name, is_asleep=True)
        await self.settle()

    async def stop(self, name):
        self.become(name, "stopped")
        self.allocator.release(name)
        await self.settle()

    def become(self, name, state):
        self.engines[name].status = EngineStatus(state)

    def wait_for(self, name):
        """A request waits for it, until what is returned is closed."""
        waiting = ExitStack()
        waiting.enter_context(self.engines[name].slots.one_waits())
        return waiting

    def waiting(self):
        return [name for name, claim in self.claims.items() if not claim.done()]

    def asked(self, name):
        """What it was asked for so far, without repetition."""
        return list(dict.fromkeys(self.engines[name].asked))

    async def close(self):
        for claim in self.claims.values():
            claim.cancel()
        await asyncio.gather(*self.claims.values(), return_exceptions=True)


@pytest.fixture
async def running_app():
    """Three that need the whole GPU, of which one keeps too much asleep, two small ones, and others elsewhere."""
    running_app = House(
        a=LARGE,
        b=LARGE,
        c=LARGE,
        stubborn=STUBBORN,
        small=GpuNeeds(awake={0: 0.4}),
        other=GpuNeeds(awake={1: 0.9}),
        pinned=GpuNeeds(awake={0: 0.5}, is_pinned=True),
        cpu=GpuNeeds(),
    )
    yield running_app
    await running_app.close()


async def test_an_empty_gpu_is_had_at_once(running_app):
    await asyncio.wait_for(running_app.allocator.claim("a"), 60)


async def test_an_idle_engine_is_asked_to_sleep_and_then_the_other_comes(running_app):
    await running_app.load("a")
    running_app.claim("b")
    await running_app.settle()
    assert (running_app.asked("a"), running_app.waiting()) == (["sleep"], ["b"])
    await running_app.sleep("a")
    assert running_app.waiting() == []


async def test_a_busy_engine_is_not_asked_but_waited_for(running_app):
    """That its last request has ended nobody tells."""
    await running_app.load("a")
    running_app.engines["a"].slots.take()
    running_app.claim("b")
    await running_app.settle()
    assert (running_app.asked("a"), running_app.waiting()) == ([], ["b"])
    running_app.engines["a"].slots.leave()
    await running_app.settle()
    assert running_app.asked("a") == ["sleep"]


async def test_an_engine_that_starts_is_waited_for(running_app):
    await running_app.load("a")
    running_app.become("a", "starting")
    running_app.claim("b")
    await running_app.settle()
    assert running_app.asked("a") == []


async def test_a_tenant_that_does_not_leave_because_a_request_came_is_waited_for(running_app):
    """And asked again when that has ended."""
    await running_app.load("a")
    running_app.claim("b")
    await running_app.settle()
    running_app.engines["a"].slots.take()
    running_app.engines["a"].asked.clear()
    await running_app.settle()
    assert (running_app.asked("a"), running_app.waiting()) == ([], ["b"])
    running_app.engines["a"].slots.leave()
    await running_app.settle()
    assert running_app.asked("a") == ["sleep"]
    await running_app.sleep("a")
    assert running_app.waiting() == []


async def test_claims_are_met_in_the_order_of_their_coming(running_app):
    await running_app.load("small")
    running_app.engines["small"].slots.take()
    running_app.claim("a")
    await running_app.settle()
    running_app.claim("b")
    running_app.claim("c")
    await running_app.settle()
    assert running_app.waiting() == ["a", "b", "c"]
    running_app.engines["small"].slots.leave()
    await running_app.stop("small")
    assert running_app.waiting() == ["b", "c"]
    running_app.become("a", "ready")
    await running_app.settle()
    await running_app.sleep("a")
    assert running_app.waiting() == ["c"]


async def test_claims_for_other_gpus_do_not_queue(running_app):
    await running_app.load("a")
    running_app.engines["a"].slots.take()
    running_app.claim("b")
    await running_app.settle()
    running_app.claim("other")
    running_app.claim("cpu")
    await running_app.settle()
    assert running_app.waiting() == ["b"]


async def test_a_sleeper_in_the_way_is_stopped(running_app):
    await running_app.load("stubborn")
    await running_app.sleep("stubborn")
    running_app.claim("a")
    await running_app.settle()
    assert (running_app.asked("stubborn"), running_app.waiting()) == (["stop"], ["a"])
    await running_app.stop("stubborn")
    assert running_app.waiting() == []


async def test_who_would_be_in_the_way_asleep_is_stopped_at_once(running_app):
    await running_app.load("stubborn")
    running_app.claim("a")
    await running_app.settle()
    assert running_app.asked("stubborn") == ["stop"]


async def test_a_sleeping_engine_that_is_wanted_again_stops_for_an_earlier_claim():
    """Else each would wait for the other."""
    running_app = House(old=STUBBORN, new=LARGE, third=GpuNeeds(awake={0: 0.6}))
    await running_app.load("old")
    await running_app.sleep("old")
    await running_app.load("third")
    running_app.engines["third"].slots.take()
    running_app.claim("new")
    await running_app.settle()
    running_app.claim("old")
    await running_app.settle()
    assert running_app.waiting() == ["new", "old"]
    running_app.engines["third"].slots.leave()
    await running_app.settle()
    await running_app.stop("third")
    assert (running_app.waiting(), await running_app.claims["old"], running_app.asked("old")) == (
        ["new"],
        False,
        ["stop"],
    )
    await running_app.stop("old")
    assert (running_app.waiting(), await running_app.claims["new"]) == ([], True)
    await running_app.close()


async def test_an_engine_with_requests_closes_for_another_that_was_waited_for_long_enough(running_app):
    """It is told to go when its last answer has ended, and not before."""
    await running_app.load("a")
    running_app.engines["a"].slots.take()
    with running_app.wait_for("b"):
        running_app.claim("b")
        await running_app.settle()
        assert running_app.engines["a"].closed_for is None
        running_app.clock.advance(10)
        await running_app.settle()
        assert (running_app.engines["a"].closed_for, running_app.asked("a")) == ("b", [])
        running_app.engines["a"].slots.leave()
        await running_app.settle()
        assert running_app.asked("a") == ["sleep"]
        await running_app.sleep("a")
        assert running_app.waiting() == []


async def test_it_opens_again_where_no_request_waits_any_more(running_app):
    await running_app.load("a")
    running_app.engines["a"].slots.take()
    with running_app.wait_for("b"):
        running_app.claim("b")
        running_app.clock.advance(10)
        await running_app.settle()
        assert running_app.engines["a"].closed_for == "b"
    await running_app.settle()
    assert (running_app.engines["a"].closed_for, running_app.waiting()) == (None, ["b"])


async def test_a_closed_engine_reopens_when_the_other_claim_ends_even_during_a_look(running_app):
    """A suspected engine drains too; nothing would look at it later, as nothing claims."""
    await running_app.load("a")
    running_app.engines["a"].slots.take()
    with running_app.wait_for("b"):
        running_app.claim("b")
        running_app.clock.advance(10)
        await running_app.settle()
        running_app.become("a", "draining")
        running_app.claims["b"].cancel()
        await running_app.settle()
    assert running_app.engines["a"].closed_for is None


async def test_one_that_is_on_its_way_down_stays_closed(running_app):
    await running_app.load("a")
    with running_app.wait_for("b"):
        running_app.claim("b")
        await running_app.settle()
        assert (running_app.engines["a"].closed_for, running_app.asked("a")) == ("b", ["sleep"])
        running_app.become("a", "draining")
        await running_app.settle()
        assert running_app.engines["a"].closed_for == "b"


async def test_other_rules_hold_at_once(running_app):
    await running_app.load("a")
    running_app.engines["a"].slots.take()
    with running_app.wait_for("b"):
        running_app.claim("b")
        running_app.clock.advance(8)
        await running_app.settle()
        assert running_app.engines["a"].closed_for is None
        running_app.allocator.use(SwapConfig(max_wait_s=8, min_loaded_s=0))
        await running_app.settle()
        assert running_app.engines["a"].closed_for == "b"


async def test_exclusive_engines_that_need_no_gpu_take_turns():
    running_app = House(x=GpuNeeds(), y=GpuNeeds(), z=GpuNeeds(is_pinned=True), w=GpuNeeds())
    running_app.allocator.use(SwapConfig(exclusive=(("x", "y"), ("z", "w"))))
    await running_app.load("x")
    running_app.claim("y")
    await running_app.settle()
    assert (running_app.asked("x"), running_app.waiting()) == (["stop"], ["y"])
    await running_app.stop("x")
    assert running_app.waiting() == []
    await running_app.load("z")
    with pytest.raises(EngineError, match=r"w may not be loaded beside a pinned engine: see swap\.exclusive"):
        await running_app.allocator.claim("w")
    await running_app.close()


async def test_beside_a_pinned_engine_there_is_no_room_and_it_is_said(running_app):
    await running_app.load("pinned")
    with pytest.raises(EngineError, match="no room for a beside the pinned engines"):
        await running_app.allocator.claim("a")


async def test_a_small_one_does_not_overtake_until_the_large_one_gives_up(running_app):
    """It would fit; but then the large one might wait for ever."""
    await running_app.load("small")
    running_app.engines["small"].slots.take()
    running_app.claim("a")
    await running_app.settle()
    running_app.claim("pinned")
    await running_app.settle()
    assert running_app.waiting() == ["a", "pinned"]
    running_app.claims["a"].cancel()
    await running_app.settle()
    assert running_app.waiting() == []


async def test_what_is_released_is_free_again(running_app):
    await running_app.load("a")
    await running_app.stop("a")
    await running_app.load("b")
    assert running_app.asked("a") == []


async def test_who_is_about_to_go_is_waited_for_though_it_was_pinned(running_app):
    await running_app.load("pinned")
    running_app.become("pinned", "draining")
    running_app.allocator.unpin(running_app.engines["pinned"])
    running_app.claim("a")
    await running_app.settle()
    assert running_app.waiting() == ["a"]
    await running_app.stop("pinned")
    running_app.allocator.dismiss(running_app.engines["pinned"])
    await running_app.settle()
    assert running_app.waiting() == []


async def test_who_was_dismissed_is_in_nobodys_way(running_app):
    await running_app.load("a")
    running_app.allocator.dismiss(running_app.engines["a"])
    running_app.claim("b")
    await running_app.settle()
    assert (running_app.waiting(), running_app.asked("a")) == ([], [])


async def test_a_successor_of_the_same_name_is_not_dismissed_with_the_one_before(running_app):
    old, new = running_app.engines["a"], GpuEngine("a", running_app.clock)
    running_app.allocator.admit(new, LARGE)
    running_app.allocator.dismiss(old)
    running_app.allocator.unpin(old)
    await asyncio.wait_for(running_app.allocator.claim("a"), 60)
