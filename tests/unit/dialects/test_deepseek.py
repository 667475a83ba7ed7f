"""api.deepseek.com (contract B.1)."""

import json

import pytest

from tidegate.dialects.deepseek import DIALECT
from tidegate.errors import UnsupportedParameter, UpstreamLacksOperation
from tidegate.protocol import chat

USER = {"role": "user", "content": "hi"}


def build(**fields):
    request = chat.parse_request(json.dumps({"model": "m", "messages": [USER]} | fields).encode())
    return json.loads(DIALECT.build_request(request, model="deepseek-flash", is_stream=False).body)


@pytest.mark.parametrize(
    ("effort", "sent"),
    [
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "high"),
        ("high", "high"),
        ("xhigh", "high"),
        ("max", "max"),
        ("ultra", "max"),
    ],
)
def test_effort_has_three_values(effort, sent):
    body = build(reasoning_effort=effort)
    assert body["reasoning_effort"] == sent
    assert "thinking" not in body


def test_the_effort_none_switches_thinking_off():
    """Thinking is on by default, and DeepSeek does not support the effort `none` (rows 1 and 2)."""
    body = build(reasoning_effort="none")
    assert body["thinking"] == {"type": "disabled"}
    assert "reasoning_effort" not in body


def test_deepseeks_own_switch_is_sent_unchanged():
    assert build(thinking={"type": "enabled"})["thinking"] == {"type": "enabled"}


def test_the_limit_is_sent_under_its_older_name():
    """`max_completion_tokens` would be ignored without an error (row 3)."""
    body = build(max_completion_tokens=5)
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body


def test_messages_are_adapted():
    """DeepSeek answers 400 to `developer` and to arrays of text (rows 5 and 6); reasoning is sent back (row 10)."""
    assert build(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
            {"role": "assistant", "content": "a", "reasoning": "hm"},
        ]
    )["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
    ]


def test_hints_are_dropped():
    hints = {
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "prompt_cache_key": "k",
        "seed": 1,
        "service_tier": "auto",
        "store": True,
        "verbosity": "low",
        "n": 1,
        "logit_bias": {},
    }
    assert set(build(**hints)) == {"model", "messages"}


@pytest.mark.parametrize("fields", [{"logit_bias": {"1": 5}}, {"audio": {"voice": "x"}}, {"n": 2}])
def test_unsupported_fields_are_refused(fields):
    """DeepSeek would ignore them without an error, so the answer would not be the requested one (row 14)."""
    with pytest.raises(UnsupportedParameter) as caught:
        build(**fields)
    assert caught.value.param == next(iter(fields))


def test_completions_have_the_beta_path_and_embeddings_none():
    assert DIALECT.path("completions", "m") == "/beta/completions"
    with pytest.raises(UpstreamLacksOperation):
        DIALECT.path("embeddings", "m")
