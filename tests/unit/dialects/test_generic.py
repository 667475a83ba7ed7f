"""A host without a dialect of its own: every field in its simplest form."""

import json

from tidegate.dialects.generic import DIALECT
from tidegate.protocol import chat


def test_messages_are_adapted():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "reasoning": "hm"},
    ]
    request = chat.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    assert json.loads(DIALECT.build_request(request, model="m", is_stream=False).body)["messages"] == [
        {"role": "system", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm"},
    ]
