"""The table of all dialects by name."""

from typing import get_args

import pytest

from tidegate.config.upstreams import DialectName
from tidegate.dialects.base import Dialect
from tidegate.dialects.registry import DIALECTS


def test_the_config_and_the_registry_name_the_same_dialects():
    assert sorted(DIALECTS) == sorted(get_args(DialectName))


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_every_dialect_has_its_own_name_and_serves_chat(name):
    assert isinstance(DIALECTS[name], Dialect)
    assert DIALECTS[name].name == name
    assert DIALECTS[name].path("chat", "m").endswith("/chat/completions")


@pytest.mark.parametrize("name", ["vllm", "sglang", "llamacpp", "llama_cpp_python", "ollama", "tgi", "generic"])
def test_idle_connections_to_engines_are_closed_before_the_engine_closes_them(name):
    """Both uvicorn and cpp-httplib close after 5 s (contract row 58)."""
    assert DIALECTS[name].keepalive_s < 5
