"""vLLM's OpenAI server (contract B.2)."""

import json

import pytest

from proxy.dialects.vllm import DIALECT
from proxy.protocol import chat

USER = {"role": "user", "content": "hi"}


def build(**fields):
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())
    body = json.loads(DIALECT.build_request(request, model="m", is_stream=False))
    del body["model"], body["messages"]
    return body


OFF = {"thinking": False, "enable_thinking": False}
ON = {"thinking": True, "enable_thinking": True}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"reasoning_effort": "none"}, {"chat_template_kwargs": OFF}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": OFF}),
        ({"thinking": {"type": "enabled"}}, {"chat_template_kwargs": ON}),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, {"chat_template_kwargs": OFF}),
        (
            {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
            {"chat_template_kwargs": ON, "reasoning_effort": "max"},
        ),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "medium"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "xhigh"}),
        ({"chat_template_kwargs": {"thinking": True}}, {"chat_template_kwargs": {"thinking": True}}),
        (
            {"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "none"},
            {"chat_template_kwargs": {"thinking": True, "enable_thinking": False}},
        ),
    ],
)
def test_thinking_is_switched_in_the_template(fields, sent):
    """`thinking` does nothing there (row 54); V4.1 answers 400 to some efforts (row 63)."""
    assert build(**fields) == sent


def test_past_reasoning_goes_back_as_reasoning():
    """Row 34."""
    messages = [USER, {"role": "assistant", "content": "a", "reasoning_content": "hm"}, USER]
    request = chat.parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    sent = json.loads(DIALECT.build_request(request, model="m", is_stream=False))["messages"]
    assert sent[1] == {"role": "assistant", "content": "a", "reasoning": "hm"}


def test_either_limit_is_fine():
    assert build(max_completion_tokens=5) == {"max_completion_tokens": 5}
    assert build(max_tokens=5) == {"max_tokens": 5}
