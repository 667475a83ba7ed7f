"""Every kind that the config knows can be made."""

import sys
from typing import get_args

import pytest
from tidegate.config.engines import CommandConfig, LlamaCppConfig, ManagedConfig, VllmConfig
from tidegate.engines.gpus.allocator import GpuNeeds
from tidegate.engines.kinds import make_kind, uses_gpus

CONFIGS = [
    LlamaCppConfig(model="/nowhere.gguf"),
    VllmConfig(model="m", python=sys.executable),
    CommandConfig(cmd=(sys.executable, "${SOCKET}")),
]


def test_no_kind_is_forgotten():
    assert {type(config) for config in CONFIGS} == set(get_args(ManagedConfig))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_each_says_what_it_takes_and_how_it_is_asked(config):
    kind = make_kind("e", config, ())
    assert kind.needs() == GpuNeeds()
    assert (kind.health_path, kind.knows_tools, kind.model_card()) == ("/health", True, None)
    assert (kind.uses_port, kind.sleep_paths, kind.parses_thinking) == (False, None, False)


def test_gpus_are_looked_for_where_it_matters():
    assert [uses_gpus(config) for config in CONFIGS] == [False, True, False]
    assert uses_gpus(CommandConfig(cmd=("x", "${PORT}"), gpus=(0,)))
