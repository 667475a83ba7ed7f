"""Commands that run before and after the load of an engine; they are real processes."""

import asyncio
import os
import sys

import pytest
from structlog.testing import CapturingLogger

from tests.fakes.processes import gone
from tidegate.config.hooks import HooksConfig
from tidegate.engines.base import EngineError, PermanentEngineError
from tidegate.engines.supervision.hooks import Hooks, refusal

LEAVES_CHILD = "import subprocess, os; print(subprocess.Popen(['sleep', '1000000']).pid, file=open({path!r}, 'w'))"


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


@pytest.fixture
def log():
    return CapturingLogger()


@pytest.fixture
async def hooks(log):
    created = Hooks("r1", log)
    yield created
    await created.end()


async def read_when_there(path) -> str:
    while not (path.exists() and path.read_text()):  # noqa: ASYNC110 - nothing reports it
        await asyncio.sleep(0.01)
    return path.read_text()


@pytest.mark.parametrize("is_text", [True, False])
async def test_a_hook_gets_the_engines_name_and_runs_without_a_shell(hooks, tmp_path, is_text):
    script = tmp_path / "hook.py"
    script.write_text(f"import os, sys; open({str(tmp_path / 'seen')!r}, 'w').write(repr((os.environ, sys.argv[1:])))")
    command = f"{sys.executable} {script} 'a b' $HOME" if is_text else (sys.executable, str(script), "a b", "$HOME")
    await hooks.before_load(HooksConfig(before_load=command))
    seen = (tmp_path / "seen").read_text()
    assert "'TIDEGATE_ENGINE': 'r1'" in seen
    assert seen.endswith("['a b', '$HOME'])")


async def test_a_failure_is_reported_with_the_hooks_last_line(hooks):
    with pytest.raises(EngineError, match=r"^hooks\.before_load ended with status 3: the disk is full$") as caught:
        await hooks.before_load(HooksConfig(before_load=python("print('the disk is full'); raise SystemExit(3)")))
    assert caught.value.message == "hooks.before_load ended with status 3"  # what callers see


async def test_a_hook_that_takes_too_long_is_ended_with_its_children(hooks, tmp_path):
    path = tmp_path / "child"
    code = LEAVES_CHILD.format(path=str(path)) + "; import time; time.sleep(1000000)"
    with pytest.raises(EngineError, match=r"^hooks\.before_load did not end within 1 s \(hooks\.timeout_s\)$"):
        await hooks.before_load(HooksConfig(before_load=python(code), timeout_s=1))
    if path.exists():  # on a slow machine the time was over before the child was started
        await gone(int(path.read_text()))


async def test_processes_that_a_hook_leaves_are_ended_with_it(hooks, tmp_path):
    path = tmp_path / "child"
    await hooks.before_load(HooksConfig(before_load=python(LEAVES_CHILD.format(path=str(path)))))
    await gone(int(path.read_text()))


async def test_a_hook_that_still_runs_is_ended_with_the_engine(hooks, tmp_path):
    path = tmp_path / "child"
    code = LEAVES_CHILD.format(path=str(path)) + "; import time; time.sleep(1000000)"
    hooks.after_load(HooksConfig(after_load=python(code)))
    child = int(await read_when_there(path))
    await hooks.end()
    await gone(child)


async def test_a_hook_that_is_cancelled_is_ended(hooks, tmp_path):
    path = tmp_path / "hook"
    code = f"import os, time; print(os.getpid(), file=open({str(path)!r}, 'w')); time.sleep(1000000)"
    running = asyncio.create_task(hooks.before_load(HooksConfig(before_load=python(code))))
    pid = int(await read_when_there(path))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await gone(pid)


async def test_a_failure_after_the_load_is_logged_and_nothing_else(hooks, log):
    hooks.after_load(HooksConfig(after_load=python("raise SystemExit(4)")))
    await hooks._after
    [call] = log.calls
    assert (call.method_name, call.args) == ("warning", ("hook failed",))
    assert call.kwargs == {"engine": "r1", "reason": "hooks.after_load ended with status 4"}


async def test_a_missing_program_is_reported_before_and_at_the_start(hooks):
    config = HooksConfig(after_load="/nowhere/hook --now")
    assert refusal(config) == "hooks.after_load: there is no program /nowhere/hook on this machine"
    with pytest.raises(PermanentEngineError, match="there is no program /nowhere/hook"):
        await hooks.before_load(HooksConfig(before_load="/nowhere/hook"))
    assert refusal(HooksConfig(before_load=(sys.executable,), after_load=f"{sys.executable} -V")) is None


async def test_without_hooks_nothing_runs(hooks):
    await hooks.before_load(HooksConfig())
    hooks.after_load(HooksConfig())
    assert (hooks._after, refusal(HooksConfig())) == (None, None)
    assert os.environ.get("TIDEGATE_ENGINE") is None
