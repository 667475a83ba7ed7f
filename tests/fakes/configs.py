"""Configs that are refused."""

import pytest

from tidegate.config.load import parse
from tidegate.errors import ConfigError

HOST = "base_url: https://api.example/v1"


def refusal(text: str, source: str = "tidegate.yaml") -> str:
    """The message of the `ConfigError` for a config text, which must be refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, source)
    return caught.value.message
