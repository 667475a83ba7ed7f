"""What callers get when a part of an engine, or Tidegate itself, is killed under them: a table.

Before the kill some callers read the third token of a stream, and others wait for their first. An engine whose core is
killed goes on answering for a while, as vLLM does. The next start of the engine listens when the test says so.
"""

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from msgspec import Struct, structs

from tests.fakes import proxy
from tests.fakes.clock import FakeClock
from tests.fakes.processes import gone, until
from tests.fakes.upstream import streams
from tests.fakes.vllm_engine import config_of, running_app
from tests.fakes.wire import text_stream

_READING, _PREFILL = 15, 5
_ENGINE, _HOST = "t1 t2 w3 w4 w5 w6 ", "from the host"
_ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class Row(Struct, frozen=True):
    """What is killed, whether there is a second target, and what callers get.

    Attributes:
        reading: the code of the error that ends a stream, once and before `[DONE]`; None: the connection breaks.
        prefill: the whole answer of those who had nothing yet; None: the connection breaks.
        later: the whole answer of a request that comes while the engine is down; what is `_ENGINE` waits for its start.
    """

    victim: str
    has_host: bool
    reading: str | None
    prefill: str | None
    later: str


_TABLE = (
    Row("server", has_host=False, reading="upstream_unreachable", prefill=_ENGINE, later=_ENGINE),
    Row("server", has_host=True, reading="upstream_unreachable", prefill=_HOST, later=_HOST),
    Row("core", has_host=False, reading="upstream_failed", prefill=_ENGINE, later=_ENGINE),
    Row("core", has_host=True, reading="upstream_failed", prefill=_HOST, later=_HOST),
    Row("warden", has_host=False, reading="upstream_unreachable", prefill=_ENGINE, later=_ENGINE),
    Row("warden", has_host=True, reading="upstream_unreachable", prefill=_HOST, later=_HOST),
    Row("tidegate", has_host=False, reading=None, prefill=None, later=_ENGINE),
    Row("tidegate", has_host=True, reading=None, prefill=None, later=_HOST),
)


@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "20 streams"])
@pytest.mark.parametrize("row", _TABLE, ids=lambda row: f"{row.victim}-{1 + row.has_host}")
async def test_what_callers_get(vllm, upstream, tmp_path, row, is_idle):
    upstream.play(streams(*text_stream("from ", "the ", "host")))
    vllm.habits = ["holds,lingers", "waits"]
    engines, stages = {"r1": vllm.config(queue_timeout_s=600)}, Other if row.victim == "tidegate" else This
    async with stages.opened(engines, upstream if row.has_host else None, tmp_path) as stage:
        start = await vllm.next_start()
        await stage.ready()
        reading = [stage.begin() for _ in range(0 if is_idle else _READING)]
        await start.until("came", len(reading))
        start.steps(3 if reading else 0)
        for _ in reading:
            await stage.third.acquire()
        prefill = [stage.begin() for _ in range(0 if is_idle else _PREFILL)]
        await start.until("came", len(reading + prefill))
        core = await start.core()
        os.kill({"server": start.pid, "core": core}.get(row.victim) or stage.pid, signal.SIGKILL)
        for told in await asyncio.gather(*reading):
            assert told == ("t1 t2 w3 ", [row.reading] if row.reading else [], row.reading is not None)
        if row.prefill is None:
            assert await asyncio.gather(*prefill) == [("", [], False)] * len(prefill)
            prefill = []
            await gone(start.pid, core)
            await stage.start_again()
        later = stage.begin()
        if row.later == _HOST:
            assert await asyncio.gather(*prefill, later) == [(_HOST, [], True)] * (len(prefill) + 1)
        again = await vllm.next_start()
        await gone(start.pid, core)
        assert later.done() == (row.later == _HOST)
        again.tell("listen")
        assert await asyncio.gather(*prefill, later) == [(row.later, [], True)] * (len(prefill) + 1)
        await stage.ready()
        assert await stage.begin() == (_ENGINE, [], True)  # and its host is not preferred from now on
    await gone(again.pid, await again.core())
    assert len(vllm.starts) == 2


class Stage:
    """A Tidegate, and callers who read streams as they are.

    Attributes:
        third: released by each who has got the third token.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.third = asyncio.Semaphore(0)
        self._session = session

    def begin(self) -> asyncio.Task[tuple[str, list[str], bool]]:
        """A caller; its text, its errors, and whether `[DONE]` came at the end."""
        return asyncio.create_task(self._read())

    async def _read(self) -> tuple[str, list[str], bool]:
        body = b""
        with suppress(aiohttp.ClientError):
            async with self._session.post(f"{self.url}/v1/chat/completions", json=_ASK) as response:
                async for piece in response.content.iter_any():
                    body += piece
                    if piece.count(b"w3 "):
                        self.third.release()
        events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event.startswith("data: ")]
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
        text = "".join(delta.get("content") or delta.get("reasoning_content") or "" for delta in deltas)
        return text, [chunk["error"]["code"] for chunk in chunks if "error" in chunk], events[-1:] == ["[DONE]"]


class This(Stage):
    """Tidegate in this process; what it tells of the engine in three places is compared all the time."""

    def __init__(self, inside, session: aiohttp.ClientSession) -> None:
        super().__init__(inside.url, session)
        self._inside = inside

    @property
    def pid(self) -> int:
        """The warden's."""
        return self._inside.engine()._child.pid

    async def ready(self) -> None:
        await self._inside.until("ready")

    async def compare(self) -> None:
        """Fail where the same difference is seen for a second, and more than once."""
        since_s, before = 0.0, None
        while True:
            listed, readyz, metrics = [await self._get(path) for path in ("/admin/engines", "/readyz", "/metrics")]
            states = json.loads(listed)["engines"][0]["state"], json.loads(readyz)["engines"]["r1"]["state"]
            is_ready = re.search(rb'tidegate_engine_ready\{engine="r1"\} (\S+)', metrics)[1] == b"1.0"
            found = (*states, is_ready)
            if found != before or found in {(state, state, state == "ready") for state in states}:
                since_s, before = time.monotonic(), found
            assert time.monotonic() - since_s < 1 or found != before, found
            await asyncio.sleep(0.02)

    async def _get(self, path: str) -> bytes:
        async with self._session.get(self.url + path) as response:
            return await response.read()

    @classmethod
    @asynccontextmanager
    async def opened(cls, engines: dict, upstream, _folder):
        async with running_app(engines, upstream=upstream, repeats=2) as inside, aiohttp.ClientSession() as session:
            engine = inside.engine()
            engine.treat(engine.kind, structs.replace(engine.settings, ending_s=0.2))
            stage = cls(inside, session)
            comparing = asyncio.create_task(stage.compare())
            yield stage
            assert inside.engine().places.taken == 0
            comparing.cancel()
            with suppress(asyncio.CancelledError):
                await comparing


class Other(Stage):
    """Tidegate as a process."""

    def __init__(self, arguments, stack: AsyncExitStack, session: aiohttp.ClientSession) -> None:
        super().__init__("", session)
        self._arguments = arguments
        self._stack = stack

    async def start_again(self) -> None:
        self._running = await self._stack.enter_async_context(proxy.process(*self._arguments))
        self.url, self.pid = self._running.url, self._running.process.pid

    async def ready(self) -> None:
        await self._running.line("engine ready")

    @classmethod
    @asynccontextmanager
    async def opened(cls, engines: dict, upstream, folder: Path):
        file = folder / "tidegate.yaml"
        file.write_text(json.dumps(config_of(engines, None, upstream)))
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            stage = cls(("--config", str(file)), stack, session)
            await stage.start_again()
            yield stage


# --- what is left ---------------------------------------------------------------------------------------------------


async def test_no_request_is_left_in_tidegate_after_a_kill(vllm, upstream):
    """No open file, no task, no process, no place taken; each of the three is killed, under callers of every kind."""
    upstream.play(streams(*text_stream("from ", "the ", "host")))
    vllm.habits = ["holds"]
    clock = FakeClock()
    config = vllm.config(args={"max_num_seqs": 2 * _PREFILL})  # the rest queue
    async with running_app({"r1": config}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        await start.looks(2)
        before = held()
        for number in range(3):
            clock.advance(61)  # so that it was steady, and this is no crash loop
            await start.looks(2)
            async with aiohttp.ClientSession() as session:
                stage = Stage(made.url, session)
                reading = [stage.begin() for _ in range(_PREFILL)]
                await start.until("came", len(reading))
                start.steps(3)
                for _ in reading:
                    await stage.third.acquire()
                later = [stage.begin() for _ in range(2 * _PREFILL)]
                await start.until("came", len(reading + later))
                core = await start.core()
                os.kill((start.pid, core, made.engine()._child.pid)[number], signal.SIGKILL)
                assert await asyncio.gather(*later) == [(_HOST, [], True)] * len(later)
                assert [len(errors) for _, errors, _ in await asyncio.gather(*reading)] == [1] * len(reading)
            await gone(start.pid, core)
            start = await vllm.next_start()
            await made.until("ready")
            assert made.engine().places.taken == 0
        assert await left_over(before) == {}


async def left_over(before: Counter) -> Counter:
    """What this process holds more than before, when connections that are kept for a while had the time to go."""
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            await until(lambda: held() <= before)
    return held() - before


def held() -> Counter:
    """Open files by their kind, tasks by what they do, and processes."""
    counted = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            # the pipe that an engine writes to has a name of its own
            counted[str(file.readlink()).partition(":")[0].partition("tidegate-engine-")[0]] += 1
    for thread in Path("/proc/self/task").iterdir():
        counted["process"] += len((thread / "children").read_text().split())
    return counted
