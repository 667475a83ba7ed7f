"""Who gets the GPUs when: claims of engines that are doubles, moved by hand."""

import asyncio
from contextlib import ExitStack

import pytest
from tidegate.config.swap import SwapConfig
from tidegate.engines.base import EngineError, EngineStatus
from tidegate.engines.gpus.allocator import Needs, Sharing
from tidegate.engines.slots import Places

from tests.fakes.clock import FakeClock

LARGE = Needs(awake={0: 0.9}, asleep={0: 0.05})
STUBBORN = Needs(awake={0: 0.9}, asleep={0: 0.3})


class Tenant:
    """An engine that notes what it is asked for and does it only when told."""

    def __init__(self, name, clock):
        self.name = name
        self.status = EngineStatus("stopped")
        self.places = Places(clock)
        self.asked = []
        self.closed_for = None

    def close_for(self, wanted):
        self.closed_for = wanted

    def reopen(self):
        self.closed_for = None

    def make_room(self, *, may_sleep=True):
        self.asked.append("sleep" if may_sleep else "stop")


class House:
    """A `Sharing` and its tenants; looks are made without waiting."""

    def __init__(self, **needs):
        self.clock = FakeClock()
        self.sharing = Sharing(SwapConfig(max_wait_s=10, min_loaded_s=5), look_s=0)
        self.tenants = {name: Tenant(name, self.clock) for name in needs}
        for name, tenant in self.tenants.items():
            self.sharing.admit(tenant, needs[name])
        self.claims = {}

    def claim(self, name):
        self.claims[name] = asyncio.create_task(self.sharing.claim(name))

    async def settle(self):
        """Give every claim its turn, several times."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def load(self, name):
        """Claimed, started and ready, used now."""
        self.claim(name)
        await self.claims.pop(name)
        self.become(name, "ready")
        self.tenants[name].places.open()
        self.clock.advance(1)
        self.tenants[name].places.take()
        self.tenants[name].places.leave()

    async def sleep(self, name):
        self.become(name, "sleeping")
        self.sharing.release(name, is_asleep=True)
        await self.settle()

    async def stop(self, name):
        self.become(name, "stopped")
        self.sharing.release(name)
        await self.settle()

    def become(self, name, state):
        self.tenants[name].status = EngineStatus(state)

    def wait_for(self, name):
        """A request waits for it, until what is returned is closed."""
        waiting = ExitStack()
        waiting.enter_context(self.tenants[name].places.one_waits())
        return waiting

    def waiting(self):
        return [name for name, claim in self.claims.items() if not claim.done()]

    def asked(self, name):
        """What it was asked for so far, without repetition."""
        return list(dict.fromkeys(self.tenants[name].asked))

    async def close(self):
        for claim in self.claims.values():
            claim.cancel()
        await asyncio.gather(*self.claims.values(), return_exceptions=True)


@pytest.fixture
async def house():
    """Three that need the whole GPU, of which one keeps too much asleep, two small ones, and others elsewhere."""
    house = House(
        a=LARGE,
        b=LARGE,
        c=LARGE,
        stubborn=STUBBORN,
        small=Needs(awake={0: 0.4}),
        other=Needs(awake={1: 0.9}),
        pinned=Needs(awake={0: 0.5}, is_pinned=True),
        cpu=Needs(),
    )
    yield house
    await house.close()


async def test_an_empty_gpu_is_had_at_once(house):
    await asyncio.wait_for(house.sharing.claim("a"), 60)


async def test_an_idle_engine_is_asked_to_sleep_and_then_the_other_comes(house):
    await house.load("a")
    house.claim("b")
    await house.settle()
    assert (house.asked("a"), house.waiting()) == (["sleep"], ["b"])
    await house.sleep("a")
    assert house.waiting() == []


async def test_a_busy_engine_is_not_asked_but_waited_for(house):
    """That its last request has ended nobody tells."""
    await house.load("a")
    house.tenants["a"].places.take()
    house.claim("b")
    await house.settle()
    assert (house.asked("a"), house.waiting()) == ([], ["b"])
    house.tenants["a"].places.leave()
    await house.settle()
    assert house.asked("a") == ["sleep"]


async def test_an_engine_that_starts_is_waited_for(house):
    await house.load("a")
    house.become("a", "starting")
    house.claim("b")
    await house.settle()
    assert house.asked("a") == []


async def test_a_tenant_that_does_not_leave_because_a_request_came_is_waited_for(house):
    """And asked again when that has ended."""
    await house.load("a")
    house.claim("b")
    await house.settle()
    house.tenants["a"].places.take()
    house.tenants["a"].asked.clear()
    await house.settle()
    assert (house.asked("a"), house.waiting()) == ([], ["b"])
    house.tenants["a"].places.leave()
    await house.settle()
    assert house.asked("a") == ["sleep"]
    await house.sleep("a")
    assert house.waiting() == []


async def test_claims_are_met_in_the_order_of_their_coming(house):
    await house.load("small")
    house.tenants["small"].places.take()
    house.claim("a")
    await house.settle()
    house.claim("b")
    house.claim("c")
    await house.settle()
    assert house.waiting() == ["a", "b", "c"]
    house.tenants["small"].places.leave()
    await house.stop("small")
    assert house.waiting() == ["b", "c"]
    house.become("a", "ready")
    await house.settle()
    await house.sleep("a")
    assert house.waiting() == ["c"]


async def test_claims_for_other_gpus_do_not_queue(house):
    await house.load("a")
    house.tenants["a"].places.take()
    house.claim("b")
    await house.settle()
    house.claim("other")
    house.claim("cpu")
    await house.settle()
    assert house.waiting() == ["b"]


async def test_a_sleeper_in_the_way_is_stopped(house):
    await house.load("stubborn")
    await house.sleep("stubborn")
    house.claim("a")
    await house.settle()
    assert (house.asked("stubborn"), house.waiting()) == (["stop"], ["a"])
    await house.stop("stubborn")
    assert house.waiting() == []


async def test_who_would_be_in_the_way_asleep_is_stopped_at_once(house):
    await house.load("stubborn")
    house.claim("a")
    await house.settle()
    assert house.asked("stubborn") == ["stop"]


async def test_a_sleeping_engine_that_is_wanted_again_stops_for_an_earlier_claim():
    """Else each would wait for the other."""
    house = House(old=STUBBORN, new=LARGE, third=Needs(awake={0: 0.6}))
    await house.load("old")
    await house.sleep("old")
    await house.load("third")
    house.tenants["third"].places.take()
    house.claim("new")
    await house.settle()
    house.claim("old")
    await house.settle()
    assert house.waiting() == ["new", "old"]
    house.tenants["third"].places.leave()
    await house.settle()
    await house.stop("third")
    assert (house.waiting(), await house.claims["old"], house.asked("old")) == (["new"], False, ["stop"])
    await house.stop("old")
    assert (house.waiting(), await house.claims["new"]) == ([], True)
    await house.close()


async def test_an_engine_with_requests_closes_for_another_that_was_waited_for_long_enough(house):
    """It is told to go when its last answer has ended, and not before."""
    await house.load("a")
    house.tenants["a"].places.take()
    with house.wait_for("b"):
        house.claim("b")
        await house.settle()
        assert house.tenants["a"].closed_for is None
        house.clock.advance(10)
        await house.settle()
        assert (house.tenants["a"].closed_for, house.asked("a")) == ("b", [])
        house.tenants["a"].places.leave()
        await house.settle()
        assert house.asked("a") == ["sleep"]
        await house.sleep("a")
        assert house.waiting() == []


async def test_it_opens_again_where_no_request_waits_any_more(house):
    await house.load("a")
    house.tenants["a"].places.take()
    with house.wait_for("b"):
        house.claim("b")
        house.clock.advance(10)
        await house.settle()
        assert house.tenants["a"].closed_for == "b"
    await house.settle()
    assert (house.tenants["a"].closed_for, house.waiting()) == (None, ["b"])


async def test_a_closed_engine_reopens_when_the_other_claim_ends_even_during_a_look(house):
    """A suspected engine drains too; nothing would look at it later, as nothing claims."""
    await house.load("a")
    house.tenants["a"].places.take()
    with house.wait_for("b"):
        house.claim("b")
        house.clock.advance(10)
        await house.settle()
        house.become("a", "draining")
        house.claims["b"].cancel()
        await house.settle()
    assert house.tenants["a"].closed_for is None


async def test_one_that_is_on_its_way_down_stays_closed(house):
    await house.load("a")
    with house.wait_for("b"):
        house.claim("b")
        await house.settle()
        assert (house.tenants["a"].closed_for, house.asked("a")) == ("b", ["sleep"])
        house.become("a", "draining")
        await house.settle()
        assert house.tenants["a"].closed_for == "b"


async def test_other_rules_hold_at_once(house):
    await house.load("a")
    house.tenants["a"].places.take()
    with house.wait_for("b"):
        house.claim("b")
        house.clock.advance(8)
        await house.settle()
        assert house.tenants["a"].closed_for is None
        house.sharing.use(SwapConfig(max_wait_s=8, min_loaded_s=0))
        await house.settle()
        assert house.tenants["a"].closed_for == "b"


async def test_exclusive_engines_that_need_no_gpu_take_turns():
    house = House(x=Needs(), y=Needs(), z=Needs(is_pinned=True), w=Needs())
    house.sharing.use(SwapConfig(exclusive=(("x", "y"), ("z", "w"))))
    await house.load("x")
    house.claim("y")
    await house.settle()
    assert (house.asked("x"), house.waiting()) == (["stop"], ["y"])
    await house.stop("x")
    assert house.waiting() == []
    await house.load("z")
    with pytest.raises(EngineError, match=r"w may not be loaded beside a pinned engine: see swap\.exclusive"):
        await house.sharing.claim("w")
    await house.close()


async def test_beside_a_pinned_engine_there_is_no_room_and_it_is_said(house):
    await house.load("pinned")
    with pytest.raises(EngineError, match="no room for a beside the pinned engines"):
        await house.sharing.claim("a")


async def test_a_small_one_does_not_overtake_until_the_large_one_gives_up(house):
    """It would fit; but then the large one might wait for ever."""
    await house.load("small")
    house.tenants["small"].places.take()
    house.claim("a")
    await house.settle()
    house.claim("pinned")
    await house.settle()
    assert house.waiting() == ["a", "pinned"]
    house.claims["a"].cancel()
    await house.settle()
    assert house.waiting() == []


async def test_what_is_released_is_free_again(house):
    await house.load("a")
    await house.stop("a")
    await house.load("b")
    assert house.asked("a") == []


async def test_who_is_about_to_go_is_waited_for_though_it_was_pinned(house):
    await house.load("pinned")
    house.become("pinned", "draining")
    house.sharing.unpin(house.tenants["pinned"])
    house.claim("a")
    await house.settle()
    assert house.waiting() == ["a"]
    await house.stop("pinned")
    house.sharing.dismiss(house.tenants["pinned"])
    await house.settle()
    assert house.waiting() == []


async def test_who_was_dismissed_is_in_nobodys_way(house):
    await house.load("a")
    house.sharing.dismiss(house.tenants["a"])
    house.claim("b")
    await house.settle()
    assert (house.waiting(), house.asked("a")) == ([], [])


async def test_a_successor_of_the_same_name_is_not_dismissed_with_the_one_before(house):
    old, new = house.tenants["a"], Tenant("a", house.clock)
    house.sharing.admit(new, LARGE)
    house.sharing.dismiss(old)
    house.sharing.unpin(old)
    await asyncio.wait_for(house.sharing.claim("a"), 60)
