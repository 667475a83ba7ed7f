"""Configs that are not taken."""

import pytest
from tidegate.config.load import parse
from tidegate.errors import ConfigError

HOST = "base_url: https://api.example/v1"


def refusal(text: str, source: str = "tidegate.yaml") -> str:
    """What is said of a text; it must be refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, source)
    return caught.value.message
