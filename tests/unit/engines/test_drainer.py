"""Engines on their way out, which are doubles that end when they are told."""

import asyncio

import pytest
from tidegate.engines.base import EngineStatus
from tidegate.engines.drainer import Retirement
from tidegate.engines.factory import Assembled, Piece, Process
from tidegate.engines.gpus.allocator import Needs, Sharing
from tidegate.engines.slots import Places

from tests.fakes.clock import FakeClock

PINNED = Needs(awake={0: 0.9}, is_pinned=True)


class Engine:
    """Its answers end when the test says so; everything that happens goes to `told`."""

    def __init__(self, name, told):
        self.name = name
        self.status = EngineStatus("ready")
        self.places = Places(FakeClock())
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
        self.room = Sharing(look_s=0)
        self.retirement = Retirement(self.room, lambda: self.told.append("told of the end"))

    def piece(self, name="e", *, is_ours=True):
        engine = Engine(name, self.told)
        process = Process(supervisor=engine, kind=None, settings=None, needs=PINNED, refusal=None) if is_ours else None
        assembled = Assembled(engine, None, Wire(self.told), "vllm")
        return Piece(assembled=assembled, control=None, root=Wire(self.told), process=process)


@pytest.fixture
async def stage():
    made = Stage()
    yield made
    await made.retirement.close()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_engine_ends_after_its_last_answer_and_its_wires_after_that(stage):
    piece = stage.piece()
    stage.retirement.begin(piece)
    await settle()
    assert stage.told == ["e drains"]
    piece.assembled.engine.last_answer.set()
    await settle()
    assert stage.told == ["e drains", "e ends", "a wire is closed", "a wire is closed", "told of the end"]


async def test_who_closes_waits_for_the_end_and_not_for_the_answers(stage):
    stage.retirement.begin(stage.piece("a"))
    stage.retirement.begin(stage.piece("b"))
    await settle()
    await stage.retirement.close()
    assert [told for told in stage.told if told.endswith("ends")] == ["a ends", "b ends"]


async def test_a_process_of_its_name_is_there_until_it_has_ended(stage):
    """What somebody else runs is in nobody's way."""
    ours, theirs = stage.piece("ours"), stage.piece("theirs", is_ours=False)
    stage.retirement.begin(ours)
    stage.retirement.begin(theirs)
    assert (stage.retirement.holds("ours"), stage.retirement.holds("theirs")) == (True, False)
    ours.assembled.engine.last_answer.set()
    await settle()
    assert not stage.retirement.holds("ours")


async def test_it_holds_its_gpu_until_it_has_ended_but_nobody_despairs_of_it(stage):
    piece, other = stage.piece(), Engine("other", [])
    stage.room.admit(piece.process.supervisor, PINNED)
    stage.room.admit(other, Needs(awake={0: 0.9}))
    await stage.room.claim("e")
    piece.assembled.engine.status = EngineStatus("draining")
    stage.retirement.begin(piece)
    claim = asyncio.create_task(stage.room.claim("other"))
    await settle()
    assert not claim.done()
    piece.assembled.engine.last_answer.set()
    await claim


async def test_an_engine_that_fails_to_close_does_not_keep_others_from_closing(stage):
    """A failure to close one engine affects neither the memory of others nor the end of the server."""
    piece = stage.piece("a")
    stage.room.admit(piece.process.supervisor, PINNED)
    loop, logged = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: logged.append(repr(context["exception"])))

    async def fail():
        raise ValueError("a fault of ours")

    piece.assembled.engine.close = fail
    stage.retirement.begin(piece)
    stage.retirement.begin(stage.piece("b"))
    await settle()
    await stage.retirement.close()
    await settle()
    assert "b ends" in stage.told
    assert "a" not in stage.room._tenants
    assert logged == ["ValueError('a fault of ours')"]
