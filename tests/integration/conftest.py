"""Fixtures of the tests on real sockets."""

import pytest

from tests.fakes import proxy, scenarios
from tests.fakes.upstream import ScenarioUpstream
from tests.fakes.vllm_engine import FakeVllm, Home, make_environment


@pytest.fixture
async def upstream():
    """A host that plays scripted bytes."""
    async with ScenarioUpstream().running() as running:
        yield running


@pytest.fixture
def config(upstream):
    """One model, `m`, at the scenario upstream."""
    return f"""
server: {{shutdown_grace_s: 60}}
upstreams: {{host: {{base_url: "{upstream.url}", api_keys: [], first_byte_timeout_s: 30}}}}
models: {{m: {{targets: [{{upstream: host, model: there}}]}}}}
"""


@pytest.fixture
async def url(config):
    """Tidegate in this process, in front of the scenario upstream."""
    async with proxy.serving(config) as address:
        yield address


@pytest.fixture(scope="session")
async def live():
    """`tidegate serve` as a process with nothing set: the embedded engine and its real model, ready."""
    async with proxy.process() as running:
        await running.line("engine ready")
        yield running


@pytest.fixture(scope="session")
async def stage():
    """Tidegate in front of every host at once, which play the scenarios."""
    async with scenarios.playing(scenarios.read_book().scenarios) as running:
        yield running


@pytest.fixture(scope="session")
def vllm_python(tmp_path_factory):
    """A Python whose vLLM is ours."""
    return make_environment(tmp_path_factory.mktemp("vllm") / "venv")


@pytest.fixture
async def vllm(tmp_path, vllm_python):
    """An engine, `r1`."""
    async with FakeVllm("r1", Home(tmp_path, vllm_python)).listening() as fake:
        yield fake


@pytest.fixture
async def other(vllm):
    """A second engine, `v3`."""
    async with FakeVllm("v3", vllm.home).listening() as fake:
        yield fake
