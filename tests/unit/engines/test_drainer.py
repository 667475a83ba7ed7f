"""Engines on their way out, which are doubles that end when they are told."""

import asyncio

import pytest
from tidegate.engines.base import EngineStatus
from tidegate.engines.drainer import EngineDrainer
from tidegate.engines.factory import ConnectedEngine, EngineParts, OwnProcess
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.slots import Slots

from tests.fakes.clock import FakeClock

PINNED = GpuNeeds(awake={0: 0.9}, is_pinned=True)


class Engine:
    """Its answers end when the test says so; everything that happens goes to `told`."""

    def __init__(self, name, told):
        self.name = name
        self.status = EngineStatus("ready")
        self.slots = Slots(FakeClock())
        self.told = told
        self.last_answer = asyncio.Event()

    async def drained(self):
        self.told.append(f"{self.name} drains")
        await self.last_answer.wait()

    async def close(self):
        self.told.append(f"{self.name} ends")

    def make_room(self, *, may_sleep=True):
        """Never asked here."""


class Wire:
    def __init__(self, told):
        self.told = told

    async def close(self):
        self.told.append("a wire is closed")


class Stage:
    """One engine `e` that is told to leave."""

    def __init__(self):
        self.told = []
        self.allocator = GpuAllocator(look_s=0)
        self.drainer = EngineDrainer(self.allocator, lambda: self.told.append("told of the end"))

    def parts(self, name="e", *, is_ours=True):
        engine = Engine(name, self.told)
        process = (
            OwnProcess(supervisor=engine, kind=None, settings=None, needs=PINNED, refusal=None) if is_ours else None
        )
        connected = ConnectedEngine(engine, None, Wire(self.told), "vllm")
        return EngineParts(connected=connected, control=None, root=Wire(self.told), process=process)


@pytest.fixture
async def stage():
    made = Stage()
    yield made
    await made.drainer.close()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_engine_ends_after_its_last_answer_and_its_wires_after_that(stage):
    parts = stage.parts()
    stage.drainer.begin(parts)
    await settle()
    assert stage.told == ["e drains"]
    parts.connected.engine.last_answer.set()
    await settle()
    assert stage.told == ["e drains", "e ends", "a wire is closed", "a wire is closed", "told of the end"]


async def test_who_closes_waits_for_the_end_and_not_for_the_answers(stage):
    stage.drainer.begin(stage.parts("a"))
    stage.drainer.begin(stage.parts("b"))
    await settle()
    await stage.drainer.close()
    assert [told for told in stage.told if told.endswith("ends")] == ["a ends", "b ends"]


async def test_a_process_of_its_name_is_there_until_it_has_ended(stage):
    """What somebody else runs is in nobody's way."""
    ours, theirs = stage.parts("ours"), stage.parts("theirs", is_ours=False)
    stage.drainer.begin(ours)
    stage.drainer.begin(theirs)
    assert (stage.drainer.holds("ours"), stage.drainer.holds("theirs")) == (True, False)
    ours.connected.engine.last_answer.set()
    await settle()
    assert not stage.drainer.holds("ours")


async def test_it_holds_its_gpu_until_it_has_ended_but_nobody_despairs_of_it(stage):
    parts, other = stage.parts(), Engine("other", [])
    stage.allocator.admit(parts.process.supervisor, PINNED)
    stage.allocator.admit(other, GpuNeeds(awake={0: 0.9}))
    await stage.allocator.claim("e")
    parts.connected.engine.status = EngineStatus("draining")
    stage.drainer.begin(parts)
    claim = asyncio.create_task(stage.allocator.claim("other"))
    await settle()
    assert not claim.done()
    parts.connected.engine.last_answer.set()
    await claim


async def test_an_engine_that_fails_to_close_does_not_keep_others_from_closing(stage):
    """A failure to close one engine affects neither the memory of others nor the end of the server."""
    parts = stage.parts("a")
    stage.allocator.admit(parts.process.supervisor, PINNED)
    loop, logged = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: logged.append(repr(context["exception"])))

    async def fail():
        raise ValueError("a fault of ours")

    parts.connected.engine.close = fail
    stage.drainer.begin(parts)
    stage.drainer.begin(stage.parts("b"))
    await settle()
    await stage.drainer.close()
    await settle()
    assert "b ends" in stage.told
    assert "a" not in stage.allocator._engines
    assert logged == ["ValueError('a fault of ours')"]
