"""Fixtures of the tests with a real vLLM (`uv run pytest -m engines`); the first run installs vLLM and makes models."""

from pathlib import Path

import pytest

from tests.engines import checkpoints, cpu, environment
from tests.engines.adapter import write_adapter
from tests.engines.sessions import until_ended
from tests.engines.stage import running

# the limit for the test itself: a start takes half a minute on an idle machine and minutes on a busy one; the fixtures
# have their own limits for files that they make for the first time
_TEST_S = 1200


@pytest.hookimpl(tryfirst=True)  # before tests without the marker are deselected
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engines)
            item.add_marker(pytest.mark.timeout(_TEST_S, func_only=True))


@pytest.fixture(scope="session")
def vllm_python():
    """The Python that has vLLM's CPU build."""
    if (reason := environment.why_not()) is not None:
        pytest.skip(reason)
    return environment.make_python()


@pytest.fixture(scope="session")
def smollm2(vllm_python):
    return checkpoints.make_smollm2(vllm_python)


@pytest.fixture(scope="session")
def tiny_deepseek(vllm_python):
    """The tiny DeepSeek with the markup of R1 and V3."""
    return checkpoints.make_tiny_deepseek(vllm_python, "r1")


@pytest.fixture(scope="session")
def tiny_deepseek_v4(vllm_python):
    return checkpoints.make_tiny_deepseek(vllm_python, "v4")


@pytest.fixture(scope="session")
def adapter(smollm2, tmp_path_factory):
    """A LoRA adapter for SmolLM2 that changes its answers."""
    return write_adapter(tmp_path_factory.mktemp("adapter"), smollm2)


@pytest.fixture(scope="session")
async def stage(vllm_python, smollm2, tiny_deepseek, tiny_deepseek_v4, adapter, tmp_path_factory):
    """Tidegate and the engines `smollm2`, `r1` and `v4`, started together because a start takes half a minute.

    Requests to `r1` do not wait while it is not ready (`queue_timeout_s`). All three are ready before and after each
    test.
    """
    engines = {
        "smollm2": cpu.engine(vllm_python, smollm2, adapters={"odd": str(adapter)}, runtime_adapters=True),
        "r1": cpu.engine(vllm_python, tiny_deepseek, queue_timeout_s=0.1),
        "v4": cpu.engine(vllm_python, tiny_deepseek_v4, sleep_level=1),
    }
    async with running(engines, tmp_path_factory.mktemp("stage")) as running_stage:
        for engine in engines:
            print(f"{engine} ready after {await running_stage.ready(engine)} s, of three at once")
        yield running_stage
        left = [pid for engine in engines for pid in running_stage.processes(engine)]
        running_stage.process.terminate()
        assert await running_stage.process.wait() == 0
        await until_ended(*left)
