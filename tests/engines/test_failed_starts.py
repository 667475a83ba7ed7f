"""A real vLLM that cannot start: why and the cure are told, and it is not started over and over."""

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
    """All at once, since most take half a minute to fail."""
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
    async with running(engines, folder) as made:
        yield made


async def test_an_engine_that_crashes_again_and_again_is_given_up(stage):
    pauses = []
    while None not in pauses:
        await stage.line("loop", "engine starting")
        os.kill(stage.leader("loop"), signal.SIGKILL)
        pauses.append((await stage.line("loop", "engine down"))["restart_in_s"])
    assert pauses == [1, 2, 4, 8, None]
    status = await stage.told("loop", "failed")
    assert (status["restarts"], status["attempts"]) == (0, 5)
    assert status["reason"].endswith("(it is not started again by itself: tidegate engines start loop)")


@pytest.mark.parametrize("engine", _CURES)
async def test_what_another_start_would_meet_again_is_told_with_its_cure_and_not_tried_again(stage, engine):
    down = await stage.line(engine, "engine down")
    assert re.search(_CURES[engine], down["reason"])
    assert down["restart_in_s"] is None
    status = await stage.told(engine, "failed")
    ours, _, _output = down["reason"].partition(": ")
    assert (status["reason"].startswith(ours), status["attempts"]) == (True, 1)
    with pytest.raises(openai.InternalServerError) as caught:
        await stage.say(engine, SUM)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
