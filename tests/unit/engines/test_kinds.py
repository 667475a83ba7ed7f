"""Every kind of managed engine in the config can be made."""

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


def test_every_kind_is_tested_here():
    assert {type(config) for config in CONFIGS} == set(get_args(ManagedConfig))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_each_kind_has_its_needs_paths_and_abilities(config):
    kind = make_kind("e", config, ())
    assert kind.needs() == GpuNeeds()
    assert (kind.health_path, kind.supports_tools, kind.model_card()) == ("/health", True, None)
    assert (kind.uses_port, kind.sleep_paths, kind.parses_thinking) == (False, None, False)


def test_only_engines_that_use_gpus_need_a_search_for_them():
    assert [uses_gpus(config) for config in CONFIGS] == [False, True, False]
    assert uses_gpus(CommandConfig(cmd=("x", "${PORT}"), gpus=(0,)))
