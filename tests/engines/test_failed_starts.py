"""A real vLLM that cannot start: the reason and the cure are reported, and it is not restarted without end."""

import os
import re
import signal

import openai
import pytest

from tests.engines import cpu
from tests.engines.models.dialogues import SUM
from tests.engines.stage import running

_CURES = {
    "flag": r"vLLM refuses a flag, see the key args: .*--no-such-flag",
    "cache": r"a window of 2048 tokens needs .* of KV cache and .* are free: set max_model_len to \d+ or less",
    "window": r"max_model_len 999999 is more than the model's \d+: lower it",
    "weights": r"the model's folder has no weights, which are \*\.safetensors files: ",
}


@pytest.fixture(scope="module")
async def stage(vllm_python, smollm2, tiny_deepseek, tmp_path_factory):
    """Tidegate with five engines, started together because most take half a minute to fail."""
    folder = tmp_path_factory.mktemp("failing")
    bare = folder / "bare"
    bare.mkdir()
    for file in tiny_deepseek.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).symlink_to(file)
    engines = {
        "flag": cpu.engine(vllm_python, smollm2, args=cpu.ARGS | {"no_such_flag": 1}),
        "cache": cpu.engine(vllm_python, tiny_deepseek, args=cpu.ARGS | {"kv_cache_memory_bytes": "1M"}),
        "window": cpu.engine(vllm_python, smollm2, max_model_len=999_999),
        "weights": cpu.engine(vllm_python, bare),
        "loop": cpu.engine(vllm_python, smollm2),
    }
    async with running(engines, folder) as running_stage:
        yield running_stage


async def test_an_engine_that_crashes_again_and_again_is_not_started_again(stage):
    pauses = []
    while None not in pauses:
        await stage.line("loop", "engine starting")
        os.kill(stage.leader("loop"), signal.SIGKILL)
        pauses.append((await stage.line("loop", "engine down"))["restart_in_s"])
    assert pauses == [1, 2, 4, 8, None]
    status = await stage.until_state("loop", "failed")
    assert (status["restarts"], status["attempts"]) == (0, 5)
    assert status["reason"].endswith("(it is not started again by itself: tidegate engines start loop)")


@pytest.mark.parametrize("engine", _CURES)
async def test_a_permanent_error_is_reported_with_its_cure_and_not_retried(stage, engine):
    down = await stage.line(engine, "engine down")
    assert re.search(_CURES[engine], down["reason"])
    assert down["restart_in_s"] is None
    status = await stage.until_state(engine, "failed")
    message, _, _output = down["reason"].partition(": ")
    assert (status["reason"].startswith(message), status["attempts"]) == (True, 1)
    with pytest.raises(openai.InternalServerError) as caught:
        await stage.chat(engine, SUM)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
