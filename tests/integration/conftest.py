"""Fixtures for the tests on real sockets."""

import pytest

from tests.fakes import proxy, scenarios
from tests.fakes.upstream import ScenarioUpstream
from tests.fakes.vllm_engine import EngineFiles, FakeVllm, make_environment


@pytest.fixture
async def upstream():
    """An upstream that sends scripted bytes."""
    async with ScenarioUpstream().running() as running:
        yield running


@pytest.fixture
def config(upstream):
    """A config with one model, `m`, at the scenario upstream."""
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
    """`tidegate serve` as a process without any config, when its embedded engine with a real model is ready."""
    async with proxy.process() as running:
        await running.line("engine ready")
        yield running


@pytest.fixture(scope="session")
async def stage():
    """Tidegate in front of one fake upstream for each dialect; they send what the scenarios contain."""
    async with scenarios.playing(scenarios.read_book().scenarios) as running:
        yield running


@pytest.fixture(scope="session")
def vllm_python(tmp_path_factory):
    """A Python environment with a fake vLLM."""
    return make_environment(tmp_path_factory.mktemp("vllm") / "venv")


@pytest.fixture
async def vllm(tmp_path, vllm_python):
    """A fake vLLM engine, `r1`."""
    async with FakeVllm("r1", EngineFiles(tmp_path, vllm_python)).listening() as fake:
        yield fake


@pytest.fixture
async def other(vllm):
    """A second fake vLLM engine, `v3`."""
    async with FakeVllm("v3", vllm.home).listening() as fake:
        yield fake
