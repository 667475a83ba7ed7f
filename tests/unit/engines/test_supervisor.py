"""The supervisor, with real child processes that behave as they are told."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.engines.base import EngineError
from proxy.engines.supervisor import Supervisor
from proxy.errors import EngineUnavailable
from proxy.transport import Timeouts, Transport
from tests.fakes.engine import FakeKind


class Log:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict]] = []

    def info(self, event: str, **fields) -> None:
        self.lines.append((event, fields))

    error = info


class States:
    """Every status, waited for."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue = asyncio.Queue()

    async def until(self, state: str):
        while (status := await self.seen.get()).state != state:
            pass
        return status


@asynccontextmanager
async def supervised(kind, *, stop_s: float = 5):
    states, log = States(), Log()
    supervisor = Supervisor("e", kind, log, on_change=states.seen.put_nowait, backoff_s=0, stop_s=stop_s)
    timeouts = Timeouts(connect_s=5, first_byte_s=5, answer_s=5, idle_s=5)
    transport = Transport("http://engine", timeouts=timeouts, socket_path=supervisor.socket_path)

    async def probe() -> bool:
        try:
            await transport.get(kind.health_path)
        except Exception:  # noqa: BLE001 - any failure means "not yet"
            return False
        return True

    supervisor.start(probe)
    try:
        yield supervisor, states, log
    finally:
        await supervisor.stop()
        await transport.close()


async def test_an_engine_becomes_ready_by_its_own_health():
    async with supervised(FakeKind("well")) as (supervisor, states, _):
        with pytest.raises(EngineUnavailable, match="not ready"):
            supervisor.check_ready()
        await states.until("ready")
        supervisor.check_ready()


async def test_an_engine_that_cannot_start_says_why_in_its_own_words_and_is_tried_again():
    async with supervised(FakeKind("broken", "well")) as (supervisor, states, log):
        status = await states.until("restarting")
        assert status.reason == "it ended with status 3; 0.0 E srv: cannot open the tensor file"
        assert ("engine down", {"engine": "e", "reason": status.reason, "restart_in_s": 0}) in log.lines
        assert (await states.until("ready")).restarts == 1
        supervisor.check_ready()


async def test_an_engine_that_dies_is_started_again():
    async with supervised(FakeKind("dies", "well")) as (_, states, _log):
        await states.until("ready")
        assert (await states.until("restarting")).reason == "it ended with status 9; out of memory"
        await states.until("ready")


async def test_an_engine_that_never_answers_is_given_up():
    async with supervised(FakeKind("silent", start_timeout_s=0.2)) as (supervisor, states, _):
        assert "no answer in 0.2 s" in (await states.until("restarting")).reason
        with pytest.raises(EngineUnavailable):
            supervisor.check_ready()


async def test_a_model_that_is_not_there_is_a_reason_and_no_crash():
    class Missing(FakeKind):
        def command(self, socket_path):
            raise EngineError("the model file x.gguf does not exist")

    async with supervised(Missing("well")) as (_, states, _log):
        assert (await states.until("restarting")).reason == "the model file x.gguf does not exist"


async def test_each_pause_before_a_restart_is_longer_than_the_one_before():
    states, log = States(), Log()
    supervisor = Supervisor("e", FakeKind("broken"), log, on_change=states.seen.put_nowait, backoff_s=0.001)

    async def probe() -> bool:
        return False

    supervisor.start(probe)
    for _ in range(3):
        await states.until("restarting")
    await supervisor.stop()
    pauses = [fields["restart_in_s"] for event, fields in log.lines if event == "engine down"]
    assert pauses[:3] == [0.001, 0.002, 0.004]


async def test_stop_ends_the_process_and_leaves_nothing_behind():
    async with supervised(FakeKind("well")) as (supervisor, states, log):
        await states.until("ready")
        pid = next(fields["pid"] for event, fields in log.lines if event == "engine ready")
        directory = Path(supervisor.socket_path).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        await supervisor.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert not directory.exists()
        assert supervisor.status.state == "stopped"


async def test_an_engine_that_ignores_the_request_to_stop_is_killed():
    async with supervised(FakeKind("stubborn"), stop_s=0.1) as (supervisor, states, log):
        await states.until("ready")
        pid = next(fields["pid"] for event, fields in log.lines if event == "engine ready")
        await supervisor.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
