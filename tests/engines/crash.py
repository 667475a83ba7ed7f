"""Kills a process of a real vLLM while requests run."""

import asyncio
import os
import signal
import time

import openai
import pytest

from tests.engines.models.dialogues import STORY
from tests.engines.sessions import find, until_ended
from tests.engines.stage import ENDLESS, Stage

_CODES = {"vllm/server.py": "upstream_unreachable"}  # if another process dies, the server still answers
_REASONS = {
    "vllm/server.py": "it was killed (SIGKILL)",
    "VLLM::EngineCore": "its core was ended by a signal",
    "VLLM::Worker": "one of its workers ",
}


async def crash(stage: Stage, engine: str, victim: str) -> None:
    """Kill one of the engine's processes while requests run, and wait until the engine is ready again.

    The callers get an error, and no process of the old engine is left.
    """
    await stage.chat(engine, STORY, max_tokens=1)  # warm-up, so that the concurrent requests below begin together
    whole = asyncio.create_task(stage.chat(engine, STORY, **ENDLESS))
    streams = await asyncio.gather(*(stage.chat(engine, STORY, stream=True, **ENDLESS) for _ in range(3)))
    old, killed_s = stage.processes(engine), time.perf_counter()
    os.kill(find(stage.leader(engine), victim), signal.SIGKILL)
    for stream in streams:
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
        assert (caught.value.type, caught.value.code) == ("upstream_error", _CODES.get(victim, "upstream_failed"))
    with pytest.raises(openai.InternalServerError):
        await whole
    down = await stage.line(engine, "engine down")
    assert _REASONS[victim] in down["reason"]
    await until_ended(*old)
    await stage.ready(engine)
    print(f"ready {time.perf_counter() - killed_s:.1f} s after the end of {victim}")
