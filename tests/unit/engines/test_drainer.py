"""`EngineDrainer`, with doubles of engines whose answers end when the test sets an event."""

import asyncio

import pytest

from tests.fakes.clock import FakeClock
from tidegate.engines.base import EngineStatus
from tidegate.engines.drainer import EngineDrainer
from tidegate.engines.factory import EngineEntry, EngineParts, SupervisedEngine
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.requests import EngineRequests

PINNED = GpuNeeds(awake={0: 0.9}, is_pinned=True)


class Engine:
    """An engine whose answers end when the test sets `last_answer`; it writes what happens to `events`."""

    def __init__(self, name, events):
        self.name = name
        self.status = EngineStatus("ready")
        self.requests = EngineRequests(FakeClock())
        self.events = events
        self.last_answer = asyncio.Event()

    async def drain(self):
        self.events.append(f"{self.name} drains")
        await self.last_answer.wait()

    async def close(self):
        self.events.append(f"{self.name} ends")

    def unload(self, *, may_sleep=True):
        """Do nothing; never called here."""


class FakeTransport:
    def __init__(self, events):
        self.events = events

    async def close(self):
        self.events.append("a transport is closed")


class Stage:
    """A drainer, and the parts of engines that it can drain; `events` is what has happened, in order."""

    def __init__(self):
        self.events = []
        self.allocator = GpuAllocator(decide_every_s=0)
        self.drainer = EngineDrainer(self.allocator, lambda: self.events.append("the end is reported"))

    def parts(self, name="e", *, is_managed=True):
        engine = Engine(name, self.events)
        process = (
            SupervisedEngine(supervisor=engine, kind=None, settings=None, needs=PINNED, refusal=None)
            if is_managed
            else None
        )
        entry = EngineEntry(engine, None, FakeTransport(self.events), "vllm")
        return EngineParts(entry=entry, control=None, root=FakeTransport(self.events), process=process)


@pytest.fixture
async def stage():
    new_stage = Stage()
    yield new_stage
    await new_stage.drainer.close()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_engine_ends_after_its_last_answer_and_then_its_transports_are_closed(stage):
    parts = stage.parts()
    stage.drainer.begin(parts)
    await settle()
    assert stage.events == ["e drains"]
    parts.entry.engine.last_answer.set()
    await settle()
    assert stage.events == [
        "e drains",
        "e ends",
        "a transport is closed",
        "a transport is closed",
        "the end is reported",
    ]


async def test_close_waits_for_the_end_of_engines_and_not_for_their_answers(stage):
    stage.drainer.begin(stage.parts("a"))
    stage.drainer.begin(stage.parts("b"))
    await settle()
    await stage.drainer.close()
    assert [events for events in stage.events if events.endswith("ends")] == ["a ends", "b ends"]


async def test_a_drained_engine_holds_its_name_until_its_process_has_ended(stage):
    """An external engine does not hold its name, as it takes no GPU of this machine."""
    managed, external = stage.parts("managed"), stage.parts("external", is_managed=False)
    stage.drainer.begin(managed)
    stage.drainer.begin(external)
    assert (stage.drainer.holds("managed"), stage.drainer.holds("external")) == (True, False)
    managed.entry.engine.last_answer.set()
    await settle()
    assert not stage.drainer.holds("managed")


async def test_a_drained_engine_holds_its_gpu_until_it_has_ended_and_a_claim_waits_for_it(stage):
    parts, other = stage.parts(), Engine("other", [])
    stage.allocator.register(parts.process.supervisor, PINNED)
    stage.allocator.register(other, GpuNeeds(awake={0: 0.9}))
    await stage.allocator.claim("e")
    parts.entry.engine.status = EngineStatus("draining")
    stage.drainer.begin(parts)
    claim = asyncio.create_task(stage.allocator.claim("other"))
    await settle()
    assert not claim.done()
    parts.entry.engine.last_answer.set()
    await claim


async def test_an_engine_that_fails_to_close_does_not_keep_others_from_closing(stage):
    """A failure to close one engine affects neither the memory of others nor the end of the server."""
    parts = stage.parts("a")
    stage.allocator.register(parts.process.supervisor, PINNED)
    loop, logged = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: logged.append(repr(context["exception"])))

    async def fail():
        raise ValueError("a programming error")

    parts.entry.engine.close = fail
    stage.drainer.begin(parts)
    stage.drainer.begin(stage.parts("b"))
    await settle()
    await stage.drainer.close()
    await settle()
    assert "b ends" in stage.events
    assert "a" not in stage.allocator._engines
    assert logged == ["ValueError('a programming error')"]
