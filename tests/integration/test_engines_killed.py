"""A table of what callers get when a part of an engine, or Tidegate itself, is killed while they have requests.

Before the kill some callers have read the third token of a stream, and others wait for their first token. An engine
whose core is killed continues to answer for a while, as vLLM does. The next start of the engine listens when the test
sends it the command to.
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
        victim: the process that is killed.
        has_host: whether the model has a second target, a hosted upstream.
        reading: the code of the error that ends a stream, once and before `[DONE]`; None: the connection breaks.
        prefill: the whole answer to requests that had no token yet; None: the connection breaks.
        later: the whole answer to a request that comes while the engine is down; if it is `_ENGINE`, the request waits
            for the restart.
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
async def test_callers_get_the_answers_of_the_table(vllm, upstream, tmp_path, row, is_idle):
    upstream.play(streams(*text_stream("from ", "the ", "host")))
    vllm.habits = ["holds,lingers", "waits"]
    engines, stage_class = (
        {"r1": vllm.config(queue_timeout_s=600)},
        AsProcess if row.victim == "tidegate" else InProcess,
    )
    async with stage_class.opened(engines, upstream if row.has_host else None, tmp_path) as stage:
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
        for result in await asyncio.gather(*reading):
            assert result == ("t1 t2 w3 ", [row.reading] if row.reading else [], row.reading is not None)
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
        assert await stage.begin() == (_ENGINE, [], True)  # the host is not preferred from now on
    await gone(again.pid, await again.core())
    assert len(vllm.starts) == 2


class Stage:
    """A Tidegate, and callers that read raw streams.

    Attributes:
        third: a semaphore that each caller releases when it has got the third token.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.third = asyncio.Semaphore(0)
        self._session = session

    def begin(self) -> asyncio.Task[tuple[str, list[str], bool]]:
        """Start a caller; its result is the text, the error codes, and whether `[DONE]` came at the end."""
        return asyncio.create_task(self._read())

    async def _read(self) -> tuple[str, list[str], bool]:
        body = b""
        with suppress(aiohttp.ClientError):
            async with self._session.post(f"{self.url}/v1/chat/completions", json=_ASK) as response:
                async for data in response.content.iter_any():
                    body += data
                    if data.count(b"w3 "):
                        self.third.release()
        events = [event.removeprefix("data: ") for event in body.decode().split("\n\n") if event.startswith("data: ")]
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
        text = "".join(delta.get("content") or delta.get("reasoning_content") or "" for delta in deltas)
        return text, [chunk["error"]["code"] for chunk in chunks if "error" in chunk], events[-1:] == ["[DONE]"]


class InProcess(Stage):
    """Tidegate in this process; the engine's state in three of its answers is compared all the time."""

    def __init__(self, app, session: aiohttp.ClientSession) -> None:
        super().__init__(app.url, session)
        self._app = app

    @property
    def pid(self) -> int:
        """The pid of the warden."""
        return self._app.engine()._child.pid

    async def ready(self) -> None:
        await self._app.until("ready")

    async def compare(self) -> None:
        """Fail if the same difference between the answers lasts for a second."""
        since_s, before = 0.0, None
        while True:
            listed, readyz, metrics = [await self._get(path) for path in ("/admin/engines", "/readyz", "/metrics")]
            states = json.loads(listed)["engines"][0]["state"], json.loads(readyz)["engines"]["r1"]["state"]
            is_ready = re.search(rb'tidegate_engine_ready\{engine="r1"\} (\S+)', metrics)[1] == b"1.0"
            states_seen = (*states, is_ready)
            if states_seen != before or states_seen in {(state, state, state == "ready") for state in states}:
                since_s, before = time.monotonic(), states_seen
            assert time.monotonic() - since_s < 1 or states_seen != before, states_seen
            await asyncio.sleep(0.02)

    async def _get(self, path: str) -> bytes:
        async with self._session.get(self.url + path) as response:
            return await response.read()

    @classmethod
    @asynccontextmanager
    async def opened(cls, engines: dict, upstream, _folder):
        async with running_app(engines, upstream=upstream, repeats=2) as app, aiohttp.ClientSession() as session:
            engine = app.engine()
            engine.reconfigure(engine.kind, structs.replace(engine.settings, ending_s=0.2))
            stage = cls(app, session)
            comparing = asyncio.create_task(stage.compare())
            yield stage
            assert app.engine().requests.taken == 0
            comparing.cancel()
            with suppress(asyncio.CancelledError):
                await comparing


class AsProcess(Stage):
    """Tidegate as a process of its own."""

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


# --- leaks ----------------------------------------------------------------------------------------------------------


async def test_no_request_is_left_in_tidegate_after_a_kill(vllm, upstream):
    """No open file, task, process or taken slot is left; engine, core and warden are killed in turn, with requests."""
    upstream.play(streams(*text_stream("from ", "the ", "host")))
    vllm.habits = ["holds"]
    clock = FakeClock()
    config = vllm.config(args={"max_num_seqs": 2 * _PREFILL})  # the other requests are in its queue
    async with running_app({"r1": config}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        await start.looks(2)
        before = held()
        for number in range(3):
            clock.advance(61)  # so that the engine was steady, and this is no crash loop
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
            assert made.engine().requests.taken == 0
        assert await left_over(before) == {}


async def left_over(before: Counter) -> Counter:
    """What this process has more than before; waits up to a minute for kept connections to be closed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            await until(lambda: held() <= before)
    return held() - before


def held() -> Counter:
    """Count this process's open files by kind, its tasks by coroutine, and its children."""
    counted = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            # the pipe that an engine writes to has a unique name
            counted[str(file.readlink()).partition(":")[0].partition("tidegate-engine-")[0]] += 1
    for thread in Path("/proc/self/task").iterdir():
        counted["process"] += len((thread / "children").read_text().split())
    return counted
