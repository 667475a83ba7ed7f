"""A real vLLM of four processes: server, engine core, worker, and Python's resource tracker."""

import os
import signal
import time

import pytest

from tests.engines import cpu
from tests.engines.crash import crash
from tests.engines.models.dialogues import SUM, expected_answer
from tests.engines.sessions import find, until_ended
from tests.engines.stage import running

_CORE, _WORKER = "VLLM::EngineCore", "VLLM::Worker"


@pytest.fixture(scope="module")
async def stage(vllm_python, tiny_deepseek, tmp_path_factory):
    """Tidegate with the engine `many`, which has several processes; the engine is ready."""
    args = cpu.ARGS | {"distributed_executor_backend": "mp"}
    environment = cpu.ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    engine = cpu.engine(vllm_python, tiny_deepseek, args=args, environment=environment, queue_timeout_s=600)
    async with running({"many": engine}, tmp_path_factory.mktemp("many")) as running_stage:
        await running_stage.ready("many")
        yield running_stage


async def test_a_killed_worker_ends_the_engine_which_then_restarts(stage):
    await crash(stage, "many", _WORKER)
    assert (await stage.chat("many", SUM)).choices[0].message.content == expected_answer(SUM).content


async def test_an_idle_engine_whose_core_is_killed_fails_at_once_and_the_next_request_waits_for_the_restart(stage):
    """The failure is noticed before the server's process ends, which takes about five seconds."""
    old, killed_s = stage.processes("many"), time.perf_counter()
    os.kill(find(stage.leader("many"), _CORE), signal.SIGKILL)
    await stage.until_state("many", "failed")
    print(f"failed {time.perf_counter() - killed_s:.1f} s after the end of its core")
    assert (await stage.chat("many", SUM)).choices[0].message.content == expected_answer(SUM).content
    print(f"answered {time.perf_counter() - killed_s:.1f} s after the end of its core")
    await stage.line("many", "engine failed")
    print((await stage.line("many", "engine down"))["reason"])
    await until_ended(*old)
    await stage.ready("many")


async def test_nothing_is_left_when_tidegate_is_killed(stage):
    """The last test of this stage."""
    left = stage.processes("many")
    assert find(stage.leader("many"), _WORKER) in left
    stage.process.kill()
    await until_ended(*left)
    assert not stage.processes("many")
