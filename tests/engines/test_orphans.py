"""A real vLLM whose Tidegate and warden were killed together: its core and workers overwrite their environment."""

import asyncio
import os
import signal

import pytest
from tidegate.engines.process.orphans import end_orphans

from tests.engines import cpu
from tests.engines.sessions import find, gone
from tests.engines.stage import running

_SHARED = "/dev/shm"


@pytest.fixture
async def stage(vllm_python, tiny_deepseek, tmp_path):
    """One engine, `many`, ready."""
    args = cpu.ARGS | {"distributed_executor_backend": "mp"}
    environment = cpu.ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    engine = cpu.engine(vllm_python, tiny_deepseek, args=args, environment=environment)
    async with running({"many": engine}, tmp_path) as made:
        await made.ready("many")
        yield made


def shared() -> set[str]:
    return {entry.name for entry in os.scandir(_SHARED) if entry.stat().st_uid == os.getuid()}


async def test_what_is_left_when_both_are_killed_is_ended_with_its_shared_memory(stage):
    made = shared()
    leader = stage.leader("many")
    server, core = find(leader, "vllm/server.py"), find(leader, "VLLM::EngineCore")
    for number in (signal.SIGSTOP, signal.SIGKILL):  # it would see the end of Tidegate before its own
        os.kill(leader, number)
        stage.process.send_signal(number)
    os.kill(server, signal.SIGKILL)  # it would end its core in an orderly way
    await stage.process.wait()
    await gone(leader, server)
    left = stage.processes("many")
    assert core in left
    ended = await asyncio.to_thread(end_orphans)
    assert core in {orphan.pid for orphan in ended if orphan.mark.name == "many"}
    await gone(*left)
    assert shared() < made
