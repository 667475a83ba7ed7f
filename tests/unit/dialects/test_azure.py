"""Azure OpenAI: OpenAI's API at other URLs."""

import json

import pytest

from tidegate.dialects.azure import DIALECT
from tidegate.protocol import chat


@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("api_version", "sent"),
    [
        (None, "max_completion_tokens"),
        ("2025-04-01-preview", "max_completion_tokens"),
        ("2024-10-21", "max_completion_tokens"),
        ("2024-09-01-preview", "max_completion_tokens"),
        ("2024-06-01", "max_tokens"),
        ("2023-05-15", "max_tokens"),
    ],
)
def test_the_limit_has_the_name_of_the_api_version(given, api_version, sent):
    """Reasoning models refuse the older name."""
    fields = {"model": "m", "messages": [{"role": "user", "content": "hi"}], given: 5}
    request = chat.parse_request(json.dumps(fields).encode())
    body = json.loads(DIALECT.build_request(request, model="m", is_stream=False, api_version=api_version).body)
    assert {name: value for name, value in body.items() if "tokens" in name} == {sent: 5}
