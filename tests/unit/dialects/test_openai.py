"""api.openai.com: the reference."""

import json

from tidegate.dialects.openai import DIALECT
from tidegate.protocol import chat


def test_a_request_in_openais_form_stays_unchanged():
    fields = {
        "model": "public",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}]},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
        ],
        "max_completion_tokens": 5,
        "reasoning_effort": "minimal",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "logit_bias": {"1": -100},
    }
    request = chat.parse_request(json.dumps(fields).encode())
    assert json.loads(DIALECT.build_request(request, model="gpt", is_stream=False).body) == fields | {"model": "gpt"}


def test_reasoning_is_not_sent_back():
    """OpenAI has no such field."""
    messages = [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    request = chat.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    sent = json.loads(DIALECT.build_request(request, model="gpt", is_stream=False).body)["messages"]
    assert sent == [{"role": "assistant", "content": "a"}]
