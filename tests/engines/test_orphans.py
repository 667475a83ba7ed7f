"""A real vLLM whose Tidegate and warden were killed together.

The mark by which its processes are found must survive that vLLM's core and workers overwrite their environment.
"""

import asyncio
import os
import signal

import pytest

from tests.engines import cpu
from tests.engines.sessions import find, until_ended
from tests.engines.stage import running
from tidegate.engines.process.orphans import kill_orphans_blocking

_SHARED = "/dev/shm"


@pytest.fixture
async def stage(vllm_python, tiny_deepseek, tmp_path):
    """Tidegate with the engine `many`, which has several processes; the engine is ready."""
    args = cpu.ARGS | {"distributed_executor_backend": "mp"}
    environment = cpu.ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    engine = cpu.engine(vllm_python, tiny_deepseek, args=args, environment=environment)
    async with running({"many": engine}, tmp_path) as running_stage:
        await running_stage.ready("many")
        yield running_stage


def shared() -> set[str]:
    return {entry.name for entry in os.scandir(_SHARED) if entry.stat().st_uid == os.getuid()}


async def test_processes_left_by_a_killed_tidegate_and_warden_are_ended_with_their_shared_memory(stage):
    before = shared()
    leader = stage.leader("many")
    server, core = find(leader, "vllm/server.py"), find(leader, "VLLM::EngineCore")
    for number in (
        signal.SIGSTOP,
        signal.SIGKILL,
    ):  # stopped first, so that the warden does not notice the end of Tidegate
        os.kill(leader, number)
        stage.process.send_signal(number)
    os.kill(server, signal.SIGKILL)  # on any other signal it would end its core itself
    await stage.process.wait()
    await until_ended(leader, server)
    left = stage.processes("many")
    assert core in left
    ended = await asyncio.to_thread(kill_orphans_blocking)
    assert core in {orphan.pid for orphan in ended if orphan.mark.name == "many"}
    await until_ended(*left)
    assert shared() < before
