"""`supervised`: a running supervisor with its statuses and its log."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from structlog.testing import CapturingLogger

from tidegate.clock import SystemClock
from tidegate.engines.factory import make_control
from tidegate.engines.gpus.allocator import GpuAllocator, GpuNeeds
from tidegate.engines.process import warden
from tidegate.engines.supervision.health_recheck import NO_ANSWER, REFUSED
from tidegate.engines.supervision.settings import Settings
from tidegate.engines.supervision.supervisor import Supervisor
from tidegate.errors import EngineUnavailable, UpstreamUnreachable
from tidegate.transport.wire import Timeouts, Transport

ALONE, LARGE = GpuNeeds(), GpuNeeds(awake={0: 0.9})
QUICK = Settings(backoff_s=0.001, poll_s=0.01, scrape_s=0.01, drain_timeout_s=60, queue_timeout_s=60)


TIMEOUTS = Timeouts(connect_s=60, first_byte_s=60, answer_s=60, idle_s=60)
FOUND_BEFORE_THE_END = (REFUSED, NO_ANSWER)


class States:
    """Collects every status of a supervisor, for tests that wait for a state."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue = asyncio.Queue()

    async def until(self, state: str):
        """Wait for the next status with that state; skips a failure that was found before the process has ended."""
        while (status := await self.seen.get()).state != state or status.reason in FOUND_BEFORE_THE_END:
            pass
        return status


def logged(log: CapturingLogger, event: str) -> list[dict]:
    return [call.kwargs for call in log.calls if call.args == (event,)]


@asynccontextmanager
async def supervised(kind, settings=QUICK, allocator=None, name="e", clock=None, needs=ALONE):
    states, log = States(), CapturingLogger()
    allocator = allocator or GpuAllocator()
    supervisor = Supervisor(
        name,
        kind,
        settings,
        allocator=allocator,
        clock=clock or SystemClock(),
        log=log,
        on_change=states.seen.put_nowait,
    )
    allocator.register(supervisor, needs)
    root, models = (
        Transport(url, timeouts=TIMEOUTS, socket_path=supervisor.socket_path)
        for url in ("http://engine", "http://engine/v1")
    )
    supervisor.open(make_control(name, models, root, kind.health_path, kind.metrics_path))
    try:
        yield supervisor, states, log
    finally:
        await supervisor.close()
        await root.close()
        await models.close()


async def message_for_callers(supervisor) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        await supervisor.acquire_slot(can_wait=False)
    return caught.value.message


def members(supervisor: Supervisor) -> list[int]:
    """The engine's own processes, without the warden."""
    leader = supervisor._child.pid
    return [] if leader is None else [pid for pid in warden._members(leader) if pid != leader]


def refused() -> UpstreamUnreachable:
    error = UpstreamUnreachable("refused")
    error.is_unconnected = True
    return error
