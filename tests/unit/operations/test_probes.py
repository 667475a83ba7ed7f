"""`TargetProber`: probes go on, whatever goes wrong with one of them."""

import asyncio

import pytest
from structlog.testing import CapturingLogger

from tests.fakes.clock import FakeClock
from tidegate.config.routing import HealthConfig
from tidegate.dialects.generic import DIALECT
from tidegate.errors import UpstreamUnreachable
from tidegate.operations.probes import TargetProber
from tidegate.pipeline.upstream import ServingState, Upstream, Upstreams
from tidegate.reasoning_memory import ProcessReasoningMemory
from tidegate.routing.offline import Offline
from tidegate.routing.quality import Qualities
from tidegate.routing.target_registry import TargetRegistry
from tidegate.routing.targets import Target


class FakeTransport:
    """Records the paths of requests, and raises `failure` for each of them."""

    secrets = ()
    has_cooldowns = False

    def __init__(self) -> None:
        self.paths = asyncio.Queue()
        self.failure: Exception = ValueError("a fault of ours")

    async def get(self, path: str) -> bytes:
        self.paths.put_nowait(path)
        raise self.failure

    async def post(self, path: str, _body: bytes, **_how):
        self.paths.put_nowait(path)
        raise self.failure


class Stage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.transport = FakeTransport()
        self.log = CapturingLogger()
        self.offline = Offline(self.clock, forced=False, names=["host"])
        config = HealthConfig()
        self.serving = ServingState(
            upstreams=Upstreams({"host": Upstream(name="host", dialect=DIALECT, transport=self.transport)}),
            concurrency={},
            target_registry=TargetRegistry(self.clock, config),
            offline=self.offline,
            qualities=Qualities(self.clock),
            reasoning_memory=ProcessReasoningMemory(self.clock),
        )
        self.prober = TargetProber(self.serving, config=config, clock=self.clock, log=self.log, check_every_s=0)

    def logged(self, event: str) -> list[str]:
        return [call.method_name for call in self.log.calls if call.args == (event,)]


@pytest.fixture
async def stage():
    stage = Stage()
    yield stage
    await stage.prober.close()


async def test_a_failed_check_is_logged_and_checking_goes_on(stage):
    """Otherwise no target that is out of order would ever come back."""
    checks = asyncio.Queue()

    def fail() -> tuple:
        checks.put_nowait(None)
        raise ValueError("a fault of ours")

    stage.offline.due_probes = fail
    stage.prober.open()
    for _ in range(3):
        await checks.get()
    assert stage.logged("probing failed")[:2] == ["exception", "exception"]


async def test_a_probe_that_raises_is_logged_and_repeated(stage):
    for _ in range(3):
        stage.offline.report_unreachable("host")
    stage.prober.open()
    for number in range(1, 4):
        stage.clock.advance(60)
        assert await stage.transport.paths.get() == "/models"
        while len(stage.logged("probe failed")) < number:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
    stage.transport.failure = UpstreamUnreachable("refused")


async def test_a_target_that_cannot_be_probed_stays_out_until_its_next_turn(stage):
    """An unexpected exception counts as a failed probe, so that it is not repeated at every check."""
    target = Target(upstream="host", model="there")
    stage.serving.target_registry.set_configured([target])
    stats = stage.serving.target_registry.stats_of(target)
    for _ in range(20):
        stats.health.failed(stats.health.enter(in_panic=True))
    stage.clock.advance(3600)
    assert stats.health.needs_probe()
    await stage.prober.probe_now()
    assert stage.logged("probe failed") == ["exception"]
    assert not stats.health.needs_probe()
    assert stats.health.enter() is None
