"""Kill -9 of an engine under fifty streaming callers, twenty times, with a second target beside it."""

import asyncio
import json
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.upstream import streams
from tests.fakes.vllm_engine import gone, house, until
from tests.fakes.wire import text_stream

_ROUNDS = 20
_READING, _READING_RAW, _PREFILL, _QUEUED = 15, 10, 10, 15
_ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
_HOST = text_stream("from ", "the ", "host")


@pytest.mark.timeout(180)
async def test_an_engine_is_killed_under_its_callers_and_all_are_served_or_told(vllm, upstream):
    """Those without a token yet get their whole answer from the host, the others one error, and the engine is back.

    The engine itself is killed, its core (of which it tells, in vLLM's orderly way), or our warden, by turns.
    """
    upstream.play(streams(*_HOST))
    vllm.habits = ["holds"]
    clock = FakeClock()
    config = vllm.config(args={"max_num_seqs": _READING + _READING_RAW + _PREFILL})
    async with house({"r1": config}, upstream=upstream, clock=clock) as made:
        start = await vllm.next_start()
        await made.until("ready")
        before = held()
        for number in range(1, _ROUNDS + 1):
            clock.advance(61)  # so that it was steady, and this is no crash loop
            await start.looks(2)
            async with aiohttp.ClientSession() as session, made.another_client() as client:
                victim = (start.pid, await start.core(), made.engine()._process.pid)[number % 3]
                code = "upstream_failed" if number % 3 == 1 else "upstream_unreachable"
                await one_round(Callers(made.url, client, session), start, victim, code)
            await gone(start.pid, await start.core())
            start = await vllm.next_start()
            await made.until("ready")
            assert made.engine().status.restarts == number
            assert made.engine().places.taken == 0
        assert await left_over(before) == {}
        assert len(upstream.calls) == _ROUNDS * (_PREFILL + _QUEUED)
        start.steps()
        assert (await made.ask()).choices[0].message.content == "w3 w4 w5 w6 "


class Callers:
    """They read the same stream through the SDK, or as it is."""

    def __init__(self, url: str, client: openai.AsyncOpenAI, session: aiohttp.ClientSession) -> None:
        self.reading = asyncio.Semaphore(0)  # released by each who has got the third token
        self._url = url
        self._client = client
        self._session = session

    async def read(self) -> str:
        """All that a caller is told; of an error its code."""
        told = ""
        try:
            async for chunk in await self._client.chat.completions.create(**_ASK):
                delta = chunk.choices[0].delta
                told += delta.content or getattr(delta, "reasoning_content", None) or ""
                if told.endswith("w3 "):
                    self.reading.release()
        except openai.APIError as error:
            told += str(error.code)
        return told.rstrip()

    async def read_raw(self) -> bytes:
        """The bytes of it."""
        async with self._session.post(f"{self._url}/v1/chat/completions", json=_ASK) as response:
            begun = await response.content.readuntil(b"w3 ")
            self.reading.release()
            return begun + await response.content.read()


async def one_round(callers: Callers, start, victim: int, code: str) -> None:
    """Some read already, some are in prefill, some queue; then the engine is no more."""
    readers = [asyncio.create_task(callers.read()) for _ in range(_READING)]
    raw = [asyncio.create_task(callers.read_raw()) for _ in range(_READING_RAW)]
    await start.until("came", len(readers + raw))
    start.steps(3)
    for _ in readers + raw:
        await callers.reading.acquire()
    later = [asyncio.create_task(callers.read()) for _ in range(_PREFILL + _QUEUED)]
    await start.until("came", len(readers + raw + later))
    os.kill(victim, signal.SIGKILL)
    assert Counter(await asyncio.gather(*later)) == {"from the host": len(later)}
    assert Counter(await asyncio.gather(*readers)) == {f"t1 t2 w3 {code}": len(readers)}
    for body in await asyncio.gather(*raw):
        *events, error, done, rest = body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == code
        assert not any('"error"' in event or '"finish_reason":"' in event for event in events)


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
